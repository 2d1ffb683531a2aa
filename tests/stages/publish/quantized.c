#include "quantized.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "quant/group.h"
#include "quant/pack.h"

#define INDEX "model.safetensors.index.json"

static struct rh_error error;

static void must(enum rh_rc rc)
{
    if (rc == RH_OK)
        return;
    fprintf(stderr, "%s\n", error.message);
    abort();
}

struct quantized *quantized_new(const char *recipe)
{
    struct quantized *q = rh_alloc(sizeof *q);
    struct rh_json *json = NULL;
    must(rh_json_parse(recipe, strlen(recipe), "recipe", &json, &error));
    must(rh_recipe_from_json(json, "recipe", &q->recipe, &error));
    must(rh_model_plan_new(NANO, q->recipe, &q->plan, &error));
    rh_json_free(json);
    return q;
}

void quantized_free(struct quantized *q)
{
    rh_recipe_free(q->recipe);
    rh_model_plan_free(q->plan);
    rh_free(q);
}

static void *read_rows(const struct rh_checkpoint *c, const char *name, uint64_t begin,
                       uint64_t bytes)
{
    size_t file = 0;
    void *data = NULL;
    const struct rh_tensor_info *t = rh_checkpoint_find(c, name, &file);
    RH_ASSERT(t != NULL);
    must(rh_try_alloc(bytes, name, &data, &error));
    must(rh_safetensors_read(rh_checkpoint_file(c, file), t, begin, bytes, data, &error));
    return data;
}

static void *read_linear(const struct rh_checkpoint *c, const struct rh_linear *l)
{
    uint64_t row = (uint64_t)l->in_features * rh_dtype_size(l->dtype);
    return read_rows(c, l->source, (uint64_t)l->source_row * row, (uint64_t)l->out_features * row);
}

/* The part `k` of a packed linear: qweight, qzeros, scales. */
static void *pack_part(const struct rh_checkpoint *c, const struct rh_linear *l, int k)
{
    size_t count = (size_t)(l->out_features * l->in_features);
    int64_t groups = rh_linear_groups(l);
    size_t scale_count = (size_t)(l->out_features * groups);
    struct rh_scheme scheme = {l->bits, l->sym, l->group_size};
    void *raw = read_linear(c, l);
    float *w = rh_alloc_array(count, sizeof *w);
    uint8_t *codes = rh_alloc(count), *zeros = l->sym ? NULL : rh_alloc(scale_count);
    uint16_t *scales = rh_alloc_array(scale_count, sizeof *scales);
    void *out = rh_alloc(count * 4);
    rh_to_f32(l->dtype, raw, w, count);
    must(rh_round_to_nearest(&scheme, w, l->out_features, l->in_features, false, codes, scales,
                             zeros, &error));
    if (k == 0)
        rh_pack_qweight(codes, l->out_features, l->in_features, l->bits, out);
    else if (k == 1)
        rh_pack_qzeros(zeros, l->out_features, groups, l->bits, out);
    else
        rh_pack_scales(scales, l->out_features, groups, out);
    rh_free(raw);
    rh_free(w);
    rh_free(codes);
    rh_free(zeros);
    rh_free(scales);
    return out;
}

/* The bytes of an output tensor; owned by caller. */
static void *make_output(const struct quantized *q, const struct rh_checkpoint *c,
                         const struct rh_output_tensor *o)
{
    static const char *const suffixes[] = {".qweight", ".qzeros", ".scales", ".weight"};
    if (rh_checkpoint_find(c, o->name, NULL))
        return read_rows(c, o->name, 0, o->bytes);
    const struct rh_unit *unit = &q->plan->units[o->unit];
    for (size_t i = 0; i < unit->linear_count; i++) {
        const struct rh_linear *l = &unit->linears[i];
        size_t size = strlen(l->name);
        if (strncmp(o->name, l->name, size) != 0)
            continue;
        for (int k = 0; k < 4; k++) {
            if (strcmp(o->name + size, suffixes[k]) == 0)
                return k < 3 ? pack_part(c, l, k) : read_linear(c, l);
        }
    }
    fprintf(stderr, "nothing makes %s\n", o->name);
    abort();
}

static bool left_out(const struct mistakes *wrong, const char *name)
{
    return wrong && wrong->leave_out &&
           strncmp(name, wrong->leave_out, strlen(wrong->leave_out)) == 0;
}

void quantized_write_shard(const struct quantized *q, size_t shard, const char *dir,
                           const struct mistakes *wrong)
{
    const struct rh_model_plan *p = q->plan;
    struct rh_checkpoint *c = NULL;
    must(rh_checkpoint_open(NANO, false, &c, &error));
    char *path = rh_fs_join(dir, p->shards[shard].name);
    struct rh_safetensors_writer *w = rh_safetensors_writer_new(path);
    size_t *at = rh_alloc_array(p->output_count, sizeof *at), extra = 0;
    int64_t extra_shape[] = {4};
    for (size_t i = 0; i < p->output_count; i++) {
        const struct rh_output_tensor *o = &p->outputs[i];
        if (o->shard == shard && !left_out(wrong, o->name))
            at[i] = rh_safetensors_writer_add(w, o->name, o->dtype, o->rank, o->shape);
    }
    bool add = wrong && wrong->extra && shard == 0;
    if (add)
        extra = rh_safetensors_writer_add(w, wrong->extra, RH_BF16, 1, extra_shape);
    must(rh_safetensors_writer_begin(w, &error));
    for (size_t i = 0; i < p->output_count; i++) {
        const struct rh_output_tensor *o = &p->outputs[i];
        if (o->shard != shard || left_out(wrong, o->name))
            continue;
        void *data = make_output(q, c, o);
        must(rh_safetensors_writer_put(w, at[i], 0, data, o->bytes, &error));
        rh_free(data);
    }
    if (add)
        must(rh_safetensors_writer_put(w, extra, 0, "\0\0\0\0\0\0\0\0", 8, &error));
    must(rh_safetensors_writer_finish(w, &error));
    rh_safetensors_writer_free(w);
    rh_checkpoint_close(c);
    rh_free(at);
    rh_free(path);
}

static void write_index(const struct quantized *q, const char *dir, const struct mistakes *wrong)
{
    struct rh_json *root = rh_json_new_object(), *metadata = rh_json_new_object();
    struct rh_json *map = rh_json_new_object();
    int64_t total = wrong ? wrong->size_error : 0;
    for (size_t i = 0; i < q->plan->output_count; i++) {
        const struct rh_output_tensor *o = &q->plan->outputs[i];
        if (left_out(wrong, o->name))
            continue;
        total += (int64_t)o->bytes;
        if (!wrong || !wrong->index_skip || strcmp(wrong->index_skip, o->name) != 0)
            rh_json_set_string(map, o->name, q->plan->shards[o->shard].name);
    }
    if (wrong && wrong->extra && !wrong->not_in_index) {
        total += 8;
        if (!rh_json_get(map, wrong->extra))
            rh_json_set_string(map, wrong->extra, q->plan->shards[0].name);
    }
    rh_json_set_int(metadata, "total_size", total);
    rh_json_set(root, "metadata", metadata);
    rh_json_set(root, "weight_map", map);
    write_document(dir, INDEX, root);
    rh_json_free(root);
}

void quantized_write_rest(const struct quantized *q, const char *dir, const struct mistakes *wrong)
{
    static const char *const copies[] = {
        "chat_template.jinja", "generation_config.json", "preprocessor_config.json",
        "tokenizer.json",      "tokenizer_config.json",  "video_preprocessor_config.json"};
    write_index(q, dir, wrong);
    struct rh_json *quantization = rh_quantization_config(q->plan, q->recipe);
    struct rh_json *config = read_document(NANO, "config.json");
    write_document(dir, "quantization_config.json", quantization);
    rh_json_set(config, "quantization_config", quantization);
    write_document(dir, "config.json", config);
    rh_json_free(config);
    for (size_t i = 0; i < sizeof copies / sizeof copies[0]; i++) {
        char *from = rh_fs_join(NANO, copies[i]), *to = rh_fs_join(dir, copies[i]);
        must(rh_fs_copy(from, to, NULL, &error));
        rh_free(from);
        rh_free(to);
    }
}

char *quantized_write(const struct quantized *q, const struct mistakes *wrong)
{
    char *dir = new_directory();
    for (size_t s = 0; s < q->plan->shard_count; s++)
        quantized_write_shard(q, s, dir, wrong);
    quantized_write_rest(q, dir, wrong);
    return dir;
}

void quantized_add_manifest(const struct quantized *q, const char *dir)
{
    struct rh_json *root = rh_json_new_object(), *files = rh_json_new_array();
    char **names = NULL;
    size_t count = 0;
    must(rh_fs_list(dir, &names, &count, &error));
    for (size_t i = 0; i < count; i++) {
        char hex[RH_SHA256_HEX_SIZE];
        uint64_t size = 0;
        char *path = rh_fs_join(dir, names[i]);
        struct rh_json *entry = rh_json_new_object();
        must(rh_sha256_file(path, hex, &size, &error));
        rh_json_set_string(entry, "name", names[i]);
        rh_json_set_int(entry, "size", (int64_t)size);
        rh_json_set_string(entry, "sha256", hex);
        rh_json_append(files, entry);
        rh_free(path);
    }
    rh_fs_list_free(names, count);
    rh_json_set(root, "recipe", rh_json_copy(q->recipe->canonical));
    rh_json_set(root, "files", files);
    write_document(dir, "MANIFEST.json", root);
    rh_json_free(root);
}

char *new_directory(void)
{
    char here[4096];
    if (!getcwd(here, sizeof here))
        abort();
    char *dir = rh_format("%s/publish-test-XXXXXX", here);
    if (!mkdtemp(dir))
        abort();
    return dir;
}

static char *find_tensor(const char *dir, const char *name, uint64_t *offset)
{
    struct rh_checkpoint *c = NULL;
    size_t file = 0;
    must(rh_checkpoint_open(dir, false, &c, &error));
    const struct rh_tensor_info *t = rh_checkpoint_find(c, name, &file);
    RH_ASSERT(t != NULL);
    *offset = t->offset;
    char *path = rh_fs_join(dir, rh_checkpoint_file_name(c, file));
    rh_checkpoint_close(c);
    return path;
}

void tensor_read(const char *dir, const char *name, uint64_t begin, void *data, size_t size)
{
    uint64_t offset = 0;
    char *path = find_tensor(dir, name, &offset);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    RH_ASSERT(pread(fd, data, size, (off_t)(offset + begin)) == (ssize_t)size);
    close(fd);
    rh_free(path);
}

void tensor_write(const char *dir, const char *name, uint64_t begin, const void *data, size_t size)
{
    uint64_t offset = 0;
    char *path = find_tensor(dir, name, &offset);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    RH_ASSERT(pwrite(fd, data, size, (off_t)(offset + begin)) == (ssize_t)size);
    close(fd);
    rh_free(path);
}

struct rh_json *read_document(const char *dir, const char *name)
{
    char *path = rh_fs_join(dir, name);
    struct rh_json *json = NULL;
    must(rh_json_read(path, UINT64_C(64) << 20, &json, &error));
    rh_free(path);
    return json;
}

void write_document(const char *dir, const char *name, const struct rh_json *json)
{
    char *path = rh_fs_join(dir, name);
    must(rh_json_write(path, json, &error));
    rh_free(path);
}

void remove_directory(char *dir)
{
    must(rh_fs_remove_tree(dir, &error));
    rh_free(dir);
}
