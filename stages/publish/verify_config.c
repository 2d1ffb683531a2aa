#include <string.h>

#include "base/fs.h"
#include "base/mem.h"

#include "verify_internal.h"

#define CONFIG_NAME       "config.json"
#define QUANTIZATION_NAME "quantization_config.json"
#define CONFIG_MAX        (UINT64_C(64) << 20)
#define VISUAL_PREFIX     "model.visual"
#define PATTERN_MAX       512

static bool same_json(const struct rh_json *a, const struct rh_json *b)
{
    char *x = rh_json_canonical(a), *y = rh_json_canonical(b);
    bool same = strcmp(x, y) == 0;
    rh_free(x);
    rh_free(y);
    return same;
}

static struct rh_json *read_json(struct verify *v, const char *name)
{
    char *path = rh_fs_join(v->dir, name);
    struct rh_json *json = NULL;
    struct rh_error why = {0};
    if (!rh_fs_exists(path))
        verify_problem(v, RH_VERIFY_CONFIG, "%s is missing", name);
    else if (rh_json_read(path, CONFIG_MAX, &json, &why) != RH_OK)
        verify_problem(v, RH_VERIFY_CONFIG, "%s", why.message);
    else if (rh_json_type(json) != RH_JSON_OBJECT)
        verify_problem(v, RH_VERIFY_CONFIG, "%s is not a JSON object", name);
    rh_free(path);
    return json;
}

static void want_text(struct verify *v, const char *key, const char *wanted)
{
    const char *text = rh_json_string(rh_json_get(v->quantization, key));
    if (!text || strcmp(text, wanted) != 0)
        verify_problem(v, RH_VERIFY_CONFIG, "quantization_config.%s is %.60s, expected %s", key,
                       text ? text : "missing", wanted);
}

/* An entry is a prefix of module names; the list may also be one text with commas. */
static bool lists_block(const struct rh_json *list, const char *prefix)
{
    if (rh_json_string(list))
        return strstr(rh_json_string(list), prefix) != NULL;
    for (const struct rh_json *e = rh_json_first(list); e; e = rh_json_next(e)) {
        const char *text = rh_json_string(e);
        if (text && strncmp(text, prefix, strlen(prefix)) == 0)
            return true;
    }
    return false;
}

/* What can be said of the object before the tensors are known. */
static void check_object(struct verify *v)
{
    want_text(v, "quant_method", "auto-round");
    want_text(v, "packing_format", "auto_round:auto_gptq");
    want_text(v, "data_type", "int");
    const struct rh_json *list = rh_json_get(v->quantization, "block_name_to_quantize");
    if (!list)
        verify_problem(v, RH_VERIFY_CONFIG,
                       "quantization_config.block_name_to_quantize is missing");
    else if (lists_block(list, VISUAL_PREFIX))
        verify_problem(v, RH_VERIFY_CONFIG,
                       "quantization_config.block_name_to_quantize lists " VISUAL_PREFIX
                       ", which is never quantized");
}

/* ".*\.mlp\.gate$" and the like: text, escaped dots, a leading ".*" or "^", a trailing ".*" or "$".
 * Says whether `name` matches; false in *known for anything else. */
static bool pattern_matches(const char *pattern, const char *name, bool *known)
{
    char text[PATTERN_MAX];
    size_t used = 0, size = strlen(pattern);
    bool at_start = false, at_end = false;
    if (*pattern == '^') {
        at_start = true;
        pattern++;
    } else if (strncmp(pattern, ".*", 2) == 0) {
        pattern += 2;
    }
    for (; *pattern && used + 1 < sizeof text; pattern++) {
        if (pattern[0] == '$' && !pattern[1]) {
            at_end = true;
        } else if (strcmp(pattern, ".*") == 0) {
            break;
        } else if (pattern[0] == '\\' && pattern[1] == '.') {
            text[used++] = *++pattern;
        } else if (strchr(".*+?^$()[]{}|\\", *pattern)) {
            *known = false;
            return false;
        } else {
            text[used++] = *pattern;
        }
    }
    text[used] = '\0';
    if (size >= sizeof text) {
        *known = false;
        return false;
    }
    if (at_start && at_end)
        return strcmp(name, text) == 0;
    if (at_start)
        return strncmp(name, text, used) == 0;
    return at_end ? verify_ends_with(name, text) : strstr(name, text) != NULL;
}

static bool says_16(const struct rh_json *entry)
{
    int64_t bits = 0;
    return rh_json_int(rh_json_get(entry, "bits"), &bits) && bits >= 16;
}

bool verify_config_keeps(const struct rh_json *quantization, const char *name, bool *known)
{
    const struct rh_json *extra = rh_json_get(quantization, "extra_config");
    const struct rh_json *exact = rh_json_get(extra, name);
    *known = true;
    if (exact)
        return says_16(exact);
    for (const struct rh_json *e = rh_json_first(extra); e; e = rh_json_next(e)) {
        const char *key = rh_json_key(e);
        if (strpbrk(key, "*+?^$()[]{}|\\") && pattern_matches(key, name, known))
            return says_16(e);
    }
    return false;
}

static void copy_key(struct rh_json *to, const struct rh_json *from, const char *key)
{
    const struct rh_json *value = rh_json_get(from, key);
    if (value)
        rh_json_set(to, key, rh_json_copy(value));
}

/* Names that extra_config keeps at 16 bit, as an ignore list. */
static struct rh_json *kept_names(const struct rh_json *quantization)
{
    struct rh_json *names = rh_json_new_array();
    const struct rh_json *extra = rh_json_get(quantization, "extra_config");
    for (const struct rh_json *e = rh_json_first(extra); e; e = rh_json_next(e)) {
        const char *key = rh_json_key(e);
        /* Gates stay 16 bit anyway, and there is one in every layer. */
        if (says_16(e) && !strpbrk(key, "*+?^$()[]{}|\\") && !verify_ends_with(key, ".mlp.gate") &&
            !verify_ends_with(key, "_gate"))
            rh_json_append(names, rh_json_new_string(key));
    }
    return names;
}

/* Only what decides names and shapes: the keys of the recipe in MANIFEST.json where there is one
 * (its ignore list is the original), else what quantization_config tells. */
static struct rh_json *recipe_json(const struct verify *v)
{
    const struct rh_json *stored = rh_json_get(v->manifest, "recipe");
    const struct rh_json *q = v->quantization;
    struct rh_json *root = rh_json_new_object();
    struct rh_json *quant = rh_json_new_object();
    struct rh_json *mtp = rh_json_new_object();
    struct rh_json *output = rh_json_new_object();
    const struct rh_json *from = stored ? rh_json_get(stored, "quant") : q;
    copy_key(quant, from, "bits");
    copy_key(quant, from, "group_size");
    copy_key(quant, from, "sym");
    if (stored) {
        copy_key(quant, from, "ignore_layers");
        copy_key(mtp, rh_json_get(stored, "mtp"), "method");
        copy_key(output, rh_json_get(stored, "output"), "max_shard_bytes");
    } else {
        bool listed = lists_block(rh_json_get(q, "block_name_to_quantize"), "mtp");
        rh_json_set(quant, "ignore_layers", kept_names(q));
        const char *method =
            rh_json_string(rh_json_get(rh_json_get(q, "roundhouse"), "mtp_method"));
        bool tuned = method && strcmp(method, "tune") == 0;
        rh_json_set_string(mtp, "method", !listed ? "keep" : tuned ? "tune" : "rtn");
    }
    rh_json_set(root, "quant", quant);
    rh_json_set(root, "mtp", mtp);
    rh_json_set(root, "output", output);
    return root;
}

static void derive_recipe(struct verify *v)
{
    struct rh_json *json = recipe_json(v);
    struct rh_error why = {0};
    int64_t bits = 0, group = 0;
    if (rh_recipe_from_json(json, "quantization_config", &v->recipe, &why) != RH_OK) {
        verify_problem(v, RH_VERIFY_CONFIG, "%s", why.message);
        goto out;
    }
    if (!rh_json_int(rh_json_get(v->quantization, "bits"), &bits) || bits != v->recipe->bits)
        verify_problem(v, RH_VERIFY_CONFIG, "quantization_config.bits is %lld, expected %d",
                       (long long)bits, v->recipe->bits);
    if (!rh_json_int(rh_json_get(v->quantization, "group_size"), &group) ||
        group != v->recipe->group_size)
        verify_problem(v, RH_VERIFY_CONFIG, "quantization_config.group_size is %lld, expected %lld",
                       (long long)group, (long long)v->recipe->group_size);
    if (rh_json_bool(rh_json_get(v->quantization, "sym"), !v->recipe->sym) != v->recipe->sym)
        verify_problem(v, RH_VERIFY_CONFIG,
                       "quantization_config.sym is missing or differs from "
                       "the recipe's");
out:
    rh_json_free(json);
}

enum rh_rc verify_config(struct verify *v, struct rh_error *err)
{
    (void)err;
    verify_ran(v, RH_VERIFY_CONFIG, 2);
    v->config = read_json(v, CONFIG_NAME);
    v->quantization = read_json(v, QUANTIZATION_NAME);
    const struct rh_json *inner = rh_json_get(v->config, "quantization_config");
    if (v->config && rh_json_type(inner) != RH_JSON_OBJECT)
        verify_problem(v, RH_VERIFY_CONFIG,
                       CONFIG_NAME " has no quantization_config; loaders would take the model for "
                                   "an unquantized one");
    else if (inner && v->quantization && !same_json(inner, v->quantization))
        verify_problem(v, RH_VERIFY_CONFIG,
                       CONFIG_NAME ".quantization_config and " QUANTIZATION_NAME " differ");
    if (rh_json_type(inner) == RH_JSON_OBJECT) {
        rh_json_free(v->quantization);
        v->quantization = rh_json_copy(inner);
    }
    if (rh_json_type(v->config) == RH_JSON_OBJECT)
        rh_json_remove(v->config, "quantization_config");
    if (rh_json_type(v->quantization) != RH_JSON_OBJECT)
        return RH_OK;
    check_object(v);
    derive_recipe(v);
    if (v->recipe)
        verify_detail(v, RH_VERIFY_CONFIG, "%d bits, group size %lld, %s", v->recipe->bits,
                      (long long)v->recipe->group_size,
                      v->recipe->sym ? "symmetric" : "asymmetric");
    return RH_OK;
}

/* Files that must come from the source unchanged, when it has them. */
static const char *const side_files[] = {
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
};

/* Where the source's side files are; owned by caller. NULL: nowhere. */
static char *side_dir(const struct verify *v)
{
    if (v->options.source_job)
        return rh_format("%s/artifacts/plan-00000/meta", v->options.source_job);
    return rh_strdup(v->source_dir);
}

static enum rh_rc compare_side_file(struct verify *v, const char *source, const char *name,
                                    uint64_t *count, struct rh_error *err)
{
    char *theirs = rh_fs_join(source, name), *ours = rh_fs_join(v->dir, name);
    char *a = NULL, *b = NULL;
    size_t a_size = 0, b_size = 0;
    enum rh_rc rc = RH_OK;
    if (!rh_fs_exists(theirs))
        goto out;
    (*count)++;
    if (!rh_fs_exists(ours)) {
        verify_problem(v, RH_VERIFY_SIDE_FILES, "%s is missing, the source has it", name);
        goto out;
    }
    rc = rh_fs_read(theirs, VERIFY_JSON_MAX, &a, &a_size, err);
    if (rc == RH_OK)
        rc = rh_fs_read(ours, VERIFY_JSON_MAX, &b, &b_size, err);
    if (rc == RH_OK && (a_size != b_size || memcmp(a, b, a_size) != 0))
        verify_problem(v, RH_VERIFY_SIDE_FILES, "%s differs from the source's", name);
out:
    rh_free(a);
    rh_free(b);
    rh_free(theirs);
    rh_free(ours);
    return rc;
}

/* config.json must be the source's but for the inserted object. */
static void compare_config(struct verify *v, const char *source)
{
    char *path = rh_fs_join(source, CONFIG_NAME);
    struct rh_json *theirs = NULL;
    struct rh_error why = {0};
    if (rh_json_read(path, CONFIG_MAX, &theirs, &why) != RH_OK)
        verify_problem(v, RH_VERIFY_CONFIG, "%s", why.message);
    else if (v->config && !same_json(theirs, v->config))
        verify_problem(v, RH_VERIFY_CONFIG,
                       CONFIG_NAME " differs from the source's in more than quantization_config");
    rh_json_free(theirs);
    rh_free(path);
}

static bool has_file(const struct verify *v, const char *name)
{
    char *path = rh_fs_join(v->dir, name);
    bool there = rh_fs_exists(path);
    rh_free(path);
    return there;
}

enum rh_rc verify_side_files(struct verify *v, struct rh_error *err)
{
    uint64_t count = 0;
    enum rh_rc rc = RH_OK;
    char *source = side_dir(v);
    verify_ran(v, RH_VERIFY_SIDE_FILES, 0);
    if (!has_file(v, "tokenizer.json") && !(has_file(v, "vocab.json") && has_file(v, "merges.txt")))
        verify_problem(v, RH_VERIFY_SIDE_FILES,
                       "the tokenizer is missing: neither tokenizer.json nor vocab.json with "
                       "merges.txt is there");
    if (!has_file(v, "tokenizer_config.json"))
        verify_problem(v, RH_VERIFY_SIDE_FILES, "tokenizer_config.json is missing");
    for (size_t i = 0; i < sizeof side_files / sizeof side_files[0] && rc == RH_OK; i++) {
        if (source)
            rc = compare_side_file(v, source, side_files[i], &count, err);
        else
            count += has_file(v, side_files[i]);
    }
    if (source)
        compare_config(v, source);
    verify_ran(v, RH_VERIFY_SIDE_FILES, count);
    verify_detail(v, RH_VERIFY_SIDE_FILES, "%llu files%s", (unsigned long long)count,
                  source ? " equal the source's" : "");
    rh_free(source);
    return rc;
}
