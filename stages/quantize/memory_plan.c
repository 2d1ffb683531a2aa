#include "tuning/memory_plan.h"

#include "base/mem.h"
#include "base/strbuf.h"
#include "models/mtp_input.h"

/* What is no array of ours: code, cuBLAS, fragments of allocations. */
#define RUNTIME ((size_t)1 << 30)

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Adds a kind of block: the largest of each part. */
static void add_kind(struct rh_backend *backend, const struct rh_model_plan *plan,
                     const struct rh_unit *unit, const struct rh_tune_options *options, int64_t seq,
                     struct rh_memory_plan *p)
{
    const struct rh_model_config *c = &plan->config;
    struct rh_block_needs block;
    size_t quantizer = 0;
    size_t batches = 0;
    rh_block_needs(backend, c, unit->mixer, options->batch_size, seq, options->iters > 0, &block);
    rh_tuner_needs(backend, unit, c->num_experts, block.elements, options, seq, c->hidden_size,
                   &quantizer, &batches);
    p->weights = larger(p->weights, block.weights);
    p->weights_q = larger(p->weights_q, block.weights_q);
    p->grads = larger(p->grads, block.grads);
    p->activations = larger(p->activations, block.activations);
    p->quantizer = larger(p->quantizer, quantizer);
    /* The forward passes over all rows need one batch, or two, when the tuner's are not there. */
    size_t rows = (size_t)(options->batch_size * seq * c->hidden_size);
    p->batches = larger(p->batches, batches + (p->chains_on_host ? 2 : 1) * rows *
                                                  rh_backend_element_size(backend));
}

/* The inputs of the MTP layer are made when nothing of a block but its weights is there yet. */
static void add_entrance(struct rh_backend *backend, const struct rh_model_config *config,
                         int64_t batch_size, int64_t seq, struct rh_memory_plan *p)
{
    size_t batch =
        (size_t)(batch_size * seq * config->hidden_size) * rh_backend_element_size(backend);
    size_t entrance = rh_mtp_input_needs(backend, config, batch_size, seq) + 4 * batch;
    size_t tuning = p->weights_q + p->grads + p->quantizer + p->batches;
    if (entrance > tuning + p->activations)
        p->activations = entrance - tuning;
}

/* Deterministic upper bound of what the ops ask for: fp32 copies of the widest activation. */
static size_t scratch_of(const struct rh_model_config *c, int64_t rows)
{
    int64_t attention = c->num_attention_heads * c->head_dim;
    int64_t delta = c->linear_num_value_heads * (c->linear_value_head_dim + c->linear_key_head_dim);
    return (size_t)(rows * (attention > delta ? attention : delta)) * sizeof(float);
}

static void measure(struct rh_backend *backend, const struct rh_model_plan *plan,
                    const struct rh_tune_options *options, int64_t samples, int64_t seq,
                    struct rh_memory_plan *p)
{
    const struct rh_model_config *c = &plan->config;
    bool seen[2] = {false, false};
    int64_t steps = rh_model_plan_steps(plan);
    size_t chains = 2 * (size_t)(samples * seq * c->hidden_size) * rh_backend_element_size(backend);
    bool device = rh_backend_depth(backend) > 1;
    *p = (struct rh_memory_plan){.batch_size = options->batch_size,
                                 .chains_on_host = p->chains_on_host, .available = p->available};
    for (int64_t i = 0; i < steps; i++) {
        const struct rh_unit *unit = rh_model_plan_step(plan, i);
        bool mtp = unit->kind == RH_UNIT_MTP; /* on its own: other linears may be ignored in it */
        if (mtp || !seen[unit->mixer])
            add_kind(backend, plan, unit, options, seq, p);
        seen[unit->mixer] = true;
        if (mtp)
            add_entrance(backend, c, options->batch_size, seq, p);
    }
    p->next_weights = device ? p->weights : 0;
    p->chains = p->chains_on_host ? 0 : chains;
    p->host = device ? chains : 0;
    p->scratch = device ? scratch_of(c, options->batch_size * seq) + RUNTIME : 0;
    p->peak = p->weights + p->next_weights + p->weights_q + p->grads + p->quantizer + p->batches +
              p->activations + p->chains + p->scratch;
}

enum rh_rc rh_memory_plan_make(struct rh_backend *backend, const struct rh_model_plan *plan,
                               const struct rh_tune_options *options, int64_t samples, int64_t seq,
                               struct rh_memory_plan *out, struct rh_error *err)
{
    struct rh_tune_options cut = *options;
    size_t total = 0;
    size_t least = SIZE_MAX;
    *out = (struct rh_memory_plan){0};
    rh_backend_memory(backend, &out->available, &total);
    for (;;) {
        for (int on_host = 0; on_host < 2; on_host++) {
            out->chains_on_host = on_host == 1;
            measure(backend, plan, &cut, samples, seq, out);
            least = out->peak < least ? out->peak : least;
            out->least = least;
            if (total == 0 || out->peak <= out->available)
                return RH_OK;
        }
        if (cut.batch_size == 1)
            break;
        cut.batch_size = (cut.batch_size + 1) / 2;
    }
    char *text = rh_memory_plan_text(out);
    enum rh_rc rc = rh_fail(err, RH_ERR_NO_MEMORY,
                            "%s: tuning does not fit, not even one row at a time: %s; lower "
                            "calibration.seqlen or use a larger GPU",
                            rh_backend_device(backend), text);
    rh_free(text);
    return rc;
}

/* Name and size of every part, the peak last. */
struct part {
    const char *name;
    size_t bytes;
};

#define PARTS 11

static void list_parts(const struct rh_memory_plan *p, struct part parts[PARTS])
{
    const struct part all[PARTS] = {
        {"weights", p->weights},     {"next_weights", p->next_weights},
        {"weights_q", p->weights_q}, {"grads", p->grads},
        {"quantizer", p->quantizer}, {"batches", p->batches},
        {"activations", p->activations}, {"chains", p->chains},
        {"scratch", p->scratch},     {"peak", p->peak},
        {"available", p->available},
    };
    for (int i = 0; i < PARTS; i++)
        parts[i] = all[i];
}

char *rh_memory_plan_text(const struct rh_memory_plan *p)
{
    struct part parts[PARTS];
    struct rh_strbuf text = {0};
    list_parts(p, parts);
    rh_strbuf_printf(&text, "batch %lld, chains on the %s", (long long)p->batch_size,
                     p->chains_on_host ? "host" : "device");
    for (int i = 0; i < PARTS; i++)
        rh_strbuf_printf(&text, ", %s %.2f GB", parts[i].name, (double)parts[i].bytes * 1e-9);
    return rh_strbuf_take(&text);
}
