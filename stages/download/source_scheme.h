#ifndef RH_DOWNLOAD_SOURCE_SCHEME_H
#define RH_DOWNLOAD_SOURCE_SCHEME_H

#include "source.h"

/* Private to the library: what a scheme has to provide. A NULL function means that there is nothing
 * to do, or nothing to know. */
struct rh_source_scheme {
    const char *name; /* "file" */
    /* `rest` follows the colon. */
    enum rh_rc (*open)(struct rh_source *source, const char *rest, const struct rh_source_use *use,
                       struct rh_error *err);
    void (*close)(struct rh_source *source); /* also of one that did not open */
    /* Fills source->plan_dir if open() has not. */
    enum rh_rc (*prepare)(struct rh_source *source, struct rh_error *err);
    struct rh_json *(*pin)(const struct rh_source *source);
    enum rh_rc (*list)(const struct rh_source *source, char ***out_names, size_t *out_count,
                       struct rh_error *err);
    enum rh_rc (*size)(const struct rh_source *source, const char *name, uint64_t *out,
                       struct rh_error *err);
    const char *(*sha256)(const struct rh_source *source, const char *name);
    void (*drop)(const struct rh_source *source, const char *name);
    /* A path of this machine to read the file from; *out is the caller's. */
    enum rh_rc (*locate)(const struct rh_source *source, const char *name, char **out,
                         struct rh_error *err);
};

struct rh_source {
    const struct rh_source_scheme *scheme;
    char *reference;
    char *plan_dir; /* NULL: not there yet */
    void *state;    /* the scheme's own */
};

struct rh_source_file {
    char *path;
    uint64_t size;
    int fd;
};

/* A file of this machine, as rh_source_file_open() gives one. */
RH_MUST_USE enum rh_rc rh_source_open_path(const char *path, struct rh_source_file **out,
                                           struct rh_error *err);

extern const struct rh_source_scheme rh_source_local, rh_source_hub;

#endif
