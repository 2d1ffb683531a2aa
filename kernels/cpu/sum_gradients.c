#include <stddef.h>

#include "ops_cpu.h"

#define ROW_GRAIN 32

/* What becomes of an item's sum. */
enum part { LEAVE, SET, ADD };

static enum part part_of(const struct rh_sum_gradients *p, const struct rh_quant_item *item)
{
    int32_t e = item->expert;
    if (e < 0)
        return p->first ? SET : ADD;
    if (p->offsets[e + 1] == p->offsets[e])
        return LEAVE;
    return p->tokens[e] == 0 ? SET : ADD;
}

static void run(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const struct rh_sum_gradients *p = arg;
    int64_t i = rh_quant_item_of_row(p->items, p->count, begin);
    for (int64_t row = begin; row < end; row++) {
        while (row >= p->items[i].row_at + p->items[i].out_features)
            i++;
        const struct rh_quant_item *item = &p->items[i];
        enum part part = part_of(p, item);
        int64_t at = item->at + (row - item->row_at) * item->in_features;
        const float *grad = (const float *)p->grad + at;
        float *sum = p->sums + at;
        for (int64_t j = 0; part != LEAVE && j < item->in_features; j++)
            sum[j] = part == SET ? grad[j] : sum[j] + grad[j];
    }
}

void rh_cpu_sum_gradients(struct rh_backend *b, const struct rh_sum_gradients *p)
{
    struct rh_sum_gradients copy = *p;
    rh_parallel_for(b->pool, p->rows, ROW_GRAIN, run, &copy);
}
