#include "base/mem.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Noreturn void out_of_memory(size_t size)
{
    fprintf(stderr, "out of memory: %zu bytes\n", size);
    abort();
}

void *rh_alloc(size_t size)
{
    void *p = calloc(1, size ? size : 1);
    if (!p)
        out_of_memory(size);
    return p;
}

void *rh_alloc_array(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size ? size : 1);
    if (!p)
        out_of_memory(count);
    return p;
}

void *rh_realloc_array(void *p, size_t count, size_t size)
{
    if (size != 0 && count > SIZE_MAX / size)
        out_of_memory(count);
    size_t bytes = count * size;
    void *grown = realloc(p, bytes ? bytes : 1);
    if (!grown)
        out_of_memory(bytes);
    return grown;
}

char *rh_strndup(const char *text, size_t size)
{
    char *copy = rh_alloc(size + 1);
    memcpy(copy, text, size);
    return copy;
}

char *rh_strdup(const char *text)
{
    return text ? rh_strndup(text, strlen(text)) : NULL;
}

char *rh_format(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int size = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (size < 0)
        out_of_memory(0);
    char *text = rh_alloc((size_t)size + 1);
    va_start(args, format);
    vsnprintf(text, (size_t)size + 1, format, args);
    va_end(args);
    return text;
}

enum rh_rc rh_try_alloc(size_t size, const char *what, void **out, struct rh_error *err)
{
    void *p = NULL;
    if (posix_memalign(&p, 64, size ? size : 1) != 0)
        return rh_fail(err, RH_ERR_NO_MEMORY, "%s needs %zu bytes of memory, which are not there",
                       what, size);
    *out = p;
    return RH_OK;
}

void rh_free(void *p)
{
    free(p);
}

void *rh_carve(struct rh_carver *carver, int64_t count, size_t size)
{
    size_t at = carver->used;
    carver->used += ((size_t)count * size + 255) / 256 * 256;
    return carver->base ? carver->base + at : NULL;
}
