#ifndef RH_BASE_STRBUF_H
#define RH_BASE_STRBUF_H

#include <stddef.h>

#include "error.h"

/* A growing, always NUL-terminated text. Zero-initialise, append, rh_strbuf_done(). */
struct rh_strbuf {
    char *text; /* NULL until the first append */
    size_t size;
    size_t capacity;
};

void rh_strbuf_append(struct rh_strbuf *b, const char *data, size_t size);
void rh_strbuf_puts(struct rh_strbuf *b, const char *text);
void rh_strbuf_printf(struct rh_strbuf *b, const char *format, ...) RH_PRINTF(2, 3);
char *rh_strbuf_take(struct rh_strbuf *b); /* never NULL; b is empty afterwards */
void rh_strbuf_done(struct rh_strbuf *b);

#endif
