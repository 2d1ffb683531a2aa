#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "hub_cache.h"
#include "hub_fetch.h"

#include "source_scheme.h"

#define LENGTH_BYTES 8
#define HEADER_FIRST (UINT64_C(256) << 10) /* most headers are shorter */
#define HEADER_MAX   (UINT64_C(100) << 20) /* a little more than what the parser takes */
#define WEIGHTS      ".safetensors"
#define INDEX        "model.safetensors.index.json"

/* The Hub: a revision is resolved to a commit once, and everything comes from that. */
struct hub_source {
    struct rh_hub_settings settings;
    struct rh_hub_name name;
    struct rh_hub *hub;
    struct rh_hub_tree tree;
    char *dir;
    bool temporary;
};

static struct rh_hub_place place_of(const struct hub_source *s)
{
    return (struct rh_hub_place){
        .dir = s->dir, .settings = &s->settings, .name = &s->name, .commit = s->tree.commit};
}

static enum rh_rc make_dir(struct hub_source *s, const char *work_dir, struct rh_error *err)
{
    const char *tmp = getenv("TMPDIR");
    if (work_dir) {
        s->dir = rh_strdup(work_dir);
        return rh_fs_mkdirs(work_dir, err);
    }
    s->dir = rh_format("%s/rh-hub-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    s->temporary = mkdtemp(s->dir) != NULL;
    return s->temporary ? RH_OK
                        : rh_fail(err, RH_ERR_IO,
                                  "could not make a directory below %s; set TMPDIR to one that "
                                  "can be written to",
                                  tmp && *tmp ? tmp : "/tmp");
}

static enum rh_rc hub_open(struct rh_source *source, const char *rest,
                           const struct rh_source_use *use, struct rh_error *err)
{
    const struct rh_hub_watch watch = {
        .check = use->check, .progress = use->progress, .arg = use->arg};
    struct hub_source *s = source->state = rh_alloc(sizeof *s);
    if (!rh_hub_name_parse(rest, &s->name))
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "the model %.300s is no name on the Hub; write hf:owner/name or "
                       "hf:owner/name@revision",
                       source->reference);
    enum rh_rc rc = rh_hub_settings_read(&s->settings, err);
    if (rc == RH_OK)
        rc = make_dir(s, use->work_dir, err);
    if (rc != RH_OK)
        return rc;
    s->hub = rh_hub_new(&s->settings, &s->name, &watch);
    if (use->pin)
        return rh_hub_tree_from_json(use->pin, "source.json", &s->tree, err);
    return s->settings.offline ? rh_hub_cache_look(&s->settings, &s->name, &s->tree, err)
                               : rh_hub_look(s->hub, &s->tree, err);
}

static void hub_close(struct rh_source *source)
{
    struct hub_source *s = source->state;
    if (s->temporary)
        (void)!rh_fs_remove_tree(s->dir, NULL);
    rh_hub_free(s->hub);
    rh_hub_tree_done(&s->tree);
    rh_hub_settings_done(&s->settings);
    rh_free(s->dir);
    rh_free(s);
}

static struct rh_json *hub_pin(const struct rh_source *source)
{
    const struct hub_source *s = source->state;
    return rh_hub_tree_to_json(&s->tree, s->name.repo);
}

static enum rh_rc find(const struct rh_source *source, const char *name,
                       const struct rh_hub_file **out, struct rh_error *err)
{
    const struct hub_source *s = source->state;
    *out = rh_hub_tree_find(&s->tree, name);
    if (*out)
        return RH_OK;
    return rh_fail(err, RH_ERR_NOT_FOUND, "%s has no file %.200s at commit %s", s->name.repo, name,
                   s->tree.commit);
}

static enum rh_rc hub_list(const struct rh_source *source, char ***out_names, size_t *out_count,
                           struct rh_error *err)
{
    const struct hub_source *s = source->state;
    (void)err;
    *out_count = s->tree.count;
    *out_names = rh_alloc_array(s->tree.count + 1, sizeof **out_names);
    for (size_t i = 0; i < s->tree.count; i++)
        (*out_names)[i] = rh_strdup(s->tree.files[i].name);
    return RH_OK;
}

static enum rh_rc hub_size(const struct rh_source *source, const char *name, uint64_t *out,
                           struct rh_error *err)
{
    const struct rh_hub_file *file = NULL;
    enum rh_rc rc = find(source, name, &file, err);
    if (rc == RH_OK)
        *out = file->size;
    return rc;
}

static const char *hub_sha256(const struct rh_source *source, const char *name)
{
    const struct hub_source *s = source->state;
    const struct rh_hub_file *file = rh_hub_tree_find(&s->tree, name);
    return file && strlen(file->digest) == 64 ? file->digest : NULL;
}

static void hub_drop(const struct rh_source *source, const char *name)
{
    const struct hub_source *s = source->state;
    const struct rh_hub_place place = place_of(s);
    const struct rh_hub_file *file = rh_hub_tree_find(&s->tree, name);
    if (file)
        rh_hub_drop(&place, file);
}

static enum rh_rc hub_locate(const struct rh_source *source, const char *name, char **out,
                             struct rh_error *err)
{
    const struct hub_source *s = source->state;
    const struct rh_hub_place place = place_of(s);
    const struct rh_hub_file *file = NULL;
    enum rh_rc rc = find(source, name, &file, err);
    return rc == RH_OK ? rh_hub_fetch(s->hub, &place, file, out, err) : rc;
}

/* -- Headers ---------------------------------------------------------------------------------- */

static bool ends_with(const char *name, const char *ending)
{
    size_t size = strlen(name), tail = strlen(ending);
    return size > tail && strcmp(name + size - tail, ending) == 0;
}

struct bytes {
    unsigned char *to;
    size_t used;
};

static enum rh_rc collect(void *arg, const void *data, size_t size, struct rh_error *err)
{
    struct bytes *b = arg;
    (void)err;
    memcpy(b->to + b->used, data, size);
    b->used += size;
    return RH_OK;
}

/* Bytes [0, size) of the file, from here or from the Hub; *out is the caller's. */
static enum rh_rc read_begin(const struct hub_source *s, const struct rh_hub_file *file,
                             uint64_t size, unsigned char **out, struct rh_error *err)
{
    const struct rh_hub_place place = place_of(s);
    struct bytes bytes = {0};
    struct rh_hub_sink sink = {.end = size, .take = collect, .arg = &bytes};
    struct rh_source_file *local = NULL;
    uint64_t at = 0;
    void *buffer = NULL;
    char *path = rh_hub_fetched(&place, file);
    enum rh_rc rc = rh_try_alloc((size_t)size + 1, file->name, &buffer, err);
    bytes.to = buffer;
    if (rc == RH_OK && path) {
        rc = rh_source_open_path(path, &local, err);
        if (rc == RH_OK)
            rc = rh_source_file_read(local, 0, (size_t)size, buffer, err);
    } else if (rc == RH_OK && size > 0) {
        rc = rh_hub_get(s->hub, s->tree.commit, file, &sink, &at, err);
    }
    rh_source_file_close(local);
    rh_free(path);
    if (rc != RH_OK) {
        rh_free(buffer);
        return rc;
    }
    *out = buffer;
    return RH_OK;
}

static uint64_t at_most(uint64_t value, uint64_t limit)
{
    return value < limit ? value : limit;
}

/* As much of a weight file as has its header. What is wrong with it is for the parser to say, and
 * that it is the header of the listed file is found out when the file is fetched. */
static enum rh_rc write_header(const struct hub_source *s, const struct rh_hub_file *file,
                               const char *path, struct rh_error *err)
{
    uint64_t size = at_most(file->size, HEADER_FIRST), length = 0;
    unsigned char *bytes = NULL;
    enum rh_rc rc = read_begin(s, file, size, &bytes, err);
    for (int i = LENGTH_BYTES - 1; rc == RH_OK && size >= LENGTH_BYTES && i >= 0; i--)
        length = length << 8 | bytes[i];
    uint64_t whole = at_most(at_most(length, HEADER_MAX) + LENGTH_BYTES, file->size);
    if (rc == RH_OK && whole > size) {
        rh_free(bytes);
        bytes = NULL;
        rc = read_begin(s, file, whole, &bytes, err);
    }
    /* Nothing behind the header: the parser takes a file with all of its data, or with none. */
    if (rc == RH_OK)
        rc = rh_fs_write(path, bytes, (size_t)whole, err);
    rh_free(bytes);
    return rc;
}

static enum rh_rc prepare_file(const struct rh_source *source, const struct rh_hub_file *file,
                               const char *dir, struct rh_error *err)
{
    const struct hub_source *s = source->state;
    bool is_weights = ends_with(file->name, WEIGHTS);
    if (!is_weights && strcmp(file->name, "config.json") != 0 && strcmp(file->name, INDEX) != 0)
        return RH_OK;
    char *from = NULL, *to = rh_fs_join(dir, file->name);
    enum rh_rc rc =
        is_weights ? write_header(s, file, to, err) : hub_locate(source, file->name, &from, err);
    if (rc == RH_OK && !is_weights)
        rc = rh_fs_copy(from, to, NULL, err);
    rh_free(from);
    rh_free(to);
    return rc;
}

static enum rh_rc hub_prepare(struct rh_source *source, struct rh_error *err)
{
    const struct hub_source *s = source->state;
    char *dir = rh_fs_join(s->dir, "headers");
    const struct rh_hub_file *config = NULL;
    enum rh_rc rc = find(source, "config.json", &config, err);
    if (rc == RH_OK)
        rc = rh_fs_remove_tree(dir, err);
    if (rc == RH_OK)
        rc = rh_fs_mkdirs(dir, err);
    for (size_t i = 0; i < s->tree.count && rc == RH_OK; i++)
        rc = prepare_file(source, &s->tree.files[i], dir, err);
    if (rc == RH_OK) {
        source->plan_dir = dir;
        dir = NULL;
    }
    rh_free(dir);
    return rc;
}

const struct rh_source_scheme rh_source_hub = {
    .name = "hf",
    .open = hub_open,
    .close = hub_close,
    .prepare = hub_prepare,
    .pin = hub_pin,
    .list = hub_list,
    .size = hub_size,
    .sha256 = hub_sha256,
    .drop = hub_drop,
    .locate = hub_locate,
};
