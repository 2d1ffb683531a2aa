#include "base/strbuf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

static void reserve(struct rh_strbuf *b, size_t extra)
{
    RH_ASSERT(extra < (size_t)-1 / 4 && b->size < (size_t)-1 / 4);
    size_t need = b->size + extra + 1;
    if (need <= b->capacity)
        return;
    size_t capacity = b->capacity ? b->capacity * 2 : 64;
    if (capacity < need)
        capacity = need;
    b->text = rh_realloc_array(b->text, capacity, 1);
    b->capacity = capacity;
}

void rh_strbuf_append(struct rh_strbuf *b, const char *data, size_t size)
{
    reserve(b, size);
    if (size)
        memcpy(b->text + b->size, data, size);
    b->size += size;
    b->text[b->size] = '\0';
}

void rh_strbuf_puts(struct rh_strbuf *b, const char *text)
{
    rh_strbuf_append(b, text, strlen(text));
}

void rh_strbuf_printf(struct rh_strbuf *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int size = vsnprintf(NULL, 0, format, args);
    va_end(args);
    RH_ASSERT(size >= 0);
    reserve(b, (size_t)size);
    va_start(args, format);
    vsnprintf(b->text + b->size, (size_t)size + 1, format, args);
    va_end(args);
    b->size += (size_t)size;
}

char *rh_strbuf_take(struct rh_strbuf *b)
{
    reserve(b, 0);
    b->text[b->size] = '\0';
    char *text = b->text;
    *b = (struct rh_strbuf){0};
    return text;
}

void rh_strbuf_done(struct rh_strbuf *b)
{
    rh_free(b->text);
    *b = (struct rh_strbuf){0};
}
