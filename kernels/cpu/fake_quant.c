#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "fake_quant_group.h"
#include "ops_cpu.h"
#include "quant/group.h"

/* Rows of a chunk: small enough to spread narrow layers, large enough to hide the hand-out. */
#define ROW_GRAIN 32

struct pass {
    const struct rh_quantizer *q;
    const struct rh_group_kernel *kernel;
    void (*row)(const struct pass *pass, const struct rh_quant_item *item, int64_t row, bool *ok);
    _Atomic int64_t bad; /* lowest item that failed, count when none */
};

/* One group of one row. */
struct place {
    int64_t at;    /* of the first weight */
    int64_t n;     /* weights */
    int64_t group; /* index into [out, groups] */
};

static _Atomic(const struct rh_group_kernel *) chosen;

static bool usable(const struct rh_group_kernel *kernel)
{
#ifdef RH_X86_KERNELS
    if (kernel == &rh_group_kernel_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("f16c");
    if (kernel == &rh_group_kernel_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
#endif
    return kernel == &rh_group_kernel_plain;
}

/* Best first. */
static const struct rh_group_kernel *const kernels[] = {
#ifdef RH_X86_KERNELS
    &rh_group_kernel_avx512,
    &rh_group_kernel_avx2,
#endif
    &rh_group_kernel_plain,
};

static const struct rh_group_kernel *choose(void)
{
    const struct rh_group_kernel *kernel = atomic_load(&chosen);
    for (size_t i = 0; !kernel; i++) {
        if (usable(kernels[i]))
            kernel = kernels[i];
    }
    atomic_store(&chosen, kernel);
    return kernel;
}

const char *rh_fake_quant_isa(void)
{
    return choose()->name;
}

bool rh_fake_quant_force_isa(const char *name)
{
    for (size_t i = 0; i < sizeof kernels / sizeof kernels[0]; i++) {
        if (strcmp(kernels[i]->name, name) == 0 && usable(kernels[i])) {
            atomic_store(&chosen, kernels[i]);
            return true;
        }
    }
    return false;
}

static struct rh_scheme scheme_of(const struct rh_quant_item *item)
{
    return (struct rh_scheme){item->bits, item->sym != 0, item->group};
}

static struct place place_of(const struct rh_quant_item *item, int64_t row, int64_t k)
{
    int64_t left = item->in_features - k * item->group;
    return (struct place){item->at + row * item->in_features + k * item->group,
                          left < item->group ? left : item->group,
                          item->group_at + row * item->groups + k};
}

static const struct rh_group_kernel *kernel_for(const struct pass *pass, int64_t n)
{
    return pass->kernel->multiple_of_16 && n % 16 ? &rh_group_kernel_plain : pass->kernel;
}

static void grid_at(const struct rh_quantizer *q, const struct rh_scheme *scheme, int64_t group,
                    struct rh_grid *grid)
{
    rh_fake_quant_grid(scheme, q->lo[group], q->hi[group], &q->alpha[group], &q->beta[group],
                       grid);
}

static void start_row(const struct pass *pass, const struct rh_quant_item *item, int64_t row,
                      bool *ok)
{
    const struct rh_quantizer *q = pass->q;
    struct rh_scheme scheme = scheme_of(item);
    for (int64_t k = 0; k < item->groups; k++) {
        struct place p = place_of(item, row, k);
        const float *w = (const float *)q->weight + p.at;
        if (rh_group_range(&scheme, w, p.n, &q->lo[p.group], &q->hi[p.group], NULL) != RH_OK) {
            *ok = false;
            return;
        }
        memset(q->v + p.at, 0, (size_t)p.n * sizeof(float));
        float factor = 1.0F;
        if (q->search)
            factor = rh_group_search(&scheme, q->lo[p.group], q->hi[p.group], w, p.n,
                                     kernel_for(pass, p.n)->error);
        q->alpha[p.group] = factor;
        q->beta[p.group] = factor;
        struct rh_grid grid;
        grid_at(q, &scheme, p.group, &grid);
        kernel_for(pass, p.n)->forward(&grid, w, q->v + p.at, p.n, (float *)q->weight_q + p.at,
                                       NULL);
    }
}

static void emit_group(const struct rh_quantizer *q, const struct rh_scheme *scheme,
                       const struct rh_grid *grid, int64_t group)
{
    q->scales[group] = grid->scale_bits;
    if (!scheme->sym)
        q->zeros[group] = (uint8_t)grid->zero;
}

static const float *gradient(const struct rh_quantizer *q, const struct rh_quant_item *item)
{
    bool reached = item->expert < 0 || !q->tokens || q->tokens[item->expert] > 0;
    return !reached ? NULL : q->grad_sum ? q->grad_sum : q->grad;
}

/* One group with codes at `codes` unless that is NULL; grad NULL: the parameters stay. */
static bool advance_group(const struct pass *pass, const struct rh_scheme *scheme,
                          const struct place *p, const float *grad, uint8_t *codes)
{
    const struct rh_quantizer *q = pass->q;
    const struct rh_group_kernel *kernel = kernel_for(pass, p->n);
    const float *w = (const float *)q->weight + p->at;
    float *v = q->v + p->at;
    struct rh_grid grid;
    grid_at(q, scheme, p->group, &grid);
    if (codes)
        emit_group(q, scheme, &grid, p->group);
    if (!grad) {
        if (codes)
            kernel->forward(&grid, w, v, p->n, NULL, codes);
        return true;
    }
    struct rh_group_sums sums;
    kernel->step(&grid, w, v, grad, p->n, q->rate, !scheme->sym, codes, &sums);
    if (q->minmax) {
        float dalpha = 0.0F;
        float dbeta = 0.0F;
        rh_grid_gradient(scheme, &grid, &sums, q->lo[p->group], q->hi[p->group], &dalpha, &dbeta);
        float *alpha = &q->alpha[p->group];
        float *beta = &q->beta[p->group];
        *alpha = rh_grid_sign_step(*alpha, dalpha, q->minmax_rate);
        *beta = rh_grid_sign_step(*beta, dbeta, q->minmax_rate);
        grid_at(q, scheme, p->group, &grid);
    }
    kernel->forward(&grid, w, v, p->n, (float *)q->weight_q + p->at, NULL);
    /* One gradient that is not finite makes this sum so: no second look at every element. */
    return isfinite(sums.grad_code);
}

static void advance_row(const struct pass *pass, const struct rh_quant_item *item, int64_t row,
                        bool *ok)
{
    const struct rh_quantizer *q = pass->q;
    const float *grad = gradient(q, item);
    bool emit = *q->emit != 0;
    if (!grad && !emit)
        return;
    struct rh_scheme scheme = scheme_of(item);
    for (int64_t k = 0; k < item->groups; k++) {
        struct place p = place_of(item, row, k);
        if (!advance_group(pass, &scheme, &p, grad ? grad + p.at : NULL,
                           emit ? q->codes + p.at : NULL))
            *ok = false;
    }
}

static void restore_row(const struct pass *pass, const struct rh_quant_item *item, int64_t row,
                        bool *ok)
{
    (void)ok;
    const struct rh_quantizer *q = pass->q;
    float *weight_q = q->weight_q;
    for (int64_t k = 0; k < item->groups; k++) {
        struct place p = place_of(item, row, k);
        float scale = rh_f16_to_f32(q->scales[p.group]);
        int zero = item->sym ? 1 << (item->bits - 1) : (int)q->zeros[p.group];
        for (int64_t j = p.at; j < p.at + p.n; j++)
            weight_q[j] = scale * (float)((int)q->codes[j] - zero);
    }
}

static void lower_bad(struct pass *pass, int64_t index)
{
    int64_t seen = atomic_load(&pass->bad);
    while (index < seen && !atomic_compare_exchange_weak(&pass->bad, &seen, index))
        continue;
}

static void run_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    struct pass *pass = arg;
    const struct rh_quantizer *q = pass->q;
    int64_t i = rh_quant_item_of_row(q->items, q->count, begin);
    for (int64_t row = begin; row < end; row++) {
        while (row >= q->items[i].row_at + q->items[i].out_features)
            i++;
        bool ok = true;
        pass->row(pass, &q->items[i], row - q->items[i].row_at, &ok);
        if (!ok)
            lower_bad(pass, i);
    }
}

static void run(struct rh_backend *b, struct pass *pass, int64_t iter)
{
    const struct rh_quantizer *q = pass->q;
    pass->kernel = choose();
    atomic_init(&pass->bad, q->count);
    rh_parallel_for(b->pool, q->rows, ROW_GRAIN, run_rows, pass);
    int64_t bad = atomic_load(&pass->bad);
    uint64_t fault = (uint64_t)iter << 32 | (uint64_t)(bad + 1);
    if (bad < q->count && fault < *q->fault)
        *q->fault = fault;
}

void rh_cpu_fake_quant_start(struct rh_backend *b, const struct rh_quantizer *q)
{
    run(b, &(struct pass){.q = q, .row = start_row}, 0);
}

void rh_cpu_fake_quant_advance(struct rh_backend *b, const struct rh_quantizer *q)
{
    run(b, &(struct pass){.q = q, .row = advance_row}, q->iter);
}

void rh_cpu_fake_quant_restore(struct rh_backend *b, const struct rh_quantizer *q)
{
    run(b, &(struct pass){.q = q, .row = restore_row}, 0);
}
