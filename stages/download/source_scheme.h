#ifndef RH_DOWNLOAD_SOURCE_SCHEME_H
#define RH_DOWNLOAD_SOURCE_SCHEME_H

#include "source.h"

/* Private to the library: what a scheme has to provide. */
struct rh_source_scheme {
    const char *name; /* "file" */
    /* Fills source->plan_dir; `rest` follows the colon. */
    enum rh_rc (*open)(struct rh_source *source, const char *rest, struct rh_error *err);
    enum rh_rc (*list)(const struct rh_source *source, char ***out_names, size_t *out_count,
                       struct rh_error *err);
    /* Fills path, size and handle of the file. */
    enum rh_rc (*file_open)(struct rh_source_file *file, const char *name, struct rh_error *err);
    enum rh_rc (*file_read)(const struct rh_source_file *file, uint64_t begin, size_t size,
                            void *buffer, struct rh_error *err);
    void (*file_close)(struct rh_source_file *file);
};

struct rh_source {
    const struct rh_source_scheme *scheme;
    char *plan_dir;
};

struct rh_source_file {
    const struct rh_source *source;
    char *path;
    uint64_t size;
    int handle; /* the scheme's own; -1: none */
};

extern const struct rh_source_scheme rh_source_local;

#endif
