#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash_map.h"
#include "base/mem.h"
#include "base/strbuf.h"

#include "family.h"

#define NAMES_SHOWN 3
#define FACTOR      32 /* AutoRound leaves linears alone whose rows or columns are no multiple of it */

/* A kind of complaint: all are counted, the first few are named. */
struct problem {
    size_t count;
    struct rh_strbuf names;
};

struct builder {
    const struct rh_family *family;
    const struct rh_recipe *recipe;
    struct rh_model_plan *plan;
    const struct rh_sources *sources;
    struct rh_hash_map *by_name;
    bool *claimed; /* per source tensor */
    struct problem missing, misshapen, untyped, unexpected;
    struct rh_unit *unit; /* the one being built */
    size_t tensor_capacity, linear_capacity, output_capacity;
};

static void problem_add(struct problem *p, const char *text)
{
    if (p->count++ < NAMES_SHOWN)
        rh_strbuf_printf(&p->names, "%s%.100s", p->names.size ? ", " : "", text);
}

/* Room for one more; the arrays grow by doubling. */
static void *grow(void *array, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity)
        return array;
    *capacity = *capacity ? 2 * *capacity : 16;
    return rh_realloc_array(array, *capacity, size);
}

static struct rh_source_tensor *find(const struct builder *b, const char *name)
{
    return rh_hash_map_find(b->by_name, name);
}

static void shape_text(int rank, const int64_t *shape, char *out, size_t size)
{
    size_t used = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < rank && used < size; i++)
        used +=
            (size_t)snprintf(out + used, size - used, "%s%lld", i ? "," : "", (long long)shape[i]);
    if (used < size)
        snprintf(out + used, size - used, "]");
}

/* Takes a source tensor into the unit. NULL, with the problem noted, when it is absent or has
 * another shape. The pointer holds until the next call. */
static struct rh_source_tensor *claim(struct builder *b, const char *name, int rank,
                                      const int64_t *shape)
{
    struct rh_source_tensor *s = find(b, name);
    if (!s) {
        problem_add(&b->missing, name);
        return NULL;
    }
    b->claimed[s - b->sources->items] = true;
    if (s->info.rank != rank || memcmp(s->info.shape, shape, sizeof *shape * (size_t)rank) != 0) {
        char is[120], wanted[120];
        shape_text(s->info.rank, s->info.shape, is, sizeof is);
        shape_text(rank, shape, wanted, sizeof wanted);
        char *text = rh_format("%s is %s, expected %s", name, is, wanted);
        problem_add(&b->misshapen, text);
        rh_free(text);
        return NULL;
    }
    struct rh_unit *u = b->unit;
    u->tensors = grow(u->tensors, u->tensor_count, &b->tensor_capacity, sizeof *u->tensors);
    u->tensors[u->tensor_count] = *s;
    u->source_bytes += s->info.bytes;
    return &u->tensors[u->tensor_count++];
}

static struct rh_output_tensor *new_output(struct builder *b)
{
    struct rh_model_plan *p = b->plan;
    p->outputs = grow(p->outputs, p->output_count, &b->output_capacity, sizeof *p->outputs);
    struct rh_output_tensor *o = &p->outputs[p->output_count++];
    memset(o, 0, sizeof *o);
    return o;
}

static void output_as_is(struct builder *b, struct rh_source_tensor *s)
{
    struct rh_output_tensor *o = new_output(b);
    s->pass_through = true;
    o->name = rh_strdup(s->info.name);
    o->dtype = s->info.dtype;
    o->rank = s->info.rank;
    memcpy(o->shape, s->info.shape, sizeof o->shape);
    o->bytes = s->info.bytes;
    o->unit = b->unit->index;
}

static void output_linear(struct builder *b, const struct rh_linear *linear)
{
    if (linear->bits < 16) {
        struct rh_output_tensor packed[3];
        rh_linear_packed(linear, packed);
        for (int i = 0; i < 3; i++) {
            packed[i].unit = b->unit->index;
            *new_output(b) = packed[i];
        }
        return;
    }
    struct rh_output_tensor *o = new_output(b);
    o->name = rh_format("%s.weight", linear->name);
    o->dtype = linear->dtype;
    o->rank = 2;
    o->shape[0] = linear->out_features;
    o->shape[1] = linear->in_features;
    o->bytes = (uint64_t)linear->out_features * (uint64_t)linear->in_features *
               rh_dtype_size(linear->dtype);
    o->unit = b->unit->index;
}

static const char *reason_to_keep(const struct builder *b, const struct rh_linear *linear,
                                  enum rh_role role)
{
    if (role == RH_ROLE_KEEP)
        return "family";
    if (b->unit->kind == RH_UNIT_MTP && b->recipe->mtp == RH_MTP_KEEP)
        return "mtp.method";
    if (rh_recipe_ignores(b->recipe, linear->name))
        return "ignored";
    if (linear->out_features % FACTOR != 0 || linear->in_features % FACTOR != 0)
        return "shape";
    return NULL;
}

/* Adopts `name`. The pointer holds until the next call. */
static struct rh_linear *add_linear(struct builder *b, char *name,
                                    const struct rh_source_tensor *source, int64_t row, int64_t out,
                                    int64_t in, enum rh_role role)
{
    struct rh_unit *u = b->unit;
    u->linears = grow(u->linears, u->linear_count, &b->linear_capacity, sizeof *u->linears);
    struct rh_linear *l = &u->linears[u->linear_count++];
    *l = (struct rh_linear){
        .name = name,
        .out_features = out,
        .in_features = in,
        .source = rh_strdup(source->info.name),
        .source_row = row,
        .dtype = source->info.dtype,
        .group_size = b->recipe->group_size,
        .sym = b->recipe->sym,
    };
    l->why_16 = reason_to_keep(b, l, role);
    l->bits = l->why_16 ? 16 : b->recipe->bits;
    if (l->bits < 16 && l->dtype != RH_BF16 && l->dtype != RH_F16 && l->dtype != RH_F32) {
        char *text = rh_format("%s is %s", name, rh_dtype_name(l->dtype));
        problem_add(&b->untyped, text);
        rh_free(text);
    }
    return l;
}

static const char *const projections[] = {"gate_proj", "up_proj", "down_proj"};

static void add_fused_experts(struct builder *b, const char *prefix)
{
    const struct rh_model_config *c = &b->plan->config;
    int64_t width = c->moe_intermediate_size, hidden = c->hidden_size;
    int64_t up_shape[] = {c->num_experts, 2 * width, hidden};
    int64_t down_shape[] = {c->num_experts, hidden, width};
    char *up_name = rh_format("%sgate_up_proj", prefix);
    char *down_name = rh_format("%sdown_proj", prefix);
    struct rh_source_tensor *found = claim(b, up_name, 3, up_shape);
    size_t up_at = b->unit->tensor_count - 1;
    struct rh_source_tensor *down = claim(b, down_name, 3, down_shape);
    rh_free(up_name);
    rh_free(down_name);
    if (!found || !down)
        return;
    size_t first = b->unit->linear_count;
    bool quantized = false;
    for (int64_t e = 0; e < c->num_experts; e++) {
        for (int k = 0; k < 3; k++) {
            const struct rh_source_tensor *s = k < 2 ? &b->unit->tensors[up_at] : down;
            int64_t row = k < 2 ? (2 * e + k) * width : e * hidden;
            char *name = rh_format("%s%lld.%s", prefix, (long long)e, projections[k]);
            const struct rh_linear *l = add_linear(b, name, s, row, k < 2 ? width : hidden,
                                                   k < 2 ? hidden : width, RH_ROLE_EXPERTS);
            quantized = quantized || l->bits < 16;
        }
    }
    if (!quantized) {
        output_as_is(b, &b->unit->tensors[up_at]);
        output_as_is(b, down);
        return;
    }
    for (size_t i = first; i < b->unit->linear_count; i++)
        output_linear(b, &b->unit->linears[i]);
}

static void add_weight(struct builder *b, const char *tensor, int64_t out, int64_t in,
                       enum rh_role role)
{
    static const char suffix[] = ".weight";
    int64_t shape[] = {out, in};
    struct rh_source_tensor *s = claim(b, tensor, 2, shape);
    if (!s)
        return;
    char *name = rh_strndup(tensor, strlen(tensor) - (sizeof suffix - 1));
    const struct rh_linear *l = add_linear(b, name, s, 0, out, in, role);
    if (l->bits < 16)
        output_linear(b, l);
    else
        output_as_is(b, s);
}

static void add_experts(struct builder *b, const char *prefix)
{
    const struct rh_model_config *c = &b->plan->config;
    char *first = rh_format("%s0.gate_proj.weight", prefix);
    bool single = find(b, first) != NULL;
    rh_free(first);
    if (!single) {
        add_fused_experts(b, prefix);
        return;
    }
    for (int64_t e = 0; e < c->num_experts; e++) {
        for (int k = 0; k < 3; k++) {
            char *name = rh_format("%s%lld.%s.weight", prefix, (long long)e, projections[k]);
            int64_t out = k < 2 ? c->moe_intermediate_size : c->hidden_size;
            int64_t in = k < 2 ? c->hidden_size : c->moe_intermediate_size;
            add_weight(b, name, out, in, RH_ROLE_EXPERTS);
            rh_free(name);
        }
    }
}

static bool rule_applies(const struct builder *b, const struct rh_tensor_rule *rule,
                         const char *name)
{
    switch (rule->when) {
    case RH_IF_LINEAR_ATTENTION:
        return b->unit->mixer == RH_MIXER_LINEAR_ATTENTION;
    case RH_IF_FULL_ATTENTION:
        return b->unit->mixer == RH_MIXER_FULL_ATTENTION;
    case RH_IF_UNTIED:
        return !b->plan->config.tie_word_embeddings || find(b, name);
    case RH_ALWAYS:
        break;
    }
    return true;
}

static void apply_rule(struct builder *b, const struct rh_tensor_rule *rule, const char *prefix)
{
    char *name = rh_format("%s%s", prefix, rule->name);
    int64_t shape[RH_RULE_RANK_MAX] = {0};
    int rank = 0;
    while (rank < RH_RULE_RANK_MAX && rule->dims[rank] != 0) {
        shape[rank] = b->family->dimension(&b->plan->config, rule->dims[rank]);
        rank++;
    }
    if (rule_applies(b, rule, name)) {
        if (rule->role == RH_ROLE_EXPERTS) {
            add_experts(b, name);
        } else if (rule->role == RH_ROLE_PASS) {
            struct rh_source_tensor *s = claim(b, name, rank, shape);
            if (s)
                output_as_is(b, s);
        } else {
            add_weight(b, name, shape[0], shape[1], rule->role);
        }
    }
    rh_free(name);
}

static int by_place(const void *a, const void *b)
{
    const struct rh_source_tensor *x = a, *y = b;
    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    if (x->info.offset != y->info.offset)
        return x->info.offset < y->info.offset ? -1 : 1;
    return strcmp(x->info.name, y->info.name);
}

static void apply_group(struct builder *b, const struct rh_tensor_group *g, int64_t begin,
                        int64_t end)
{
    for (int64_t i = begin; i < end; i++) {
        char *prefix =
            g->repeat ? rh_format("%s%lld.", g->prefix, (long long)i) : rh_strdup(g->prefix);
        for (size_t r = 0; r < g->rule_count; r++)
            apply_rule(b, &g->rules[r], prefix);
        rh_free(prefix);
    }
}

/* The MTP head follows the last block. */
static int64_t step_of(const struct builder *b)
{
    const struct rh_unit *u = b->unit;
    if (u->kind == RH_UNIT_BLOCK)
        return u->block;
    for (size_t i = 0; u->kind == RH_UNIT_MTP && i < u->linear_count; i++) {
        if (u->linears[i].bits < 16 && b->recipe->mtp == RH_MTP_TUNE)
            return b->plan->config.num_hidden_layers;
    }
    return -1;
}

/* `layer` is the block's number, -1 for other units. */
static void add_unit(struct builder *b, const struct rh_unit_rules *rules, int64_t layer)
{
    struct rh_model_plan *p = b->plan;
    p->units = rh_realloc_array(p->units, p->unit_count + 1, sizeof *p->units);
    struct rh_unit *u = &p->units[p->unit_count];
    const struct rh_tensor_group *last = &rules->groups[rules->group_count - 1];
    *u = (struct rh_unit){.index = p->unit_count++, .kind = rules->kind, .block = layer};
    b->unit = u;
    b->tensor_capacity = b->linear_capacity = 0;
    if (rules->kind == RH_UNIT_BLOCK) {
        u->mixer = p->config.mixer[layer];
        u->name = rh_format("block %lld", (long long)layer);
        u->prefix = rh_format("%s%lld.", last->prefix, (long long)layer);
        apply_group(b, last, layer, layer + 1);
    } else {
        u->mixer = RH_MIXER_FULL_ATTENTION;
        u->name = rh_strdup(rh_unit_kind_name(rules->kind));
        if (rules->kind == RH_UNIT_MTP) {
            u->block = 0;
            u->prefix = rh_format("%s0.", last->prefix);
        } else {
            u->prefix = rh_strdup(rules->groups[0].prefix);
        }
        for (size_t g = 0; g < rules->group_count; g++) {
            int repeat = rules->groups[g].repeat;
            apply_group(b, &rules->groups[g], 0,
                        repeat ? b->family->dimension(&p->config, repeat) : 1);
        }
    }
    u->step = step_of(b);
    if (u->tensor_count > 0)
        qsort(u->tensors, u->tensor_count, sizeof *u->tensors, by_place);
}

static bool is_present(const struct builder *b, const struct rh_unit_rules *rules)
{
    if (rules->present && b->family->dimension(&b->plan->config, rules->present) == 0)
        return false;
    if (!rules->marker)
        return true;
    for (size_t i = 0; i < b->sources->count; i++) {
        const char *name = b->sources->items[i].info.name;
        if (strncmp(name, rules->marker, strlen(rules->marker)) == 0)
            return true;
    }
    return false;
}

static void say(struct rh_strbuf *out, const struct problem *p, const char *kind)
{
    if (p->count > 0)
        rh_strbuf_printf(out, "; %zu tensors %s (%s%s)", p->count, kind, p->names.text,
                         p->count > NAMES_SHOWN ? ", ..." : "");
}

static enum rh_rc report(struct builder *b, const char *what, struct rh_error *err)
{
    for (size_t i = 0; i < b->sources->count; i++) {
        if (!b->claimed[i])
            problem_add(&b->unexpected, b->sources->items[i].info.name);
    }
    struct rh_strbuf text = {0};
    say(&text, &b->missing, "missing");
    say(&text, &b->misshapen, "of another shape");
    say(&text, &b->untyped, "of a type that cannot be quantized");
    say(&text, &b->unexpected, "unexpected");
    enum rh_rc rc = RH_OK;
    if (text.size > 0)
        rc = rh_fail(err, b->untyped.count ? RH_ERR_UNSUPPORTED : RH_ERR_FORMAT,
                     "%s: the tensors are not those that config.json describes for %s%s", what,
                     b->family->name, text.text);
    rh_strbuf_done(&text);
    return rc;
}

enum rh_rc rh_layout_apply(const struct rh_family *family, const struct rh_recipe *recipe,
                           const struct rh_sources *sources, const char *what,
                           struct rh_model_plan *plan, struct rh_error *err)
{
    struct builder b = {.family = family, .recipe = recipe, .plan = plan, .sources = sources};
    b.by_name = rh_hash_map_new();
    b.claimed = rh_alloc_array(sources->count + 1, sizeof *b.claimed);
    enum rh_rc rc = RH_OK;
    for (size_t i = 0; i < sources->count && rc == RH_OK; i++) {
        if (!rh_hash_map_add(b.by_name, sources->items[i].info.name, &sources->items[i]))
            rc = rh_fail(err, RH_ERR_FORMAT, "%s: tensor %.200s is there twice", what,
                         sources->items[i].info.name);
    }
    for (size_t i = 0; i < family->unit_count && rc == RH_OK; i++) {
        const struct rh_unit_rules *rules = &family->units[i];
        if (rules->kind == RH_UNIT_BLOCK) {
            for (int64_t layer = 0; layer < plan->config.num_hidden_layers; layer++)
                add_unit(&b, rules, layer);
        } else if (is_present(&b, rules)) {
            add_unit(&b, rules, -1);
        }
    }
    if (rc == RH_OK)
        rc = report(&b, what, err);
    rh_hash_map_free(b.by_name);
    rh_free(b.claimed);
    rh_strbuf_done(&b.missing.names);
    rh_strbuf_done(&b.misshapen.names);
    rh_strbuf_done(&b.untyped.names);
    rh_strbuf_done(&b.unexpected.names);
    return rc;
}
