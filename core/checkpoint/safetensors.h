#ifndef RH_CHECKPOINT_SAFETENSORS_H
#define RH_CHECKPOINT_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "tensor/dtype.h"

#define RH_TENSOR_RANK_MAX 8

/* One tensor as a header describes it. Strings belong to the file or plan that holds the entry. */
struct rh_tensor_info {
    const char *name;
    enum rh_dtype dtype;
    int rank;
    int64_t shape[RH_TENSOR_RANK_MAX];
    uint64_t offset; /* from the start of the file */
    uint64_t bytes;  /* equals the product of shape and element size */
};

int64_t rh_tensor_elements(const struct rh_tensor_info *info);

/*
 * Reader of one .safetensors file. The header is hostile input: length at most 100,000,000, offsets
 * in range, ascending without hole or overlap, byte span equal to shape times element size, no
 * duplicate name, file size exact. Format: huggingface/safetensors README.
 */
struct rh_safetensors;

RH_MUST_USE enum rh_rc rh_safetensors_open(const char *path, struct rh_safetensors **out,
                                           struct rh_error *err);
/* As open, but the file may end right after its header ("header only"): for plans of models whose
 * weights are elsewhere. Reading data from such a file is RH_ERR_IO. */
RH_MUST_USE enum rh_rc rh_safetensors_open_header(const char *path, struct rh_safetensors **out,
                                                  struct rh_error *err);
/* From memory (for the fuzzer and for ranged downloads): data is the first `size` bytes of a file
 * of file_size bytes and must reach to the end of the header; `what` names it in errors. Reading
 * tensor data from it is RH_ERR_IO. */
RH_MUST_USE enum rh_rc rh_safetensors_parse(const void *data, size_t size, uint64_t file_size,
                                            const char *what, struct rh_safetensors **out,
                                            struct rh_error *err);
void rh_safetensors_close(struct rh_safetensors *file);

const char *rh_safetensors_path(const struct rh_safetensors *file);
size_t rh_safetensors_count(const struct rh_safetensors *file);
/* In file order (ascending offset). */
const struct rh_tensor_info *rh_safetensors_at(const struct rh_safetensors *file, size_t index);
const struct rh_tensor_info *rh_safetensors_find(const struct rh_safetensors *file,
                                                 const char *name); /* NULL: absent */
/* Reads bytes [begin, begin + size) of the tensor's data into buffer (pread; thread safe). */
RH_MUST_USE enum rh_rc rh_safetensors_read(const struct rh_safetensors *file,
                                           const struct rh_tensor_info *tensor, uint64_t begin,
                                           uint64_t size, void *buffer, struct rh_error *err);

/*
 * Writer. All tensors are declared first; begin() lays the file out in the reference writer's order
 * (dtype as in enum rh_dtype, then name); data is then put by declared index, in any order. The file
 * appears under its name only at finish(), until then it is ".<name>.tmp" beside it.
 */
struct rh_safetensors_writer;

struct rh_safetensors_writer *rh_safetensors_writer_new(const char *path);
/* Returns the tensor's index. rank <= RH_TENSOR_RANK_MAX and a known dtype are asserted; a
 * duplicate name or an impossible shape is begin()'s error. */
size_t rh_safetensors_writer_add(struct rh_safetensors_writer *w, const char *name,
                                 enum rh_dtype dtype, int rank, const int64_t *shape);
/* Fixes the layout, reserves the file (RH_ERR_NO_SPACE when it does not fit) and writes the header
 * (with {"format":"pt"} metadata). */
RH_MUST_USE enum rh_rc rh_safetensors_writer_begin(struct rh_safetensors_writer *w,
                                                   struct rh_error *err);
/* Bytes [begin, begin + size) of the tensor's data, in any order, none twice (RH_ERR_ARGUMENT). One
 * thread at a time. */
RH_MUST_USE enum rh_rc rh_safetensors_writer_put(struct rh_safetensors_writer *w, size_t index,
                                                 uint64_t begin, const void *data, uint64_t size,
                                                 struct rh_error *err);
/* Errors when any byte was not written. */
RH_MUST_USE enum rh_rc rh_safetensors_writer_finish(struct rh_safetensors_writer *w,
                                                    struct rh_error *err);
void rh_safetensors_writer_free(struct rh_safetensors_writer *w); /* aborts when not finished */

/*
 * A checkpoint directory: model.safetensors.index.json when there is one, else every *.safetensors.
 * Opens all headers; a name in two files, an index entry without a tensor, a missing file are
 * errors.
 */
struct rh_checkpoint;

RH_MUST_USE enum rh_rc rh_checkpoint_open(const char *dir, bool headers_only,
                                          struct rh_checkpoint **out, struct rh_error *err);
void rh_checkpoint_close(struct rh_checkpoint *c);
size_t rh_checkpoint_file_count(const struct rh_checkpoint *c);
const struct rh_safetensors *rh_checkpoint_file(const struct rh_checkpoint *c, size_t index);
const char *rh_checkpoint_file_name(const struct rh_checkpoint *c, size_t index); /* no directory */
/* NULL: absent; *out_file may be NULL. */
const struct rh_tensor_info *rh_checkpoint_find(const struct rh_checkpoint *c, const char *name,
                                                size_t *out_file);
size_t rh_checkpoint_tensor_count(const struct rh_checkpoint *c);

#endif
