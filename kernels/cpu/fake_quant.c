#include "quant_ops/quant_ops.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "fake_quant_group.h"
#include "quant/group.h"

/* Rows of a chunk: small enough to spread narrow layers, large enough to hide the hand-out. */
#define ROW_GRAIN 32

struct pass {
    struct rh_fake_quant *items;
    int64_t count;
    const struct rh_fake_quant_step *step; /* NULL outside advance */
    const struct rh_group_kernel *kernel;
    void (*row)(const struct pass *pass, struct rh_fake_quant *item, int64_t row, bool *ok);
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

static struct place place_of(const struct rh_fake_quant *item, int64_t row, int64_t k)
{
    int64_t group = rh_scheme_group(&item->scheme, item->in_features);
    int64_t groups = rh_scheme_groups(&item->scheme, item->in_features);
    int64_t left = item->in_features - k * group;
    return (struct place){row * item->in_features + k * group, left < group ? left : group,
                          row * groups + k};
}

static const struct rh_group_kernel *kernel_for(const struct pass *pass, int64_t n)
{
    return pass->kernel->multiple_of_16 && n % 16 ? &rh_group_kernel_plain : pass->kernel;
}

static void grid_at(struct rh_fake_quant *item, int64_t group, struct rh_grid *grid)
{
    rh_grid_make(&item->scheme, item->lo[group], item->hi[group], &item->alpha[group],
                 &item->beta[group], grid);
    /* Near its threshold a scale rounded down can push the zero point of 8 bits to 256, one past
     * the last code and more than a byte holds. */
    float last = (float)((1 << item->scheme.bits) - 1);
    if (grid->zero > last) {
        grid->zero = last;
        grid->low = -last;
        grid->high = 0.0F;
    }
}

static void start_row(const struct pass *pass, struct rh_fake_quant *item, int64_t row, bool *ok)
{
    int64_t groups = rh_scheme_groups(&item->scheme, item->in_features);
    for (int64_t k = 0; k < groups; k++) {
        struct place p = place_of(item, row, k);
        const float *w = item->weight + p.at;
        if (rh_group_range(&item->scheme, w, p.n, &item->lo[p.group], &item->hi[p.group], NULL) !=
            RH_OK) {
            *ok = false;
            return;
        }
        memset(item->v + p.at, 0, (size_t)p.n * sizeof(float));
        item->alpha[p.group] = 1.0F;
        item->beta[p.group] = 1.0F;
        struct rh_grid grid;
        grid_at(item, p.group, &grid);
        kernel_for(pass, p.n)->forward(&grid, w, item->v + p.at, p.n, item->weight_q + p.at, NULL);
    }
}

static void emit_group(struct rh_fake_quant *item, const struct rh_grid *grid, int64_t group)
{
    item->scales[group] = grid->scale_bits;
    if (!item->scheme.sym)
        item->zeros[group] = (uint8_t)grid->zero;
}

static bool advance_group(const struct pass *pass, struct rh_fake_quant *item,
                          const struct place *p)
{
    const struct rh_fake_quant_step *step = pass->step;
    const struct rh_group_kernel *kernel = kernel_for(pass, p->n);
    const float *w = item->weight + p->at;
    float *v = item->v + p->at;
    struct rh_grid grid;
    grid_at(item, p->group, &grid);
    uint8_t *codes = step->emit ? item->codes + p->at : NULL;
    if (codes)
        emit_group(item, &grid, p->group);
    if (!item->has_grad) {
        if (codes)
            kernel->forward(&grid, w, v, p->n, NULL, codes);
        return true;
    }
    struct rh_group_sums sums;
    kernel->step(&grid, w, v, item->grad + p->at, p->n, step->rate, !item->scheme.sym, codes,
                 &sums);
    if (step->minmax) {
        float dalpha = 0.0F;
        float dbeta = 0.0F;
        rh_grid_gradient(&item->scheme, &grid, &sums, item->lo[p->group], item->hi[p->group],
                         &dalpha, &dbeta);
        float *alpha = &item->alpha[p->group];
        float *beta = &item->beta[p->group];
        *alpha = rh_grid_sign_step(*alpha, dalpha, step->minmax_rate);
        *beta = rh_grid_sign_step(*beta, dbeta, step->minmax_rate);
        grid_at(item, p->group, &grid);
    }
    kernel->forward(&grid, w, v, p->n, item->weight_q + p->at, NULL);
    /* One gradient that is not finite makes this sum so: no second look at every element. */
    return isfinite(sums.grad_code);
}

static void advance_row(const struct pass *pass, struct rh_fake_quant *item, int64_t row, bool *ok)
{
    if (!item->has_grad && !pass->step->emit)
        return;
    int64_t groups = rh_scheme_groups(&item->scheme, item->in_features);
    for (int64_t k = 0; k < groups; k++) {
        struct place p = place_of(item, row, k);
        if (!advance_group(pass, item, &p))
            *ok = false;
    }
}

static void restore_row(const struct pass *pass, struct rh_fake_quant *item, int64_t row, bool *ok)
{
    (void)pass;
    (void)ok;
    int64_t groups = rh_scheme_groups(&item->scheme, item->in_features);
    for (int64_t k = 0; k < groups; k++) {
        struct place p = place_of(item, row, k);
        float scale = rh_f16_to_f32(item->scales[p.group]);
        int zero = item->scheme.sym ? 1 << (item->scheme.bits - 1) : (int)item->zeros[p.group];
        for (int64_t j = p.at; j < p.at + p.n; j++)
            item->weight_q[j] = scale * (float)((int)item->codes[j] - zero);
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
    int64_t low = 0;
    int64_t high = pass->count - 1;
    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        if (pass->items[middle].first_row <= begin)
            low = middle;
        else
            high = middle - 1;
    }
    for (int64_t row = begin; row < end; row++) {
        while (row >= pass->items[low].first_row + pass->items[low].out_features)
            low++;
        struct rh_fake_quant *item = &pass->items[low];
        bool ok = true;
        pass->row(pass, item, row - item->first_row, &ok);
        if (!ok)
            lower_bad(pass, low);
    }
}

/* Returns the lowest item whose rows failed, -1 when none did. */
static int64_t run(struct rh_thread_pool *pool, struct pass *pass)
{
    if (pass->count == 0)
        return -1;
    const struct rh_fake_quant *last = &pass->items[pass->count - 1];
    pass->kernel = choose();
    atomic_init(&pass->bad, pass->count);
    rh_parallel_for(pool, last->first_row + last->out_features, ROW_GRAIN, run_rows, pass);
    int64_t bad = atomic_load(&pass->bad);
    return bad < pass->count ? bad : -1;
}

enum rh_rc rh_fake_quant_start(struct rh_thread_pool *pool, struct rh_fake_quant *items,
                               int64_t count, int64_t *bad, struct rh_error *err)
{
    int64_t rows = 0;
    for (int64_t i = 0; i < count; i++) {
        RH_ASSERT(rh_scheme_valid(&items[i].scheme));
        items[i].first_row = rows;
        rows += items[i].out_features;
    }
    struct pass pass = {.items = items, .count = count, .row = start_row};
    int64_t failed = run(pool, &pass);
    if (bad)
        *bad = failed;
    if (failed >= 0)
        return rh_fail(err, RH_ERR_NUMERIC,
                       "a weight is not finite or needs a scale beyond fp16, the source tensor is "
                       "damaged");
    return RH_OK;
}

enum rh_rc rh_fake_quant_advance(struct rh_thread_pool *pool, struct rh_fake_quant *items,
                                 int64_t count, const struct rh_fake_quant_step *step, int64_t *bad,
                                 struct rh_error *err)
{
    struct pass pass = {.items = items, .count = count, .step = step, .row = advance_row};
    int64_t failed = run(pool, &pass);
    if (bad)
        *bad = failed;
    if (failed >= 0)
        return rh_fail(err, RH_ERR_NUMERIC, "the gradient holds a NaN or an infinity");
    return RH_OK;
}

void rh_fake_quant_restore(struct rh_thread_pool *pool, struct rh_fake_quant *items, int64_t count)
{
    struct pass pass = {.items = items, .count = count, .row = restore_row};
    (void)run(pool, &pass);
}
