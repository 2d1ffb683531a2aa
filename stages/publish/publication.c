#include "publication.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "recipe/dataset_spec.h"

#define SCHEMA        "roundhouse.checkpoint/1"
#define DIR_SCHEME    "dir:"
#define FILE_SCHEME   "file:"
#define META_PREFIX   "meta/"
#define LICENSE_NAME  "LICENSE"
#define JOB_NAME_MAX  200
#define LEAF_NAME_MAX 200 /* leaves room for the hidden name within the usual 255 bytes */

const char *publication_last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The path without trailing slashes; owned by caller. */
static char *trimmed(const char *path)
{
    size_t size = strlen(path);
    while (size > 1 && path[size - 1] == '/')
        size--;
    return rh_strndup(path, size);
}

/* "hf:owner/name@commit" of a Hub model: a branch moves on, a commit does not. NULL: the plan does
 * not say. Owned by caller. */
static char *pinned_name(const struct rh_task *task)
{
    char *dir = rh_task_artifact(task, "plan", 0);
    char *path = rh_fs_join(dir, "source.json"), *name = NULL;
    struct rh_json *pin = NULL;
    if (rh_fs_exists(path) && rh_json_read(path, PUBLICATION_JSON_MAX, &pin, NULL) == RH_OK) {
        const char *repo = rh_json_string(rh_json_get(pin, "repo"));
        const char *commit = rh_json_string(rh_json_get(pin, "commit"));
        if (repo && commit)
            name = rh_format("hf:%s@%s", repo, commit);
    }
    rh_json_free(pin);
    rh_free(path);
    rh_free(dir);
    return name;
}

/* A local path says more about the machine than about the model. */
static char *source_name(const struct rh_task *task)
{
    const char *model = rh_task_model(task);
    if (strncmp(model, FILE_SCHEME, strlen(FILE_SCHEME)) != 0) {
        char *pinned = pinned_name(task);
        return pinned ? pinned : rh_strdup(model);
    }
    char *path = trimmed(model + strlen(FILE_SCHEME));
    char *name = rh_strdup(publication_last_part(path));
    rh_free(path);
    return name;
}

static bool is_plain_job(const char *job)
{
    for (const char *c = job; *c; c++) {
        if (!isalnum((unsigned char)*c) && !strchr("-_.", *c))
            return false;
    }
    return *job && strlen(job) <= JOB_NAME_MAX;
}

enum rh_rc publication_place(struct publication *p, struct rh_error *err)
{
    const char *output = rh_task_output(p->task), *job = rh_task_job(p->task);
    if (strncmp(output, DIR_SCHEME, strlen(DIR_SCHEME)) != 0)
        return rh_fail(err, RH_ERR_UNSUPPORTED,
                       "cannot publish to %.300s; only dir:/absolute/path is supported, upload the "
                       "directory from there",
                       output);
    const char *path = output + strlen(DIR_SCHEME);
    if (path[0] != '/')
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "destination %.300s is not an absolute path; write "
                       "dir:/path",
                       output);
    if (!is_plain_job(job))
        return rh_fail(err, RH_ERR_ARGUMENT, "job id \"%.100s\" cannot be part of a file name",
                       job);
    p->destination = trimmed(path);
    const char *leaf = publication_last_part(p->destination);
    if (!*leaf || leaf[0] == '.' || strlen(leaf) + strlen(job) > LEAF_NAME_MAX)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "destination %.300s does not end in a name for a model (short, no leading "
                       "dot)",
                       output);
    p->base = rh_strdup(leaf);
    char *parent = rh_strndup(p->destination, (size_t)(leaf - p->destination));
    p->staging = rh_format("%s.%s.roundhouse-%s", parent, leaf, job);
    p->source_name = source_name(p->task);
    enum rh_rc rc = rh_fs_mkdirs(parent, err);
    rh_free(parent);
    return rc;
}

void publication_add_file(struct publication *p, const char *name, int64_t size, const char *sha256)
{
    struct rh_json *entry = rh_json_new_object();
    rh_json_set_string(entry, "name", name);
    rh_json_set_int(entry, "size", size);
    rh_json_set_string(entry, "sha256", sha256);
    rh_json_append(p->files, entry);
    p->bytes += (uint64_t)size;
}

/* The files that an artifact's manifest names. *out: root; *files belongs to it. */
static enum rh_rc artifact_files(const char *dir, struct rh_json **out,
                                 const struct rh_json **files, struct rh_error *err)
{
    char *path = rh_fs_join(dir, PUBLICATION_MANIFEST);
    enum rh_rc rc = rh_json_read(path, PUBLICATION_JSON_MAX, out, err);
    if (rc == RH_OK)
        rc = rh_json_want_array(*out, "files", path, files, err);
    rh_free(path);
    return rc;
}

static enum rh_rc entry_of(const struct rh_json *entry, const char *what, const char **name,
                           int64_t *size, const char **sha256, struct rh_error *err)
{
    enum rh_rc rc = rh_json_want_string(entry, "name", what, name, err);
    if (rc == RH_OK)
        rc = rh_json_want_int(entry, "size", what, size, err);
    if (rc == RH_OK)
        rc = rh_json_want_string(entry, "sha256", what, sha256, err);
    return rc;
}

/* A hard link where the file system allows one, else a copy. */
static enum rh_rc link_or_copy(const char *from, const char *to, struct rh_error *err)
{
    if (link(from, to) == 0)
        return RH_OK;
    if (errno != EXDEV && errno != EPERM && errno != EMLINK && errno != EOPNOTSUPP)
        return rh_fail_errno(err, errno, "could not link %s to %s", from, to);
    return rh_fs_copy(from, to, NULL, err);
}

static enum rh_rc take_file(struct publication *p, const char *dir, const char *from_name,
                            const char *name, int64_t size, const char *sha256,
                            struct rh_error *err)
{
    /* Checkpoints are flat, and what is hidden belongs to the tools that made it. */
    if (!*name || name[0] == '.' || strchr(name, '/'))
        return rh_fail(err, RH_ERR_FORMAT, "%s: %.200s is no name for a file of a checkpoint", dir,
                       name);
    char *from = rh_fs_join(dir, from_name), *to = rh_fs_join(p->staging, name);
    enum rh_rc rc = RH_OK;
    if (rh_fs_exists(to))
        rc = rh_fail(err, RH_ERR_FORMAT, "%s: another artifact has a file %s too", dir, name);
    if (rc == RH_OK)
        rc = link_or_copy(from, to, err);
    if (rc == RH_OK)
        publication_add_file(p, name, size, sha256);
    rh_free(from);
    rh_free(to);
    return rc == RH_OK ? rh_task_check(p->task, err) : rc;
}

static enum rh_rc take_artifact(struct publication *p, const char *op, int64_t index,
                                struct rh_error *err)
{
    char *dir = rh_task_artifact(p->task, op, index);
    struct rh_json *root = NULL;
    const struct rh_json *files = NULL;
    enum rh_rc rc = artifact_files(dir, &root, &files, err);
    for (const struct rh_json *f = rh_json_first(files); f && rc == RH_OK; f = rh_json_next(f)) {
        const char *name = NULL, *sha256 = NULL;
        int64_t size = 0;
        rc = entry_of(f, dir, &name, &size, &sha256, err);
        /* The card is written here, whatever the source's says. */
        if (rc == RH_OK && strcmp(name, PUBLICATION_CARD) != 0)
            rc = take_file(p, dir, name, name, size, sha256, err);
    }
    rh_json_free(root);
    rh_free(dir);
    return rc;
}

static bool has_file(const struct publication *p, const char *name)
{
    for (const struct rh_json *f = rh_json_first(p->files); f; f = rh_json_next(f)) {
        if (strcmp(rh_json_string(rh_json_get(f, "name")), name) == 0)
            return true;
    }
    return false;
}

enum rh_rc publication_gather(struct publication *p, struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    for (size_t s = 0; s < p->plan->shard_count && rc == RH_OK; s++) {
        rh_task_progress(p->task, "gathering", (double)s, (double)p->plan->shard_count, "files");
        rc = take_artifact(p, "shard", (int64_t)s, err);
    }
    if (rc == RH_OK)
        rc = take_artifact(p, "finalize", 0, err);
    return rc;
}

/* The source's files that are not weights; its licence comes along. */
static enum rh_rc add_meta(struct publication *p, struct rh_json *list, struct rh_error *err)
{
    char *dir = rh_task_artifact(p->task, "plan", 0);
    struct rh_json *root = NULL;
    const struct rh_json *files = NULL;
    enum rh_rc rc = artifact_files(dir, &root, &files, err);
    for (const struct rh_json *f = rh_json_first(files); f && rc == RH_OK; f = rh_json_next(f)) {
        const char *name = NULL, *sha256 = NULL;
        int64_t size = 0;
        rc = entry_of(f, dir, &name, &size, &sha256, err);
        if (rc != RH_OK || strncmp(name, META_PREFIX, strlen(META_PREFIX)) != 0)
            continue;
        const char *plain = name + strlen(META_PREFIX);
        struct rh_json *entry = rh_json_copy(f);
        rh_json_set_string(entry, "name", plain);
        rh_json_append(list, entry);
        if (strcmp(plain, LICENSE_NAME) == 0 && !has_file(p, LICENSE_NAME))
            rc = take_file(p, dir, name, LICENSE_NAME, size, sha256, err);
    }
    rh_json_free(root);
    rh_free(dir);
    return rc;
}

static enum rh_rc add_digests(struct publication *p, struct rh_json *list, struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    for (size_t i = 0; i < p->plan->file_count && rc == RH_OK; i++) {
        char *dir = rh_task_artifact(p->task, "digest", (int64_t)i);
        char *path = rh_fs_join(dir, "digest.json");
        struct rh_json *digest = NULL, *entry = rh_json_new_object();
        const char *name = NULL, *sha256 = NULL;
        int64_t size = 0;
        rc = rh_json_read(path, PUBLICATION_JSON_MAX, &digest, err);
        if (rc == RH_OK)
            rc = rh_json_want_string(digest, "file", path, &name, err);
        if (rc == RH_OK)
            rc = rh_json_want_int(digest, "size", path, &size, err);
        if (rc == RH_OK)
            rc = rh_json_want_string(digest, "sha256", path, &sha256, err);
        if (rc == RH_OK) {
            rh_json_set_string(entry, "name", publication_last_part(name));
            rh_json_set_int(entry, "size", size);
            rh_json_set_string(entry, "sha256", sha256);
            rh_json_append(list, entry);
        } else {
            rh_json_free(entry);
        }
        rh_json_free(digest);
        rh_free(path);
        rh_free(dir);
    }
    return rc;
}

/* What tuning reports of a block; nothing when there is no report. */
static void add_block(struct publication *p, int64_t block)
{
    static const char *const keys[] = {"init_loss", "best_loss", "best_iter"};
    char *dir = rh_task_artifact(p->task, "tune", block);
    char *path = rh_fs_join(dir, "report.json");
    struct rh_json *report = NULL;
    if (rh_fs_exists(path) && rh_json_read(path, PUBLICATION_JSON_MAX, &report, NULL) == RH_OK) {
        struct rh_json *entry = rh_json_new_object();
        rh_json_set_int(entry, "block", block);
        if (rh_json_string(rh_json_get(report, "unit")))
            rh_json_set(entry, "unit", rh_json_copy(rh_json_get(report, "unit")));
        for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
            const struct rh_json *value = rh_json_get(report, keys[k]);
            if (rh_json_type(value) == RH_JSON_NUMBER)
                rh_json_set(entry, keys[k], rh_json_copy(value));
        }
        if (rh_json_get(entry, keys[0]))
            rh_json_append(p->blocks, entry);
        else
            rh_json_free(entry);
    }
    rh_json_free(report);
    rh_free(path);
    rh_free(dir);
}

enum rh_rc publication_history(struct publication *p, struct rh_error *err)
{
    struct rh_json *list = rh_json_new_array();
    p->source = rh_json_new_object();
    p->blocks = rh_json_new_array();
    rh_json_set_string(p->source, "reference", p->source_name);
    rh_json_set(p->source, "files", list);
    enum rh_rc rc = add_digests(p, list, err);
    if (rc == RH_OK)
        rc = add_meta(p, list, err);
    for (int64_t b = 0; b < rh_model_plan_steps(p->plan) && rc == RH_OK; b++)
        add_block(p, b);
    return rc;
}

struct rh_json *publication_recipe(const struct rh_recipe *recipe)
{
    struct rh_json *json = rh_json_copy(recipe->canonical);
    rh_json_remove(json, "resources");
    char *dataset = rh_dataset_public_text(recipe->dataset);
    rh_json_set_string(rh_json_get_mutable(json, "calibration"), "dataset", dataset);
    rh_free(dataset);
    return json;
}

/* The digest of the calibration rows pins them, wherever the text came from. */
static void add_calibration(const struct publication *p, struct rh_json *root)
{
    bool probed = rh_task_recipe(p->task)->top_up_rows > 0;
    char *dir = rh_task_artifact(p->task, probed ? "probe" : "calibrate", 0);
    struct rh_json *manifest = NULL;
    const struct rh_json *files = NULL;
    if (artifact_files(dir, &manifest, &files, NULL) == RH_OK) {
        for (const struct rh_json *f = rh_json_first(files); f; f = rh_json_next(f)) {
            const char *name = rh_json_string(rh_json_get(f, "name"));
            const char *sha256 = rh_json_string(rh_json_get(f, "sha256"));
            if (name && sha256 && strcmp(name, "ids.safetensors") == 0) {
                struct rh_json *node = rh_json_new_object();
                rh_json_set_string(node, "rows_sha256", sha256);
                rh_json_set(root, "calibration", node);
            }
        }
    }
    rh_json_free(manifest);
    rh_free(dir);
}

enum rh_rc publication_manifest(struct publication *p, struct rh_error *err)
{
    const struct rh_recipe *recipe = rh_task_recipe(p->task);
    struct rh_json *root = rh_json_new_object(), *program = rh_json_new_object();
    rh_json_set_string(program, "name", "roundhouse");
    rh_json_set_string(program, "version", RH_VERSION);
    rh_json_set_string(root, "schema", SCHEMA);
    rh_json_set(root, "program", program);
    rh_json_set(root, "recipe", publication_recipe(recipe));
    rh_json_set_string(root, "recipe_sha256", recipe->digest);
    rh_json_set(root, "source", rh_json_copy(p->source));
    add_calibration(p, root);
    rh_json_set(root, "blocks", rh_json_copy(p->blocks));
    rh_json_set_int(root, "tensors", (int64_t)p->plan->all.tensors);
    rh_json_set_int(root, "tensor_bytes", (int64_t)p->plan->all.bytes);
    rh_json_set(root, "files", rh_json_copy(p->files));
    char *path = rh_fs_join(p->staging, PUBLICATION_MANIFEST);
    enum rh_rc rc = rh_json_write(path, root, err);
    rh_free(path);
    rh_json_free(root);
    return rc;
}
