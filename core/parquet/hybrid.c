#include "hybrid.h"

struct hybrid hybrid_from(const uint8_t *bytes, size_t size, unsigned width)
{
    return (struct hybrid){.at = bytes, .end = bytes + size, .width = width};
}

static bool varint(struct hybrid *h, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; shift < 35; shift += 7) {
        if (h->at == h->end)
            return false;
        uint8_t b = *h->at++;
        *out |= (uint64_t)(b & 0x7FU) << shift;
        if (b < 0x80)
            return true;
    }
    return false;
}

static bool next_run(struct hybrid *h)
{
    uint64_t head = 0;
    if (!varint(h, &head))
        return false;
    h->packed = head & 1;
    h->left = h->packed ? (head >> 1) * 8 : head >> 1;
    h->bit = 0;
    if (h->packed)
        return true;
    size_t bytes = (h->width + 7) / 8;
    if ((size_t)(h->end - h->at) < bytes)
        return false;
    h->value = 0;
    for (size_t i = 0; i < bytes; i++)
        h->value |= (uint32_t)*h->at++ << (8 * i);
    return true;
}

/* Least significant bits first. The last group may be cut short where no value is left in it. */
static bool unpack(struct hybrid *h, uint32_t *out)
{
    uint64_t value = 0;
    unsigned have = 0;
    while (have < h->width) {
        if (h->at == h->end)
            return false;
        value |= (uint64_t)(*h->at >> h->bit) << have;
        unsigned taken = 8 - h->bit;
        if (have + taken > h->width) {
            h->bit += h->width - have;
            have = h->width;
        } else {
            have += taken;
            h->bit = 0;
            h->at++;
        }
    }
    *out = (uint32_t)(value & (((uint64_t)1 << h->width) - 1));
    return true;
}

bool hybrid_next(struct hybrid *h, uint32_t *out)
{
    /* A run of no values is legal; each takes a byte of input, so this ends. */
    while (h->left == 0) {
        if (!next_run(h))
            return false;
    }
    h->left--;
    if (h->packed)
        return unpack(h, out);
    *out = h->value;
    return true;
}
