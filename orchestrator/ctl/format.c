#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "ctl/format.h"
#include "daemon/daemon.h"

#define CELL_MAX 48

void rh_format_clean(struct rh_strbuf *out, const char *text)
{
    for (const char *c = text; c && *c; c++) {
        unsigned char byte = (unsigned char)*c;
        /* C1 controls come as C2 80..C2 9F in UTF-8. */
        bool control = byte < 0x20 || byte == 0x7f;
        if (byte == 0xc2 && (unsigned char)c[1] >= 0x80 && (unsigned char)c[1] < 0xa0) {
            control = true;
            c++;
        }
        rh_strbuf_append(out, control ? "?" : c, 1);
    }
}

static const char *string_of(const struct rh_json *object, const char *key)
{
    const char *text = rh_json_string(rh_json_get(object, key));
    return text ? text : "";
}

static int64_t int_of(const struct rh_json *object, const char *key)
{
    int64_t value = 0;
    (void)rh_json_int(rh_json_get(object, key), &value);
    return value;
}

static bool is_number(const struct rh_json *node)
{
    return node && rh_json_type(node) == RH_JSON_NUMBER;
}

/* A table is collected cell by cell, so that columns are as wide as what stands in them. */
struct table {
    int columns;
    char **cells;
    size_t count, capacity;
};

static void cell(struct table *t, char *text)
{
    struct rh_strbuf clean = {0};
    if (t->count == t->capacity) {
        t->capacity = t->capacity ? 2 * t->capacity : 32;
        t->cells = rh_realloc_array(t->cells, t->capacity, sizeof *t->cells);
    }
    rh_format_clean(&clean, text);
    rh_free(text);
    t->cells[t->count++] = rh_strbuf_take(&clean);
}

static void cell_text(struct table *t, const char *text)
{
    cell(t, rh_strdup(text));
}

static void print_table(struct rh_strbuf *out, struct table *t)
{
    int width[16] = {0};
    size_t columns = (size_t)t->columns;
    RH_ASSERT(columns <= sizeof width / sizeof *width);
    for (size_t i = 0; i < t->count; i++) {
        size_t size = strlen(t->cells[i]);
        int cut = size > CELL_MAX ? CELL_MAX : (int)size;
        if (cut > width[i % columns])
            width[i % columns] = cut;
    }
    for (size_t i = 0; i < t->count; i++) {
        bool last = i % columns == columns - 1;
        if (last)
            rh_strbuf_printf(out, "%s\n", t->cells[i]);
        else
            rh_strbuf_printf(out, "%-*s  ", width[i % columns], t->cells[i]);
        rh_free(t->cells[i]);
    }
    rh_free(t->cells);
}

static void header(struct table *t, const char *const *names)
{
    for (t->columns = 0; names[t->columns]; t->columns++)
        cell_text(t, names[t->columns]);
}

static char *eta_of(const struct rh_json *job)
{
    const struct rh_json *eta = rh_json_get(job, "eta_s");
    return is_number(eta) ? rh_human_seconds(rh_json_number(eta, 0)) : rh_strdup("-");
}

void rh_format_jobs(struct rh_strbuf *out, const struct rh_json *jobs)
{
    static const char *const names[] = {"JOB", "STATE", "DONE",   "BLOCKS",
                                        "ETA", "PRI",   "OUTPUT", NULL};
    struct table t = {0};
    header(&t, names);
    for (const struct rh_json *job = rh_json_first(rh_json_get(jobs, "jobs")); job;
         job = rh_json_next(job)) {
        const struct rh_json *blocks = rh_json_get(job, "blocks");
        const char *output = string_of(job, "output");
        cell_text(&t, string_of(job, "id"));
        cell_text(&t, string_of(job, "state"));
        cell(&t, rh_format("%.0f %%", 100 * rh_json_number(rh_json_get(job, "progress"), 0)));
        cell(&t,
             rh_format("%" PRId64 "/%" PRId64, int_of(blocks, "done"), int_of(blocks, "total")));
        cell(&t, eta_of(job));
        cell(&t, rh_format("%" PRId64, int_of(job, "priority")));
        cell_text(&t, strncmp(output, "dir:", 4) == 0 ? output + 4 : output);
    }
    print_table(out, &t);
    for (const struct rh_json *job = rh_json_first(rh_json_get(jobs, "jobs")); job;
         job = rh_json_next(job)) {
        const char *reason = string_of(job, "reason");
        if (!*reason || strcmp(string_of(job, "state"), "running") == 0)
            continue;
        rh_format_clean(out, string_of(job, "id"));
        rh_strbuf_puts(out, ": ");
        rh_format_clean(out, reason);
        rh_strbuf_puts(out, "\n");
    }
}

void rh_format_loss(struct rh_strbuf *out, const struct rh_json *init, const struct rh_json *best)
{
    if (!is_number(init) || !is_number(best))
        return;
    rh_strbuf_printf(out, "loss %.3e -> %.3e", rh_json_number(init, 0), rh_json_number(best, 0));
}

void rh_format_step(struct rh_strbuf *out, const struct rh_json *blocks, int64_t at)
{
    int64_t total = int_of(blocks, "total");
    bool mtp = rh_json_bool(rh_json_get(blocks, "mtp"), false);
    if (mtp && at >= total)
        rh_strbuf_puts(out, "mtp head");
    else
        rh_strbuf_printf(out, "block %" PRId64 "/%" PRId64, at, total - mtp);
}

void rh_format_block(struct rh_strbuf *out, const struct rh_json *metrics,
                     const struct rh_json *blocks)
{
    const struct rh_json *seconds = rh_json_get(metrics, "seconds");
    rh_format_step(out, blocks, int_of(metrics, "block") + 1);
    if (is_number(rh_json_get(metrics, "init_loss"))) {
        rh_strbuf_puts(out, "  ");
        rh_format_loss(out, rh_json_get(metrics, "init_loss"), rh_json_get(metrics, "best_loss"));
    }
    if (is_number(seconds))
        rh_strbuf_printf(out, "  %.1f s", rh_json_number(seconds, 0));
    const struct rh_json *experts = rh_json_get(metrics, "experts");
    if (int_of(experts, "below_floor") > 0)
        rh_strbuf_printf(out,
                         "  %" PRId64 " of %" PRId64 " experts saw fewer than %" PRId64
                         " tokens, one %" PRId64,
                         int_of(experts, "below_floor"), int_of(experts, "count"),
                         int_of(experts, "floor"), int_of(experts, "tokens_min"));
}

static void field(struct rh_strbuf *out, const char *name, const char *value)
{
    if (!*value)
        return;
    rh_strbuf_printf(out, "%-10s ", name);
    rh_format_clean(out, value);
    rh_strbuf_puts(out, "\n");
}

static void time_field(struct rh_strbuf *out, const char *name, const struct rh_json *unix_ns)
{
    char text[32];
    double ns = rh_json_number(unix_ns, 0);
    if (!(ns > 0) || ns > 9e18)
        return;
    rh_clock_format((int64_t)ns, text);
    field(out, name, text);
}

static void stages_field(struct rh_strbuf *out, const struct rh_json *stages)
{
    struct rh_strbuf text = {0};
    for (const struct rh_json *s = rh_json_first(stages); s; s = rh_json_next(s))
        rh_strbuf_printf(&text, "%s%s %" PRId64 "/%" PRId64, text.size ? ", " : "", rh_json_key(s),
                         int_of(s, "done"), int_of(s, "total"));
    field(out, "stages", text.text ? text.text : "");
    rh_strbuf_done(&text);
}

static void blocks_field(struct rh_strbuf *out, const struct rh_json *blocks)
{
    struct rh_strbuf text = {0};
    int64_t done = int_of(blocks, "done");
    int64_t total = int_of(blocks, "total");
    if (total == 0)
        return;
    rh_strbuf_printf(&text, "%" PRId64 "/%" PRId64, done, total);
    if (done < total && int_of(blocks, "iters") > 0) {
        int64_t at = int_of(blocks, "current") + 1;
        if (at == total && rh_json_bool(rh_json_get(blocks, "mtp"), false))
            rh_strbuf_puts(&text, ", mtp head");
        else
            rh_strbuf_printf(&text, ", block %" PRId64, at);
        rh_strbuf_printf(&text, ": iteration %" PRId64 "/%" PRId64 " ", int_of(blocks, "iter"),
                         int_of(blocks, "iters"));
        rh_format_loss(&text, rh_json_get(blocks, "loss"), rh_json_get(blocks, "loss_best"));
    }
    field(out, "blocks", text.text);
    rh_strbuf_done(&text);
}

void rh_format_job(struct rh_strbuf *out, const struct rh_json *job)
{
    const struct rh_json *eta = rh_json_get(job, "eta_s");
    field(out, "job", string_of(job, "id"));
    field(out, "name", string_of(job, "name"));
    field(out, "state", string_of(job, "state"));
    field(out, "reason", string_of(job, "reason"));
    field(out, "model", string_of(job, "model"));
    field(out, "output", string_of(job, "output"));
    field(out, "recipe", string_of(job, "recipe_digest"));
    rh_strbuf_printf(out, "%-10s %" PRId64 "\n", "priority", int_of(job, "priority"));
    time_field(out, "submitted", rh_json_get(job, "created_unix_ns"));
    time_field(out, "finished", rh_json_get(job, "finished_unix_ns"));
    rh_strbuf_printf(out, "%-10s %.0f %%", "progress",
                     100 * rh_json_number(rh_json_get(job, "progress"), 0));
    if (is_number(eta)) {
        char *text = eta_of(job);
        rh_strbuf_printf(out, ", about %s left", text);
        rh_free(text);
    }
    rh_strbuf_puts(out, "\n");
    stages_field(out, rh_json_get(job, "stages"));
    blocks_field(out, rh_json_get(job, "blocks"));
    for (const struct rh_json *m = rh_json_first(rh_json_get(job, "block_metrics")); m;
         m = rh_json_next(m)) {
        rh_strbuf_puts(out, "  ");
        rh_format_block(out, m, rh_json_get(job, "blocks"));
        rh_strbuf_puts(out, "\n");
    }
}

void rh_format_tasks(struct rh_strbuf *out, const struct rh_json *tasks)
{
    static const char *const names[] = {"TASK",     "OP",     "INDEX", "STATE",
                                        "ATTEMPTS", "WORKER", "ERROR", NULL};
    struct table t = {0};
    header(&t, names);
    for (const struct rh_json *task = rh_json_first(rh_json_get(tasks, "tasks")); task;
         task = rh_json_next(task)) {
        cell(&t, rh_format("%" PRId64, int_of(task, "id")));
        cell_text(&t, string_of(task, "op"));
        cell(&t, rh_format("%" PRId64, int_of(task, "index")));
        cell_text(&t, string_of(task, "state"));
        cell(&t, rh_format("%" PRId64, int_of(task, "attempts")));
        cell_text(&t, string_of(task, "worker"));
        cell_text(&t, string_of(task, "error"));
    }
    print_table(out, &t);
}

void rh_format_event(struct rh_strbuf *out, const struct rh_json *event)
{
    static const char *const members[] = {"time", "job", "type"};
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        if (i > 0)
            rh_strbuf_puts(out, "  ");
        rh_format_clean(out, string_of(event, members[i]));
    }
    if (*string_of(event, "op")) {
        rh_strbuf_puts(out, "  ");
        rh_format_clean(out, string_of(event, "op"));
        rh_strbuf_printf(out, " %" PRId64, int_of(event, "index"));
    }
    if (is_number(rh_json_get(event, "block")) && int_of(event, "block") >= 0)
        rh_strbuf_printf(out, "  block %" PRId64, int_of(event, "block"));
    if (*string_of(event, "text")) {
        rh_strbuf_puts(out, "  ");
        rh_format_clean(out, string_of(event, "text"));
    }
    rh_strbuf_puts(out, "\n");
}

void rh_format_workers(struct rh_strbuf *out, const struct rh_json *workers)
{
    static const char *const names[] = {"WORKER", "STAGE", "STATE", "TASKS", "PID", "HOST", NULL};
    struct table t = {0};
    header(&t, names);
    for (const struct rh_json *w = rh_json_first(rh_json_get(workers, "workers")); w;
         w = rh_json_next(w)) {
        const char *state = rh_json_bool(rh_json_get(w, "connected"), true) ? "connected" : "gone";
        if (rh_json_bool(rh_json_get(w, "draining"), false))
            state = "draining";
        cell_text(&t, string_of(w, "id"));
        cell_text(&t, string_of(w, "stage"));
        cell_text(&t, *string_of(w, "state") ? string_of(w, "state") : state);
        cell(&t, rh_format("%" PRId64 "/%" PRId64, int_of(w, "leases"), int_of(w, "slots")));
        cell(&t, rh_format("%" PRId64, int_of(w, "pid")));
        cell_text(&t, string_of(w, "host"));
    }
    print_table(out, &t);
}
