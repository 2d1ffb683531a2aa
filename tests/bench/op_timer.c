#include "op_timer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#define LINES_MAX 96

static struct line {
    char name[80];
    double seconds;
    int64_t calls;
} lines[LINES_MAX];
static int line_count;
static const struct rh_ops *real;
static int64_t begun;

static void wait_for(struct rh_backend *b)
{
    struct rh_error err;
    if (rh_backend_sync(b, &err) != RH_OK) {
        fprintf(stderr, "op_timer: %s\n", err.message);
        exit(1);
    }
}

static void begin(struct rh_backend *b)
{
    wait_for(b);
    begun = rh_clock_ns();
}

static void RH_PRINTF(2, 3) end(struct rh_backend *b, const char *format, ...)
{
    wait_for(b);
    double seconds = (double)(rh_clock_ns() - begun) * 1e-9;
    char name[80];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    int i = 0;
    while (i < line_count && strcmp(lines[i].name, name) != 0)
        i++;
    if (i == LINES_MAX)
        return;
    if (i == line_count)
        strcpy(lines[line_count++].name, name);
    lines[i].seconds += seconds;
    lines[i].calls++;
}

static const char *form_name(enum rh_form form)
{
    return form == RH_NT ? "NT" : form == RH_NN ? "NN" : "TN";
}

static void matmul(struct rh_backend *b, const struct rh_matmul *p)
{
    begin(b);
    real->matmul(b, p);
    end(b, "matmul %s %lld x %lld x %lld", form_name(p->form), (long long)p->m, (long long)p->n,
        (long long)p->k);
}

static void expert_matmul(struct rh_backend *b, const struct rh_expert_matmul *p)
{
    begin(b);
    real->expert_matmul(b, p);
    end(b, "expert_matmul %s n %lld, k %lld", form_name(p->form), (long long)p->n, (long long)p->k);
}

#define TIMED(op, type)                                                                            \
    static void op(struct rh_backend *b, const struct type *p)                                     \
    {                                                                                              \
        begin(b);                                                                                  \
        real->op(b, p);                                                                            \
        end(b, "%s", #op);                                                                         \
    }

TIMED(rms_norm, rh_rms_norm)
TIMED(rms_norm_backward, rh_rms_norm)
TIMED(head_norm, rh_head_norm)
TIMED(head_norm_backward, rh_head_norm)
TIMED(attention, rh_attention)
TIMED(attention_backward, rh_attention)
TIMED(head_gate, rh_head_gate)
TIMED(head_gate_backward, rh_head_gate)
TIMED(conv_silu, rh_conv_silu)
TIMED(conv_silu_backward, rh_conv_silu)
TIMED(delta_inputs, rh_delta_inputs)
TIMED(delta_inputs_backward, rh_delta_inputs)
TIMED(delta_rule, rh_delta_rule)
TIMED(delta_rule_backward, rh_delta_rule)
TIMED(gated_norm, rh_gated_norm)
TIMED(gated_norm_backward, rh_gated_norm)
TIMED(route, rh_route)
TIMED(route_backward, rh_route)
TIMED(dispatch, rh_dispatch)
TIMED(dispatch_backward, rh_dispatch)
TIMED(swiglu, rh_swiglu)
TIMED(swiglu_backward, rh_swiglu)
TIMED(combine, rh_combine)
TIMED(combine_backward, rh_combine)
TIMED(mlp, rh_mlp)
TIMED(mlp_backward, rh_mlp)
TIMED(mse, rh_mse)
TIMED(gather_rows, rh_gather_rows)
TIMED(count_tokens, rh_count_tokens)
TIMED(sum_gradients, rh_sum_gradients)
TIMED(judge, rh_judge)
TIMED(fake_quant_start, rh_quantizer)
TIMED(fake_quant_advance, rh_quantizer)
TIMED(fake_quant_restore, rh_quantizer)

static int64_t delta_rule_saved(const struct rh_delta_rule *p)
{
    return real->delta_rule_saved(p);
}

static struct rh_ops timed = {
    .matmul = matmul,
    .expert_matmul = expert_matmul,
    .rms_norm = rms_norm,
    .rms_norm_backward = rms_norm_backward,
    .head_norm = head_norm,
    .head_norm_backward = head_norm_backward,
    .attention = attention,
    .attention_backward = attention_backward,
    .head_gate = head_gate,
    .head_gate_backward = head_gate_backward,
    .conv_silu = conv_silu,
    .conv_silu_backward = conv_silu_backward,
    .delta_inputs = delta_inputs,
    .delta_inputs_backward = delta_inputs_backward,
    .delta_rule = delta_rule,
    .delta_rule_backward = delta_rule_backward,
    .gated_norm = gated_norm,
    .gated_norm_backward = gated_norm_backward,
    .route = route,
    .route_backward = route_backward,
    .dispatch = dispatch,
    .dispatch_backward = dispatch_backward,
    .swiglu = swiglu,
    .swiglu_backward = swiglu_backward,
    .combine = combine,
    .combine_backward = combine_backward,
    .mse = mse,
    .gather_rows = gather_rows,
    .count_tokens = count_tokens,
    .sum_gradients = sum_gradients,
    .judge = judge,
    .fake_quant_start = fake_quant_start,
    .fake_quant_advance = fake_quant_advance,
    .fake_quant_restore = fake_quant_restore,
    .delta_rule_saved = delta_rule_saved,
};

void op_timer_start(struct rh_backend *backend)
{
    real = rh_backend_ops(backend);
    timed.mlp = real->mlp ? mlp : NULL;
    timed.mlp_backward = real->mlp_backward ? mlp_backward : NULL;
    line_count = 0;
    memset(lines, 0, sizeof lines);
    rh_backend_replace_ops(backend, &timed);
}

static int slowest_first(const void *a, const void *b)
{
    double x = ((const struct line *)a)->seconds;
    double y = ((const struct line *)b)->seconds;
    return x < y ? 1 : x > y ? -1 : 0;
}

void op_timer_stop(struct rh_backend *backend, int64_t passes)
{
    double total = 0.0;
    rh_backend_replace_ops(backend, real);
    qsort(lines, (size_t)line_count, sizeof lines[0], slowest_first);
    for (int i = 0; i < line_count; i++) {
        total += lines[i].seconds;
        printf("    %-44s %9.3f ms in %3.1f calls\n", lines[i].name,
               lines[i].seconds * 1e3 / (double)passes, (double)lines[i].calls / (double)passes);
    }
    printf("    %-44s %9.3f ms\n", "sum of the ops, each waited for", total * 1e3 / (double)passes);
}
