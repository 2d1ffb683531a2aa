#ifndef RH_TESTS_PUBLISH_QUANTIZED_H
#define RH_TESTS_PUBLISH_QUANTIZED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "families/model_plan.h"

#define NANO RH_SOURCE_DIR "/tests/data/nano"

/* A small quantized checkpoint, made of nano by rounding to nearest. All parts abort on errors. */
struct quantized {
    struct rh_recipe *recipe;
    struct rh_model_plan *plan; /* of nano */
};

/* What is done wrong on purpose; all zero: nothing. */
struct mistakes {
    const char *leave_out;  /* tensors that begin with this */
    const char *extra;      /* a tensor of this name is added to the first file */
    bool not_in_index;      /* ... but not to the index */
    int64_t size_error;     /* added to metadata.total_size */
    const char *index_skip; /* a tensor that the index does not name */
};

/* recipe: a JSON object. */
struct quantized *quantized_new(const char *recipe);
void quantized_free(struct quantized *q);

/* One output file into `dir`. */
void quantized_write_shard(const struct quantized *q, size_t shard, const char *dir,
                           const struct mistakes *wrong);
/* index, config.json, quantization_config.json and the side files of nano into `dir`. */
void quantized_write_rest(const struct quantized *q, const char *dir, const struct mistakes *wrong);
/* All of it into a new directory; owned by caller. */
char *quantized_write(const struct quantized *q, const struct mistakes *wrong);
/* MANIFEST.json over what is in `dir`, with the recipe. */
void quantized_add_manifest(const struct quantized *q, const char *dir);

/* A new empty directory; owned by caller. */
char *new_directory(void);
/* Reads, and overwrites, bytes of a tensor of the checkpoint, wherever it is. */
void tensor_read(const char *dir, const char *name, uint64_t begin, void *data, size_t size);
void tensor_write(const char *dir, const char *name, uint64_t begin, const void *data, size_t size);
struct rh_json *read_document(const char *dir, const char *name);
void write_document(const char *dir, const char *name, const struct rh_json *json);
void remove_directory(char *dir); /* and frees the name */

#endif
