#include "base/mem.h"
#include "fuzz.h"
#include "parquet/parquet.h"

/* More rows would only be more of the same: runs make millions of nulls of a few bytes. */
#define ROWS_MAX 4096

/* A whole Parquet file; every row is read, and lies inside memory that the sanitizer knows. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rh_parquet *p = NULL;
    struct rh_error err;
    if (rh_parquet_open_bytes(data, size, "input", NULL, &p, &err) != RH_OK)
        return 0;
    if (size % 2 == 1)
        rh_parquet_hold(p, 4096);
    unsigned sum = 0;
    int64_t rows = rh_parquet_rows(p);
    for (int64_t i = 0; i < rows && i < ROWS_MAX; i++) {
        const char *text = NULL;
        size_t length = 0;
        if (rh_parquet_get(p, i * 31 % rows, &text, &length, &err) != RH_OK)
            continue;
        RH_ASSERT(text || length == 0);
        for (size_t j = 0; j < length; j++)
            sum += (unsigned char)text[j];
    }
    rh_parquet_close(p);
    return sum == 0x7FFFFFFF ? 1 : 0; /* keeps the reads; never so much */
}
