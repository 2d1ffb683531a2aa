#ifndef RH_TEXT_TOKENIZER_H
#define RH_TEXT_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/*
 * Byte-level BPE as a Hugging Face tokenizer.json describes it (GPT-2, Llama-3, Qwen): added
 * tokens, NFC, one splitting regex, merges. Parts of the format that this does not cover are
 * refused by name when the file is loaded, never ignored. Same ids as the `tokenizers` library,
 * except for code points whose Unicode properties differ between its tables and those of PCRE2 and
 * utf8proc.
 */
struct rh_tokenizer;

/* pattern replaces the file's splitting regex when not NULL (transformers prefers the key
 * pretokenize_regex of tokenizer_config.json). */
RH_MUST_USE enum rh_rc rh_tokenizer_load(const char *path, const char *pattern,
                                         struct rh_tokenizer **out, struct rh_error *err);
/* From the text of the file; `what` names it in errors. */
RH_MUST_USE enum rh_rc rh_tokenizer_parse(const char *json, size_t size, const char *what,
                                          const char *pattern, struct rh_tokenizer **out,
                                          struct rh_error *err);
void rh_tokenizer_free(struct rh_tokenizer *tokenizer);

/* A growing list of ids. Zero-initialise; rh_ids_done(). */
struct rh_ids {
    int32_t *ids;
    size_t count, capacity;
};

void rh_ids_done(struct rh_ids *ids);

/*
 * Appends the ids of a text. Stops early once `enough` ids are there (0: never), perhaps a few
 * later. RH_ERR_FORMAT with the byte offset when the text is not UTF-8. Not thread safe: the
 * tokenizer keeps scratch and a cache.
 */
RH_MUST_USE enum rh_rc rh_tokenizer_encode(struct rh_tokenizer *tokenizer, const char *text,
                                           size_t size, size_t enough, struct rh_ids *out,
                                           struct rh_error *err);
/* The bytes of an id, which need not be UTF-8 by themselves; NULL when there is no such id. */
const char *rh_tokenizer_token(const struct rh_tokenizer *tokenizer, int32_t id, size_t *size);
/* One more than the highest id. */
int32_t rh_tokenizer_size(const struct rh_tokenizer *tokenizer);

#endif
