#include "tuning/top_up.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/mem.h"

struct ranked {
    int64_t gain; /* missing tokens that it brings */
    int64_t candidate;
};

struct exchange {
    int64_t net; /* missing tokens that are not missing any more */
    int64_t row, candidate;
};

/* Cells are the experts of all blocks that exchanges can matter to. */
struct work {
    const struct rh_top_up *t;
    int64_t cells;
    int32_t *tokens; /* [rows + candidates, cells] */
    int64_t *total;  /* [cells], of the chosen rows */
    struct ranked *ranking;
    bool *used; /* [candidates] */
    int64_t *chosen;
};

static int64_t at_least_0(int64_t n)
{
    return n > 0 ? n : 0;
}

static const int32_t *tokens_of(const struct rh_top_up *t, int64_t block, int64_t row)
{
    return t->tokens + (block * (t->rows + t->candidates) + row) * t->experts;
}

static const int32_t *cells_of(const struct work *w, int64_t row)
{
    return w->tokens + row * w->cells;
}

/* Even if the rows that bring it most went, as many as may, this expert would keep the floor. */
static bool is_safe(const struct rh_top_up *t, int64_t block, int64_t expert)
{
    int64_t total = 0, most = 0;
    for (int64_t r = 0; r < t->rows; r++) {
        int64_t n = tokens_of(t, block, r)[expert];
        total += n;
        most = n > most ? n : most;
    }
    return total - most * t->limit >= t->floor;
}

/* Lays the counts that matter out by row. */
static enum rh_rc open_work(struct work *w, struct rh_error *err)
{
    const struct rh_top_up *t = w->t;
    int64_t rows = t->rows + t->candidates;
    int64_t *cells = rh_alloc_array((size_t)(t->blocks * t->experts) + 1, sizeof *cells);
    for (int64_t c = 0; c < t->blocks * t->experts; c++) {
        if (!is_safe(t, c / t->experts, c % t->experts))
            cells[w->cells++] = c;
    }
    void *memory = NULL;
    enum rh_rc rc = rh_try_alloc((size_t)(rows * w->cells) * sizeof *w->tokens + 1,
                                 "tokens of experts", &memory, err);
    w->tokens = memory;
    w->total = rh_alloc_array((size_t)w->cells + 1, sizeof *w->total);
    w->ranking = rh_alloc_array((size_t)t->candidates + 1, sizeof *w->ranking);
    w->used = rh_alloc_array((size_t)t->candidates + 1, sizeof *w->used);
    for (int64_t r = 0; r < rows && rc == RH_OK; r++) {
        for (int64_t c = 0; c < w->cells; c++) {
            int32_t n = tokens_of(t, cells[c] / t->experts, r)[cells[c] % t->experts];
            w->tokens[r * w->cells + c] = n;
            w->total[c] += r < t->rows ? n : 0;
        }
    }
    rh_free(cells);
    return rc;
}

static void close_work(struct work *w)
{
    rh_free(w->tokens);
    rh_free(w->total);
    rh_free(w->ranking);
    rh_free(w->used);
}

static void add(struct work *w, int64_t row, int64_t sign)
{
    const int32_t *cells = cells_of(w, row);
    for (int64_t c = 0; c < w->cells; c++)
        w->total[c] += sign * cells[c];
}

static int64_t gain_of(const struct work *w, int64_t row)
{
    const int32_t *cells = cells_of(w, row);
    int64_t gain = 0;
    for (int64_t c = 0; c < w->cells; c++) {
        int64_t missing = at_least_0(w->t->floor - w->total[c]);
        gain += cells[c] < missing ? cells[c] : missing;
    }
    return gain;
}

/* Tokens that are missing once the row has gone; `enough` or more is told as `enough`. */
static int64_t loss_of(const struct work *w, int64_t row, int64_t enough)
{
    const int32_t *cells = cells_of(w, row);
    int64_t loss = 0;
    for (int64_t c = 0; c < w->cells && loss < enough; c++) {
        int64_t left = w->t->floor - w->total[c];
        loss += at_least_0(left + cells[c]) - at_least_0(left);
    }
    return loss < enough ? loss : enough;
}

static int compare(const void *a, const void *b)
{
    const struct ranked *x = a;
    const struct ranked *y = b;
    if (x->gain != y->gain)
        return x->gain > y->gain ? -1 : 1;
    return x->candidate < y->candidate ? -1 : 1;
}

static int64_t rank(struct work *w)
{
    int64_t count = 0;
    for (int64_t j = 0; j < w->t->candidates; j++) {
        int64_t gain = w->used[j] ? 0 : gain_of(w, w->t->rows + j);
        if (gain > 0)
            w->ranking[count++] = (struct ranked){gain, j};
    }
    qsort(w->ranking, (size_t)count, sizeof *w->ranking, compare);
    return count;
}

/* The row that is missed the least once the candidate is in, when that beats *best. */
static void try_candidate(struct work *w, const struct ranked *r, struct exchange *best)
{
    add(w, w->t->rows + r->candidate, 1);
    for (int64_t i = 0; i < w->t->rows && r->gain > best->net; i++) {
        if (w->chosen[i] != i)
            continue;
        int64_t enough = r->gain - best->net;
        int64_t loss = loss_of(w, i, enough);
        if (loss < enough)
            *best = (struct exchange){r->gain - loss, i, r->candidate};
    }
    add(w, w->t->rows + r->candidate, -1);
}

/* No exchange is better than what its candidate brings, so most candidates need no look. */
static enum rh_rc find_exchange(struct work *w, const struct rh_pulse *pulse, struct exchange *best,
                                struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    int64_t count = rank(w);
    *best = (struct exchange){0};
    for (int64_t k = 0; k < count && w->ranking[k].gain > best->net && rc == RH_OK; k++) {
        try_candidate(w, &w->ranking[k], best);
        rc = pulse ? pulse->beat(pulse->arg, err) : RH_OK;
    }
    return rc;
}

enum rh_rc rh_top_up_choose(const struct rh_top_up *t, const struct rh_pulse *pulse,
                            int64_t *chosen, struct rh_error *err)
{
    struct work w = {.t = t, .chosen = chosen};
    for (int64_t i = 0; i < t->rows; i++)
        chosen[i] = i;
    enum rh_rc rc = open_work(&w, err);
    for (int64_t n = 0; n < t->limit && rc == RH_OK; n++) {
        struct exchange best;
        rc = find_exchange(&w, pulse, &best, err);
        if (rc != RH_OK || best.net == 0)
            break;
        add(&w, best.row, -1);
        add(&w, t->rows + best.candidate, 1);
        w.used[best.candidate] = true;
        chosen[best.row] = t->rows + best.candidate;
    }
    close_work(&w);
    return rc;
}

struct rh_top_up_coverage rh_top_up_coverage(const struct rh_top_up *t, int64_t block,
                                             const int64_t *chosen)
{
    struct rh_top_up_coverage c = {.tokens_min = t->experts > 0 ? INT64_MAX : 0};
    for (int64_t e = 0; e < t->experts; e++) {
        int64_t total = 0;
        for (int64_t r = 0; r < t->rows; r++)
            total += tokens_of(t, block, chosen ? chosen[r] : r)[e];
        c.below_floor += total < t->floor;
        c.without_tokens += total == 0;
        c.missing += at_least_0(t->floor - total);
        c.tokens_min = total < c.tokens_min ? total : c.tokens_min;
    }
    return c;
}
