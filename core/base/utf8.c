#include "base/utf8.h"

#include <stdint.h>

struct lead {
    uint8_t from, to;  /* lead byte */
    uint8_t low, high; /* second byte */
    size_t length;
};

static const struct lead leads[] = {
    {0x00, 0x7F, 0x00, 0x00, 1}, {0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3},
    {0xE1, 0xEC, 0x80, 0xBF, 3}, {0xED, 0xED, 0x80, 0x9F, 3}, {0xEE, 0xEF, 0x80, 0xBF, 3},
    {0xF0, 0xF0, 0x90, 0xBF, 4}, {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4},
};

static const struct lead *lead_of(uint8_t byte)
{
    for (size_t i = 0; i < sizeof leads / sizeof leads[0]; i++) {
        if (byte >= leads[i].from && byte <= leads[i].to)
            return &leads[i];
    }
    return NULL;
}

static bool one_valid(const uint8_t *p, size_t left, const struct lead *lead)
{
    if (lead->length > left)
        return false;
    if (lead->length > 1 && (p[1] < lead->low || p[1] > lead->high))
        return false;
    for (size_t i = 2; i < lead->length; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return false;
    }
    return true;
}

bool rh_utf8_valid(const char *text, size_t size, size_t *bad)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t at = 0;
    while (at < size) {
        if (p[at] < 0x80) {
            at++;
            continue;
        }
        const struct lead *lead = lead_of(p[at]);
        if (!lead || !one_valid(p + at, size - at, lead)) {
            if (bad)
                *bad = at;
            return false;
        }
        at += lead->length;
    }
    return true;
}
