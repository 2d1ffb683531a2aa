#include "job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "download/download.h"
#include "pack/pack.h"
#include "quant/group.h"
#include "quant/pack.h"
#include "store/store.h"

static struct rh_error error;

static void must(enum rh_rc rc)
{
    if (rc == RH_OK)
        return;
    fprintf(stderr, "%s\n", error.message);
    abort();
}

char *job_path(const struct job *j, const char *op, int64_t index, const char *name)
{
    char *dir = rh_store_artifact(j->dir, op, index), *path = rh_fs_join(dir, name);
    rh_free(dir);
    return path;
}

enum rh_rc job_run(const struct job *j, const char *op, int64_t index, struct rh_error *err)
{
    bool download = strcmp(op, "plan") == 0 || strcmp(op, "fetch") == 0;
    *err = (struct rh_error){0};
    char *model = rh_format("file:%s", j->model);
    enum rh_rc rc = rh_stage_run_local(download ? &rh_download_stage : &rh_pack_stage, op, j->dir,
                                       j->recipe, model, "dir:/nowhere", index, index, err);
    rh_free(model);
    return rc;
}

void job_must_run(const struct job *j, const char *op, int64_t index)
{
    must(job_run(j, op, index, &error));
}

static struct job *new_job(const char *recipe)
{
    struct job *j = rh_alloc(sizeof *j);
    struct rh_json *json = NULL;
    char here[4096];
    if (!getcwd(here, sizeof here))
        abort();
    j->root = rh_format("%s/test-pack-XXXXXX", here);
    if (!mkdtemp(j->root))
        abort();
    j->dir = rh_fs_join(j->root, "job");
    j->out = rh_fs_join(j->root, "out");
    must(rh_json_parse(recipe, strlen(recipe), "recipe", &json, &error));
    must(rh_recipe_from_json(json, "recipe", &j->recipe, &error));
    rh_json_free(json);
    return j;
}

/* Adopts the model's path. */
static struct job *begin(struct job *j, char *model)
{
    j->model = model;
    must(rh_model_plan_new(j->model, j->recipe, &j->plan, &error));
    job_must_run(j, "plan", 0);
    for (size_t u = 0; u < j->plan->unit_count; u++)
        job_must_run(j, "fetch", (int64_t)u);
    return j;
}

struct job *job_new(const char *recipe)
{
    return begin(new_job(recipe), rh_strdup(NANO));
}

/* One tensor of the split checkpoint: rows of a source tensor. */
struct piece {
    const struct rh_tensor_info *source;
    uint64_t begin, bytes;
    size_t index;
};

static struct piece declare_piece(struct rh_safetensors_writer *w,
                                  const struct rh_tensor_info *source, const char *name,
                                  int64_t row, int64_t rows)
{
    int64_t columns = source->shape[2], shape[] = {rows, columns};
    uint64_t row_bytes = (uint64_t)columns * rh_dtype_size(source->dtype);
    return (struct piece){
        .source = source,
        .begin = (uint64_t)row * row_bytes,
        .bytes = (uint64_t)rows * row_bytes,
        .index = rh_safetensors_writer_add(w, name, source->dtype, 2, shape),
    };
}

/* Declares the experts of a fused tensor [experts, rows, columns]; gate_up_proj holds two linears.
 */
static size_t declare_experts(struct rh_safetensors_writer *w, const struct rh_tensor_info *t,
                              struct piece *pieces)
{
    const char *dot = strrchr(t->name, '.');
    bool both = strcmp(dot, ".gate_up_proj") == 0;
    size_t count = 0;
    for (int64_t e = 0; e < t->shape[0]; e++) {
        for (int k = 0; k < (both ? 2 : 1); k++) {
            int64_t rows = both ? t->shape[1] / 2 : t->shape[1];
            char *name =
                rh_format("%.*s.%lld.%s.weight", (int)(dot - t->name), t->name, (long long)e,
                          !both ? "down_proj"
                          : k   ? "up_proj"
                                : "gate_proj");
            pieces[count++] = declare_piece(w, t, name, e * t->shape[1] + k * rows, rows);
            rh_free(name);
        }
    }
    return count;
}

static void write_split(const struct rh_safetensors *source, const char *path)
{
    enum { PIECES_MAX = 4096 };
    struct rh_safetensors_writer *w = rh_safetensors_writer_new(path);
    struct piece *pieces = rh_alloc_array(PIECES_MAX, sizeof *pieces);
    size_t count = 0;
    for (size_t i = 0; i < rh_safetensors_count(source); i++) {
        const struct rh_tensor_info *t = rh_safetensors_at(source, i);
        RH_ASSERT(count + 512 < PIECES_MAX);
        if (strncmp(t->name, "mtp.", 4) == 0 && strstr(t->name, ".experts."))
            count += declare_experts(w, t, pieces + count);
        else
            pieces[count++] = (struct piece){
                t, 0, t->bytes, rh_safetensors_writer_add(w, t->name, t->dtype, t->rank, t->shape)};
    }
    must(rh_safetensors_writer_begin(w, &error));
    for (size_t i = 0; i < count; i++) {
        void *data = rh_alloc(pieces[i].bytes);
        must(rh_safetensors_read(source, pieces[i].source, pieces[i].begin, pieces[i].bytes, data,
                                 &error));
        must(rh_safetensors_writer_put(w, pieces[i].index, 0, data, pieces[i].bytes, &error));
        rh_free(data);
    }
    must(rh_safetensors_writer_finish(w, &error));
    rh_safetensors_writer_free(w);
    rh_free(pieces);
}

struct job *job_new_split(const char *recipe)
{
    struct job *j = new_job(recipe);
    struct rh_checkpoint *c = NULL;
    char *model = rh_fs_join(j->root, "model"), *path = rh_fs_join(model, "model.safetensors");
    char **names = NULL;
    size_t count = 0;
    must(rh_fs_mkdirs(model, &error));
    must(rh_fs_list(NANO, &names, &count, &error));
    for (size_t i = 0; i < count; i++) {
        char *from = rh_fs_join(NANO, names[i]), *to = rh_fs_join(model, names[i]);
        if (!strstr(names[i], ".safetensors"))
            must(rh_fs_copy(from, to, NULL, &error));
        rh_free(from);
        rh_free(to);
    }
    must(rh_checkpoint_open(NANO, false, &c, &error));
    RH_ASSERT(rh_checkpoint_file_count(c) == 1);
    write_split(rh_checkpoint_file(c, 0), path);
    rh_checkpoint_close(c);
    rh_fs_list_free(names, count);
    rh_free(path);
    return begin(j, model);
}

void job_free(struct job *j)
{
    must(rh_fs_remove_tree(j->root, &error));
    rh_model_plan_free(j->plan);
    rh_recipe_free(j->recipe);
    rh_free(j->root);
    rh_free(j->model);
    rh_free(j->dir);
    rh_free(j->out);
    rh_free(j);
}

float *job_weight(const struct job *j, const struct rh_linear *l)
{
    struct rh_checkpoint *c = NULL;
    size_t file = 0, count = (size_t)(l->out_features * l->in_features);
    uint64_t row = (uint64_t)l->in_features * rh_dtype_size(l->dtype);
    uint64_t bytes = (uint64_t)l->out_features * row;
    void *raw = rh_alloc(bytes);
    float *weight = rh_alloc_array(count, sizeof *weight);
    must(rh_checkpoint_open(j->model, false, &c, &error));
    const struct rh_tensor_info *t = rh_checkpoint_find(c, l->source, &file);
    RH_ASSERT(t != NULL);
    must(rh_safetensors_read(rh_checkpoint_file(c, file), t, (uint64_t)l->source_row * row, bytes,
                             raw, &error));
    rh_to_f32(l->dtype, raw, weight, count);
    rh_checkpoint_close(c);
    rh_free(raw);
    return weight;
}

const struct rh_linear *job_linear(const struct job *j, const char *name)
{
    for (size_t u = 0; u < j->plan->unit_count; u++) {
        for (size_t i = 0; i < j->plan->units[u].linear_count; i++) {
            if (strcmp(j->plan->units[u].linears[i].name, name) == 0)
                return &j->plan->units[u].linears[i];
        }
    }
    fprintf(stderr, "no linear %s\n", name);
    abort();
}

static size_t declare(struct rh_safetensors_writer *w, const struct rh_linear *l, const char *part,
                      enum rh_dtype dtype, int64_t columns)
{
    int64_t shape[] = {l->out_features, columns};
    char *name = rh_format("%s.%s", l->name, part);
    size_t index = rh_safetensors_writer_add(w, name, dtype, 2, shape);
    rh_free(name);
    return index;
}

static void put_linear(const struct job *j, struct rh_safetensors_writer *w,
                       const struct rh_linear *l, const size_t to[3],
                       const struct job_damage *damage)
{
    struct rh_scheme scheme = {l->bits, l->sym, l->group_size};
    size_t count = (size_t)(l->out_features * l->in_features);
    size_t groups = (size_t)(l->out_features * rh_linear_groups(l));
    size_t stored = (size_t)(l->out_features * rh_codes_row_bytes(l->in_features, l->bits));
    float *weight = job_weight(j, l);
    uint8_t *codes = rh_alloc(count), *zeros = rh_alloc(groups), *raw = rh_alloc(stored);
    uint16_t *scales = rh_alloc_array(groups, sizeof *scales);
    must(rh_round_to_nearest(&scheme, weight, l->out_features, l->in_features, false, codes, scales,
                             l->sym ? NULL : zeros, &error));
    rh_codes_store(codes, l->out_features, l->in_features, l->bits, raw);
    if (damage && damage->linear && strcmp(damage->linear, l->name) == 0) {
        raw[0] = damage->code ? damage->code : raw[0];
        scales[0] = damage->scale ? damage->scale : scales[0];
    }
    must(rh_safetensors_writer_put(w, to[0], 0, raw, stored, &error));
    must(rh_safetensors_writer_put(w, to[1], 0, scales, groups * sizeof *scales, &error));
    if (!l->sym)
        must(rh_safetensors_writer_put(w, to[2], 0, zeros, groups, &error));
    rh_free(weight);
    rh_free(codes);
    rh_free(zeros);
    rh_free(raw);
    rh_free(scales);
}

void job_tune(const struct job *j, int64_t block, const struct job_damage *damage)
{
    const struct rh_unit *unit = rh_model_plan_step(j->plan, block);
    char *staging = rh_store_staging(j->dir, "tune", block, 1);
    char *path = rh_fs_join(staging, "block.safetensors");
    size_t(*to)[3] = rh_alloc_array(unit->linear_count, sizeof *to);
    must(rh_fs_mkdirs(staging, &error));
    struct rh_safetensors_writer *w = rh_safetensors_writer_new(path);
    for (size_t i = 0; i < unit->linear_count; i++) {
        const struct rh_linear *l = &unit->linears[i];
        if (l->bits >= 16)
            continue;
        int64_t groups = rh_linear_groups(l);
        to[i][0] = declare(w, l, "codes", RH_U8, rh_codes_row_bytes(l->in_features, l->bits));
        to[i][1] = declare(w, l, "scales", RH_F16, groups);
        if (!l->sym)
            to[i][2] = declare(w, l, "zeros", RH_U8, groups);
    }
    must(rh_safetensors_writer_begin(w, &error));
    for (size_t i = 0; i < unit->linear_count; i++) {
        if (unit->linears[i].bits < 16)
            put_linear(j, w, &unit->linears[i], to[i], damage);
    }
    must(rh_safetensors_writer_finish(w, &error));
    rh_safetensors_writer_free(w);
    must(rh_store_seal(staging, "tune", block, j->recipe->digest, NULL, &error));
    must(rh_store_commit(staging, j->dir, "tune", block, &error));
    rh_free(to);
    rh_free(path);
    rh_free(staging);
}

/* All files of an artifact but its manifest. */
static void gather(const struct job *j, const char *op, int64_t index)
{
    char *dir = rh_store_artifact(j->dir, op, index);
    char **names = NULL;
    size_t count = 0;
    must(rh_fs_list(dir, &names, &count, &error));
    for (size_t i = 0; i < count; i++) {
        char *from = rh_fs_join(dir, names[i]), *to = rh_fs_join(j->out, names[i]);
        if (strcmp(names[i], "MANIFEST.json") != 0) {
            RH_ASSERT(!rh_fs_exists(to));
            must(rh_fs_copy(from, to, NULL, &error));
        }
        rh_free(from);
        rh_free(to);
    }
    rh_fs_list_free(names, count);
    rh_free(dir);
}

void job_finish(const struct job *j)
{
    for (size_t u = 0; u < j->plan->unit_count; u++) {
        if (j->plan->units[u].step >= 0)
            job_tune(j, j->plan->units[u].step, NULL);
        job_must_run(j, "pack", (int64_t)u);
    }
    must(rh_fs_mkdirs(j->out, &error));
    for (size_t s = 0; s < j->plan->shard_count; s++) {
        job_must_run(j, "shard", (int64_t)s);
        gather(j, "shard", (int64_t)s);
    }
    job_must_run(j, "finalize", 0);
    gather(j, "finalize", 0);
}
