#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "ctl/format.h"
#include "ctl/progress_live.h"
#include "daemon/daemon.h"

#define BAR_CELLS     24
#define RUNNING_LINES 4
#define SMOOTHING_S   3.0 /* time constant of the rates */
#define SAMPLE_S      0.25

static int64_t int_of(const struct rh_json *object, const char *key)
{
    int64_t value = 0;
    (void)rh_json_int(rh_json_get(object, key), &value);
    return value;
}

static double number_of(const struct rh_json *object, const char *key)
{
    double value = rh_json_number(rh_json_get(object, key), 0);
    return isfinite(value) ? value : 0;
}

static const char *string_of(const struct rh_json *object, const char *key)
{
    const char *text = rh_json_string(rh_json_get(object, key));
    return text ? text : "";
}

/* Units a second of one running thing; 0 until it is known. */
static double rate_of(struct rh_live *live, const char *key, double done, int64_t now_ns)
{
    size_t count = sizeof live->rates / sizeof *live->rates;
    struct rh_live_rate *oldest = &live->rates[0];
    struct rh_live_rate *r = NULL;
    for (size_t i = 0; i < count && !r; i++) {
        if (live->rates[i].key && strcmp(live->rates[i].key, key) == 0)
            r = &live->rates[i];
        if (live->rates[i].at_ns < oldest->at_ns)
            oldest = &live->rates[i];
    }
    if (!r || done < r->done) {
        r = r ? r : oldest;
        rh_free(r->key);
        *r = (struct rh_live_rate){.key = rh_strdup(key), .done = done, .at_ns = now_ns};
        return 0;
    }
    double seconds = (double)(now_ns - r->at_ns) / 1e9;
    if (seconds < SAMPLE_S)
        return r->rate;
    double rate = (done - r->done) / seconds;
    double weight = r->rate > 0 ? 1 - exp(-seconds / SMOOTHING_S) : 1;
    r->rate += weight * (rate - r->rate);
    r->done = done;
    r->at_ns = now_ns;
    return r->rate;
}

static void add_eta(struct rh_strbuf *out, const struct rh_json *job)
{
    const struct rh_json *eta = rh_json_get(job, "eta_s");
    if (!eta || rh_json_type(eta) != RH_JSON_NUMBER)
        return;
    char *text = rh_human_seconds(rh_json_number(eta, 0));
    rh_strbuf_printf(out, "  ETA %s", text);
    rh_free(text);
}

static void add_tuning(struct rh_strbuf *out, const struct rh_json *blocks, double rate)
{
    if (int_of(blocks, "iters") > 0) {
        rh_strbuf_printf(out, "  iteration %" PRId64 "/%" PRId64, int_of(blocks, "iter"),
                         int_of(blocks, "iters"));
        if (rate > 0)
            rh_strbuf_printf(out, "  %.3g/s", rate);
    }
    if (rh_json_type(rh_json_get(blocks, "loss")) == RH_JSON_NUMBER) {
        rh_strbuf_puts(out, "  ");
        rh_format_loss(out, rh_json_get(blocks, "loss"), rh_json_get(blocks, "loss_best"));
    }
}

/* The block that is being tuned, counted from 1; between two of them the last one. */
static void add_block(struct rh_strbuf *out, const struct rh_json *blocks)
{
    int64_t total = int_of(blocks, "total");
    int64_t at = int_of(blocks, "done");
    if (rh_json_get(blocks, "current"))
        at = int_of(blocks, "current") + 1;
    if (total > 0)
        rh_format_step(out, blocks, at > total ? total : at);
    else
        rh_strbuf_puts(out, "planning");
}

void rh_live_summary(struct rh_strbuf *out, const struct rh_json *job)
{
    const struct rh_json *blocks = rh_json_get(job, "blocks");
    add_block(out, blocks);
    if (int_of(blocks, "done") < int_of(blocks, "total"))
        add_tuning(out, blocks, 0);
    rh_strbuf_printf(out, "  %.0f %%", 100 * number_of(job, "progress"));
    add_eta(out, job);
}

/* One line of the block: cut to the terminal, because a wrapped line could not be redrawn. */
static void put_line(struct rh_live *live, FILE *out, const char *text)
{
    int room = live->width > 1 ? live->width - 1 : 1;
    fprintf(out, "%.*s\033[K\n", room, text);
    live->lines++;
}

static void draw_bar(struct rh_live *live, FILE *out, const struct rh_json *job)
{
    struct rh_strbuf line = {0};
    char bar[BAR_CELLS + 1];
    double progress = number_of(job, "progress");
    int full = progress < 0 ? 0 : progress > 1 ? BAR_CELLS : (int)(progress * BAR_CELLS);
    for (int i = 0; i < BAR_CELLS; i++)
        bar[i] = i < full ? '#' : '-';
    bar[BAR_CELLS] = '\0';
    rh_strbuf_printf(&line, "[%s] %3.0f %%  ", bar, 100 * progress);
    add_block(&line, rh_json_get(job, "blocks"));
    add_eta(&line, job);
    rh_strbuf_puts(&line, "  ");
    rh_format_clean(&line, string_of(job, "state"));
    put_line(live, out, line.text);
    rh_strbuf_done(&line);
}

static void draw_stages(struct rh_live *live, FILE *out, const struct rh_json *job)
{
    struct rh_strbuf line = {0};
    for (const struct rh_json *s = rh_json_first(rh_json_get(job, "stages")); s;
         s = rh_json_next(s)) {
        rh_strbuf_puts(&line, "  ");
        rh_format_clean(&line, rh_json_key(s));
        rh_strbuf_printf(&line, " %" PRId64 "/%" PRId64, int_of(s, "done"), int_of(s, "total"));
    }
    if (line.text)
        put_line(live, out, line.text);
    rh_strbuf_done(&line);
}

static void add_amount(struct rh_strbuf *line, const struct rh_json *task, double rate)
{
    double done = number_of(task, "done");
    double total = number_of(task, "total");
    const char *unit = string_of(task, "unit");
    if (strcmp(unit, "bytes") == 0) {
        char *have = rh_human_bytes(done);
        char *all = rh_human_bytes(total);
        char *speed = rh_human_bytes(rate);
        rh_strbuf_printf(line, "  %s of %s", have, all);
        if (rate > 0)
            rh_strbuf_printf(line, "  %s/s", speed);
        rh_free(have);
        rh_free(all);
        rh_free(speed);
    } else if (total > 0) {
        rh_strbuf_printf(line, "  %.0f of %.0f ", done, total);
        rh_format_clean(line, unit);
        if (rate > 0)
            rh_strbuf_printf(line, "  %.3g/s", rate);
    }
}

/* "pack 3  layers.2  1.2 MiB of 4.5 MiB  33.1 MiB/s", or for the tuner its block and iteration. */
static void add_task(struct rh_strbuf *line, const struct rh_json *job, const struct rh_json *task,
                     double rate)
{
    const char *op = string_of(task, "op");
    rh_format_clean(line, op);
    if (strcmp(op, "tune") == 0) {
        rh_strbuf_puts(line, "  ");
        add_block(line, rh_json_get(job, "blocks"));
        add_tuning(line, rh_json_get(job, "blocks"), rate);
        return;
    }
    rh_strbuf_printf(line, " %" PRId64 "  ", int_of(task, "index"));
    rh_format_clean(line, string_of(task, "phase"));
    add_amount(line, task, rate);
}

static void draw_running(struct rh_live *live, FILE *out, const struct rh_json *job, int64_t now_ns)
{
    int shown = 0;
    for (const struct rh_json *t = rh_json_first(rh_json_get(job, "running"));
         t && shown < RUNNING_LINES; t = rh_json_next(t), shown++) {
        struct rh_strbuf line = {0};
        char *key = rh_format("%s %" PRId64 " %s", string_of(t, "op"), int_of(t, "index"),
                              string_of(t, "phase"));
        rh_strbuf_puts(&line, "  ");
        add_task(&line, job, t, rate_of(live, key, number_of(t, "done"), now_ns));
        put_line(live, out, line.text);
        rh_strbuf_done(&line);
        rh_free(key);
    }
}

void rh_live_draw(struct rh_live *live, FILE *out, const struct rh_json *job, int64_t now_ns)
{
    int before = live->lines;
    if (before > 0)
        fprintf(out, "\033[%dA\r", before);
    live->lines = 0;
    draw_bar(live, out, job);
    draw_stages(live, out, job);
    draw_running(live, out, job, now_ns);
    fputs("\033[J", out); /* lines of a longer block before */
    fflush(out);
}

void rh_live_wipe(struct rh_live *live, FILE *out)
{
    if (live->lines == 0)
        return;
    fprintf(out, "\033[%dA\r\033[J", live->lines);
    live->lines = 0;
}

void rh_live_done(struct rh_live *live)
{
    for (size_t i = 0; i < sizeof live->rates / sizeof *live->rates; i++)
        rh_free(live->rates[i].key);
}
