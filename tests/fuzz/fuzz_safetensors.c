#include <string.h>

#include "base/mem.h"
#include "checkpoint/safetensors.h"
#include "fuzz.h"

/* What a parsed header promises to its users, checked on every input that is accepted. */
static void check_promises(const struct rh_safetensors *file, uint64_t header_end,
                           uint64_t file_size)
{
    uint64_t end = header_end;
    for (size_t i = 0; i < rh_safetensors_count(file); i++) {
        const struct rh_tensor_info *t = rh_safetensors_at(file, i);
        RH_ASSERT(rh_safetensors_find(file, t->name) == t);
        RH_ASSERT(t->rank >= 0 && t->rank <= RH_TENSOR_RANK_MAX);
        RH_ASSERT(t->bytes == (uint64_t)rh_tensor_elements(t) * rh_dtype_size(t->dtype));
        RH_ASSERT(t->offset == end);
        end += t->bytes;
    }
    RH_ASSERT(end == file_size);
}

/* The first two bytes say how much data follows the header; the rest is the JSON text, so that the
 * fuzzer need not guess the length. Odd first bytes pass the input on as it is. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rh_safetensors *file = NULL;
    struct rh_error err;
    if (size < 2 || data[0] & 1) {
        if (rh_safetensors_parse(data, size, size, "input", &file, &err) == RH_OK)
            rh_safetensors_close(file);
        return 0;
    }
    uint64_t length = size - 2;
    uint64_t file_size = 8 + length + (uint64_t)(data[0] >> 1) + 128u * (uint64_t)data[1];
    unsigned char *input = rh_alloc(8 + (size_t)length);
    for (int i = 0; i < 8; i++)
        input[i] = (unsigned char)(length >> (8 * i));
    memcpy(input + 8, data + 2, (size_t)length);
    if (rh_safetensors_parse(input, 8 + (size_t)length, file_size, "input", &file, &err) == RH_OK)
        check_promises(file, 8 + length, file_size);
    rh_safetensors_close(file);
    rh_free(input);
    return 0;
}
