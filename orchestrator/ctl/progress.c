#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "base/mem.h"
#include "base/strbuf.h"
#include "ctl/format.h"
#include "ctl/progress.h"
#include "ctl/progress_live.h"
#include "daemon/daemon.h"

#define STAGES_MAX     16
#define QUIET_NS       INT64_C(60000000000) /* plain mode: a sign of life after so long */
#define LIVE_EVERY_NS  INT64_C(100000000)
#define PLAIN_EVERY_NS INT64_C(250000000)

struct rh_progress {
    enum rh_progress_mode mode;
    FILE *out;
    bool started;   /* has seen a job */
    char *state;    /* of the job when last seen, with the reason */
    char *retrying; /* what was last said of a task that is tried again */
    size_t blocks_shown;
    struct {
        char name[32];
        bool done;
    } stages[STAGES_MAX];
    size_t stage_count;
    int64_t spoke_ns; /* plain: when last */
    struct rh_live live;
};

enum rh_rc rh_progress_mode_from(const char *choice, int fd, enum rh_progress_mode *out,
                                 struct rh_error *err)
{
    if (!choice || strcmp(choice, "auto") == 0)
        *out = rh_tty_is_live(fd) ? RH_PROGRESS_LIVE : RH_PROGRESS_PLAIN;
    else if (strcmp(choice, "plain") == 0)
        *out = RH_PROGRESS_PLAIN;
    else if (strcmp(choice, "json") == 0)
        *out = RH_PROGRESS_JSON;
    else if (strcmp(choice, "none") == 0)
        *out = RH_PROGRESS_NONE;
    else
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "--progress %.40s: must be one of auto, plain, json, none", choice);
    return RH_OK;
}

struct rh_progress *rh_progress_new(enum rh_progress_mode mode, FILE *out, int width)
{
    struct rh_progress *p = rh_alloc(sizeof *p);
    p->mode = mode;
    p->out = out;
    p->live.width = width;
    return p;
}

int64_t rh_progress_interval_ns(const struct rh_progress *p)
{
    return p->mode == RH_PROGRESS_LIVE ? LIVE_EVERY_NS : PLAIN_EVERY_NS;
}

/* A whole line; the live block makes room for it. */
static void say(struct rh_progress *p, const char *line)
{
    if (p->mode != RH_PROGRESS_PLAIN && p->mode != RH_PROGRESS_LIVE)
        return;
    rh_live_wipe(&p->live, p->out);
    fprintf(p->out, "%s\n", line);
    fflush(p->out);
}

void rh_progress_note(struct rh_progress *p, const char *format, ...)
{
    char raw[1024];
    struct rh_strbuf line = {0};
    va_list args;
    va_start(args, format);
    vsnprintf(raw, sizeof raw, format, args);
    va_end(args);
    rh_format_clean(&line, raw);
    say(p, line.text ? line.text : "");
    rh_strbuf_done(&line);
}

static int64_t int_of(const struct rh_json *object, const char *key)
{
    int64_t value = 0;
    (void)rh_json_int(rh_json_get(object, key), &value);
    return value;
}

static bool show_state(struct rh_progress *p, const struct rh_json *job)
{
    const char *state = rh_json_string(rh_json_get(job, "state"));
    const char *reason = rh_json_string(rh_json_get(job, "reason"));
    const char *id = rh_json_string(rh_json_get(job, "id"));
    char *now = rh_format("%s%s%s", state ? state : "?", reason && *reason ? ": " : "",
                          reason ? reason : "");
    bool changed = !p->state || strcmp(p->state, now) != 0;
    if (changed) {
        rh_free(p->state);
        p->state = rh_strdup(now);
        rh_progress_note(p, "job %s  %s", id ? id : "?", now);
    }
    rh_free(now);
    return changed;
}

static bool show_retry(struct rh_progress *p, const struct rh_json *job)
{
    const struct rh_json *task = rh_json_get(job, "retrying");
    const char *op = rh_json_string(rh_json_get(task, "op"));
    const char *error = rh_json_string(rh_json_get(task, "error"));
    if (!op || !error)
        return false;
    char *now = rh_format("%s %" PRId64 " failed (%" PRId64 "), tried again soon: %s", op,
                          int_of(task, "index"), int_of(task, "attempts"), error);
    bool changed = !p->retrying || strcmp(p->retrying, now) != 0;
    if (changed) {
        rh_free(p->retrying);
        p->retrying = rh_strdup(now);
        rh_progress_note(p, "%s", now);
    }
    rh_free(now);
    return changed;
}

/* Before the plan is there, nobody knows how much there is to do: a stage that looks done is not.
 */
static bool show_stages(struct rh_progress *p, const struct rh_json *job)
{
    bool spoke = false;
    bool planned = int_of(rh_json_get(job, "blocks"), "total") > 0;
    for (const struct rh_json *s = rh_json_first(rh_json_get(job, "stages")); s && planned;
         s = rh_json_next(s)) {
        const char *name = rh_json_key(s);
        size_t i = 0;
        while (i < p->stage_count && strcmp(p->stages[i].name, name) != 0)
            i++;
        if (i == p->stage_count) {
            if (i == STAGES_MAX || strlen(name) >= sizeof p->stages[i].name)
                continue;
            memcpy(p->stages[i].name, name, strlen(name) + 1);
            p->stage_count++;
        }
        int64_t total = int_of(s, "total");
        bool done = total > 0 && int_of(s, "done") == total;
        if (done && !p->stages[i].done) {
            rh_progress_note(p, "%s done  %" PRId64 " task%s", name, total, total == 1 ? "" : "s");
            spoke = true;
        }
        p->stages[i].done = done;
    }
    return spoke;
}

static bool show_blocks(struct rh_progress *p, const struct rh_json *job)
{
    const struct rh_json *metrics = rh_json_get(job, "block_metrics");
    const struct rh_json *blocks = rh_json_get(job, "blocks");
    size_t count = rh_json_count(metrics);
    size_t at = 0;
    bool spoke = false;
    if (!p->started && count > 0) {
        struct rh_strbuf step = {0};
        rh_format_step(&step, blocks, (int64_t)count);
        rh_progress_note(p, "going on after %s", step.text);
        rh_strbuf_done(&step);
        p->blocks_shown = count;
    }
    for (const struct rh_json *m = rh_json_first(metrics); m; m = rh_json_next(m)) {
        if (at++ < p->blocks_shown)
            continue;
        struct rh_strbuf line = {0};
        rh_format_block(&line, m, blocks);
        say(p, line.text);
        rh_strbuf_done(&line);
        p->blocks_shown = at;
        spoke = true;
    }
    return spoke;
}

/* Where it stands in the middle of a long block. */
static void show_life(struct rh_progress *p, const struct rh_json *job)
{
    struct rh_strbuf line = {0};
    rh_live_summary(&line, job);
    say(p, line.text ? line.text : "");
    rh_strbuf_done(&line);
}

void rh_progress_job(struct rh_progress *p, const struct rh_json *job, int64_t now_ns)
{
    if (p->mode != RH_PROGRESS_PLAIN && p->mode != RH_PROGRESS_LIVE)
        return;
    /* What ended the job comes before its end. */
    bool spoke = !p->started && show_state(p, job);
    spoke = show_blocks(p, job) || spoke;
    spoke = show_stages(p, job) || spoke;
    spoke = show_retry(p, job) || spoke;
    spoke = show_state(p, job) || spoke;
    p->started = true;
    if (p->mode == RH_PROGRESS_LIVE) {
        rh_live_draw(&p->live, p->out, job, now_ns);
        return;
    }
    if (p->spoke_ns == 0 || spoke) {
        p->spoke_ns = now_ns;
    } else if (now_ns - p->spoke_ns >= QUIET_NS) {
        show_life(p, job);
        p->spoke_ns = now_ns;
    }
}

void rh_progress_event(struct rh_progress *p, const struct rh_json *event)
{
    if (p->mode != RH_PROGRESS_JSON)
        return;
    char *text = rh_json_text(event, false);
    fprintf(p->out, "%s\n", text);
    fflush(p->out);
    rh_free(text);
}

void rh_progress_free(struct rh_progress *p)
{
    if (!p)
        return;
    rh_live_wipe(&p->live, p->out);
    fflush(p->out);
    rh_live_done(&p->live);
    rh_free(p->retrying);
    rh_free(p->state);
    rh_free(p);
}
