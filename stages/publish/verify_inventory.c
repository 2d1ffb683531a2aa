#include <stdio.h>
#include <string.h>

#include "base/fs.h"
#include "base/mem.h"

#include "verify_internal.h"

/* The part of a name before `suffix`; owned by caller. */
static char *without(const char *name, const char *suffix)
{
    return rh_strndup(name, strlen(name) - strlen(suffix));
}

static const struct verify_tensor *find_part(const struct verify *v, const char *linear,
                                             const char *suffix)
{
    char *name = rh_format("%s%s", linear, suffix);
    const struct verify_tensor *t = verify_set_find(&v->output, name);
    rh_free(name);
    return t;
}

/* qweight, qzeros and scales come together, and instead of a weight. */
static void check_triple(struct verify *v, const char *name)
{
    static const char *const parts[] = {".qweight", ".qzeros", ".scales"};
    for (size_t i = 0; i < 3; i++) {
        if (!verify_ends_with(name, parts[i]))
            continue;
        char *linear = without(name, parts[i]);
        for (size_t k = 0; k < 3; k++) {
            /* The first part that is there speaks for the others. */
            if (k < i && find_part(v, linear, parts[k]))
                break;
            if (!find_part(v, linear, parts[k]) && k != i)
                verify_problem(v, RH_VERIFY_INVENTORY, "%.200s has %s but no %s", linear,
                               parts[i] + 1, parts[k] + 1);
        }
        if (i == 0 && find_part(v, linear, ".weight"))
            verify_problem(v, RH_VERIFY_INVENTORY,
                           "%.200s has a weight beside its qweight; loaders would read both",
                           linear);
        if (i == 0 && find_part(v, linear, ".g_idx"))
            verify_problem(v, RH_VERIFY_INVENTORY,
                           "%.200s has a g_idx, which auto_round:auto_gptq does not know", linear);
        rh_free(linear);
    }
}

/* The unquantized checkpoint that this one could have been made of: a weight for every qweight. */
static size_t imagine_source(const struct verify *v, struct rh_tensor_info *tensors)
{
    size_t count = 0;
    for (size_t i = 0; i < verify_set_count(&v->output); i++) {
        const struct rh_tensor_info *t = verify_set_at(&v->output, i)->info;
        struct rh_tensor_info *s = &tensors[count];
        if (verify_ends_with(t->name, ".qzeros") || verify_ends_with(t->name, ".scales") ||
            verify_ends_with(t->name, ".g_idx"))
            continue;
        *s = *t;
        s->offset = 0;
        if (verify_ends_with(t->name, ".qweight")) {
            char *linear = without(t->name, ".qweight");
            bool doubled = find_part(v, linear, ".weight") != NULL;
            s->name = rh_format("%s.weight", linear);
            rh_free(linear);
            if (doubled || t->rank != 2 || t->shape[0] > (INT64_C(1) << 40)) {
                rh_free((void *)(uintptr_t)s->name);
                continue;
            }
            s->dtype = RH_BF16;
            s->shape[0] = t->shape[1];
            s->shape[1] = t->shape[0] * 32 / v->recipe->bits;
            s->bytes = (uint64_t)rh_tensor_elements(s) * rh_dtype_size(s->dtype);
        } else {
            s->name = rh_strdup(t->name);
        }
        count++;
    }
    return count;
}

static void plan_from_output(struct verify *v)
{
    size_t room = verify_set_count(&v->output) + 1;
    struct rh_tensor_info *tensors = rh_alloc_array(room, sizeof *tensors);
    size_t count = imagine_source(v, tensors);
    struct rh_error why = {0};
    enum rh_rc rc = rh_model_plan_from_tensors(rh_json_copy(v->config), v->recipe, tensors, count,
                                               v->dir, &v->plan, &why);
    if (rc != RH_OK)
        verify_problem(v, rc == RH_ERR_UNSUPPORTED ? RH_VERIFY_CONFIG : RH_VERIFY_INVENTORY, "%s",
                       why.message);
    for (size_t i = 0; i < count; i++)
        rh_free((void *)(uintptr_t)tensors[i].name);
    rh_free(tensors);
}

static const struct rh_unit *unit_of_kind(const struct rh_model_plan *plan, enum rh_unit_kind kind)
{
    for (size_t u = 0; u < plan->unit_count; u++) {
        if (plan->units[u].kind == kind)
            return &plan->units[u];
    }
    return NULL;
}

static bool has_prefix(const struct verify *v, const char *prefix)
{
    for (size_t i = 0; i < verify_set_count(&v->output); i++) {
        if (strncmp(verify_set_at(&v->output, i)->info->name, prefix, strlen(prefix)) == 0)
            return true;
    }
    return false;
}

/* Loaders do not complain about a missing head or tower; their users do, later. */
static void check_parts(struct verify *v)
{
    int64_t layers = 0;
    const struct rh_json *text = rh_json_get(v->config, "text_config");
    bool by_source = v->plan && v->plan_is_of_source;
    bool wants_mtp =
        rh_json_int(rh_json_get(text ? text : v->config, "mtp_num_hidden_layers"), &layers) &&
        layers > 0 && (!by_source || unit_of_kind(v->plan, RH_UNIT_MTP));
    if (wants_mtp && !has_prefix(v, "mtp."))
        verify_problem(
            v, RH_VERIFY_INVENTORY,
            "the MTP head is missing: config.json says mtp_num_hidden_layers = %lld, but "
            "no tensor begins with mtp.",
            (long long)layers);
    if (by_source && unit_of_kind(v->plan, RH_UNIT_VISUAL) && !has_prefix(v, "model.visual."))
        verify_problem(v, RH_VERIFY_INVENTORY,
                       "the visual tower is missing: the source has it, but no tensor begins with "
                       "model.visual.");
}

static bool same_shape(const struct rh_tensor_info *t, const struct rh_output_tensor *o)
{
    return t->dtype == o->dtype && t->rank == o->rank &&
           memcmp(t->shape, o->shape, sizeof *t->shape * (size_t)t->rank) == 0;
}

static void shape_text(char out[200], enum rh_dtype dtype, int rank, const int64_t *shape)
{
    size_t used = (size_t)snprintf(out, 200, "%s [", rh_dtype_name(dtype));
    for (int i = 0; i < rank && used < 180; i++)
        used +=
            (size_t)snprintf(out + used, 200 - used, "%s%lld", i ? "," : "", (long long)shape[i]);
    if (used < 199)
        snprintf(out + used, 200 - used, "]");
}

static void compare_outputs(struct verify *v)
{
    const struct rh_model_plan *p = v->plan;
    struct rh_hash_map *expected = rh_hash_map_new();
    for (size_t i = 0; i < p->output_count; i++) {
        const struct rh_output_tensor *o = &p->outputs[i];
        const struct verify_tensor *t = verify_set_find(&v->output, o->name);
        rh_hash_map_add(expected, o->name, expected);
        if (!t) {
            verify_problem(v, RH_VERIFY_INVENTORY, "tensor %.200s is missing", o->name);
        } else if (!same_shape(t->info, o)) {
            char is[200], wanted[200];
            shape_text(is, t->info->dtype, t->info->rank, t->info->shape);
            shape_text(wanted, o->dtype, o->rank, o->shape);
            verify_problem(v, RH_VERIFY_SHAPES, "%.200s is %s, expected %s", o->name, is, wanted);
        }
    }
    for (size_t i = 0; i < verify_set_count(&v->output); i++) {
        const struct verify_tensor *t = verify_set_at(&v->output, i);
        if (!rh_hash_map_find(expected, t->info->name))
            verify_problem(v, RH_VERIFY_INVENTORY, "tensor %.200s of %s is unexpected",
                           t->info->name, t->file_name);
    }
    rh_hash_map_free(expected);
    verify_ran(v, RH_VERIFY_SHAPES, p->output_count);
    verify_detail(v, RH_VERIFY_SHAPES, "%zu tensors", p->output_count);
}

static bool lists_mtp(const struct rh_json *quantization)
{
    const struct rh_json *list = rh_json_get(quantization, "block_name_to_quantize");
    if (rh_json_string(list))
        return strstr(rh_json_string(list), "mtp.layers") != NULL;
    for (const struct rh_json *e = rh_json_first(list); e; e = rh_json_next(e)) {
        if (rh_json_string(e) && strcmp(rh_json_string(e), "mtp.layers") == 0)
            return true;
    }
    return false;
}

/* The configuration must give every linear the width that its tensors have. */
static void check_widths(struct verify *v)
{
    bool listed = lists_mtp(v->quantization), quantized = false;
    for (size_t u = 0; u < v->plan->unit_count; u++) {
        const struct rh_unit *unit = &v->plan->units[u];
        bool mtp = unit->kind == RH_UNIT_MTP;
        for (size_t i = 0; i < unit->linear_count; i++) {
            const struct rh_linear *l = &unit->linears[i];
            bool known;
            v->report->quantized_linears += l->bits < 16;
            quantized = quantized || (mtp && l->bits < 16);
            /* Outside of the layers (mtp.fc) nothing is quantized unless it is listed. */
            if ((mtp && !listed) || (mtp && strncmp(l->name, "mtp.layers.", 11) != 0))
                continue;
            bool keeps = verify_config_keeps(v->quantization, l->name, &known);
            if (known && keeps != (l->bits >= 16))
                verify_problem(v, RH_VERIFY_CONFIG,
                               "quantization_config says %s for %.200s, its tensors are %s",
                               keeps ? "16 bit" : "quantized", l->name,
                               keeps ? "quantized" : "16 bit");
        }
    }
    if (quantized != listed)
        verify_problem(v, RH_VERIFY_CONFIG,
                       "quantization_config.block_name_to_quantize %s mtp.layers, but the MTP head "
                       "is %s",
                       listed ? "lists" : "lacks", quantized ? "quantized" : "16 bit");
}

enum rh_rc verify_inventory(struct verify *v, struct rh_error *err)
{
    (void)err;
    verify_ran(v, RH_VERIFY_INVENTORY, verify_set_count(&v->output));
    for (size_t i = 0; i < verify_set_count(&v->output); i++)
        check_triple(v, verify_set_at(&v->output, i)->info->name);
    if (!v->recipe || !v->config) {
        verify_detail(v, RH_VERIFY_INVENTORY, "the configuration does not say what to expect");
        check_parts(v);
        return RH_OK;
    }
    if (!v->plan)
        plan_from_output(v);
    check_parts(v);
    if (!v->plan)
        return RH_OK;
    compare_outputs(v);
    check_widths(v);
    const struct rh_model_plan *p = v->plan;
    verify_detail(v, RH_VERIFY_INVENTORY,
                  "%llu tensors: language model %llu, MTP %llu, visual %llu%s",
                  (unsigned long long)p->all.tensors, (unsigned long long)p->main.tensors,
                  (unsigned long long)p->mtp.tensors, (unsigned long long)p->visual.tensors,
                  v->plan_is_of_source ? ", as the source asks for" : "");
    return RH_OK;
}

static enum rh_rc open_source_file(struct verify *v, const char *path, const char *name,
                                   struct rh_error *err)
{
    struct rh_safetensors *file = NULL;
    enum rh_rc rc = rh_safetensors_open(path, &file, err);
    if (rc == RH_OK)
        verify_set_add(&v->source, name, file, NULL, NULL);
    return rc;
}

static enum rh_rc open_source_job(struct verify *v, struct rh_error *err)
{
    const char *job = v->options.source_job;
    char *path = rh_format("%s/artifacts/plan-00000/plan.json", job);
    struct rh_json *json = NULL;
    enum rh_rc rc = rh_json_read(path, VERIFY_JSON_MAX, &json, err);
    if (rc == RH_OK)
        rc = rh_model_plan_from_json(json, path, &v->plan, err);
    for (size_t u = 0; rc == RH_OK && u < v->plan->unit_count && !v->options.quick; u++) {
        char *file = rh_format("%s/artifacts/fetch-%05zu/tensors.safetensors", job, u);
        rc = open_source_file(v, file, v->plan->units[u].name, err);
        rh_free(file);
    }
    rh_json_free(json);
    rh_free(path);
    return rc;
}

static enum rh_rc open_source_dir(struct verify *v, struct rh_error *err)
{
    enum rh_rc rc = rh_model_plan_new(v->source_dir, v->recipe, &v->plan, err);
    for (size_t f = 0; rc == RH_OK && f < v->plan->file_count && !v->options.quick; f++) {
        char *path = rh_fs_join(v->source_dir, v->plan->files[f]);
        rc = open_source_file(v, path, v->plan->files[f], err);
        rh_free(path);
    }
    return rc;
}

enum rh_rc verify_open_source(struct verify *v, struct rh_error *err)
{
    if (!v->recipe || (!v->source_dir && !v->options.source_job))
        return RH_OK;
    enum rh_rc rc = v->options.source_job ? open_source_job(v, err) : open_source_dir(v, err);
    if (rc != RH_OK) {
        rh_error_prefix(err, "source of %s", v->dir);
        return rc;
    }
    v->plan_is_of_source = true;
    return RH_OK;
}
