#ifndef RH_CALIBRATE_DATASETS_KINDS_H
#define RH_CALIBRATE_DATASETS_KINDS_H

#include "base/sha256.h"
#include "dataset.h"

/* Private to the stage: what a kind of file brings along. */
struct rh_dataset_kind {
    const char *suffix; /* NULL: every other file */
    bool running_text;
    /* Sets d->self, also on error, d->count, and d->sha256. */
    enum rh_rc (*open)(struct rh_dataset *d, const char *column, struct rh_error *err);
    void (*close)(void *self);
    enum rh_rc (*text)(const struct rh_dataset *d, int64_t index, char **out, size_t *size,
                       struct rh_error *err);
    char *(*where)(const struct rh_dataset *d, int64_t index);
};

struct rh_dataset {
    const struct rh_dataset_kind *kind;
    char *path;
    int64_t count;
    char sha256[RH_SHA256_HEX_SIZE];
    void *self;
};

extern const struct rh_dataset_kind rh_dataset_jsonl, rh_dataset_json, rh_dataset_parquet,
    rh_dataset_plain;

/* Pieces of a file that is read through once to find them; only their places are kept. */
struct rh_pieces {
    int fd;
    char *column; /* what the kind was opened with; owned */
    struct rh_piece {
        uint64_t at, size;
        int64_t line; /* 1-based, of its first byte */
    } * pieces;
    int64_t count;
    size_t capacity;
};

/* Called for every chunk of the file, and once more with size 0 at its end. */
typedef enum rh_rc (*rh_cut_fn)(struct rh_pieces *p, void *arg, const char *bytes, size_t size,
                                struct rh_error *err);

/* Opens d->path, calls cut, sets d->sha256 and d->count. */
RH_MUST_USE enum rh_rc rh_pieces_open(struct rh_dataset *d, const char *column, rh_cut_fn cut,
                                      void *arg, struct rh_error *err);
RH_MUST_USE enum rh_rc rh_pieces_add(struct rh_pieces *p, struct rh_piece piece,
                                     struct rh_error *err);
/* The bytes of a piece with a NUL behind them; owned by caller. */
RH_MUST_USE enum rh_rc rh_pieces_read(const struct rh_dataset *d, int64_t index, char **out,
                                      struct rh_error *err);
char *rh_pieces_where(const struct rh_dataset *d, int64_t index);
void rh_pieces_close(void *self);

#endif
