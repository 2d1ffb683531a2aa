#include "ctl/follow.h"

#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "ctl/interrupt.h"

#define LAST_EVENTS_NS INT64_C(2000000000) /* for the end of the stream to arrive */
/* A shortage that passes by itself, as when the trash is being emptied, is not worth giving up. */
#define BLOCKED_NS INT64_C(5000000000)

static const char *text_of(const struct rh_json *object, const char *key)
{
    const char *text = rh_json_string(rh_json_get(object, key));
    return text ? text : "";
}

bool rh_job_has_ended(const struct rh_json *job)
{
    const char *state = text_of(job, "state");
    return strcmp(state, "done") == 0 || strcmp(state, "failed") == 0 ||
           strcmp(state, "cancelled") == 0;
}

struct listener {
    struct rh_progress *progress;
    bool end_seen;
};

static void on_event(void *arg, const char *name, const char *data)
{
    struct listener *l = arg;
    struct rh_json *event = NULL;
    (void)name;
    if (rh_json_parse(data, strlen(data), "an event", &event, NULL) != RH_OK)
        return;
    const char *type = text_of(event, "type");
    if (*type)
        rh_progress_event(l->progress, event);
    l->end_seen = strcmp(type, "job.done") == 0 || strcmp(type, "job.failed") == 0 ||
                  strcmp(type, "job.cancelled") == 0;
    rh_json_free(event);
}

static void open_stream(struct rh_follow *f, struct rh_sse *sse)
{
    char *path = rh_format("/v1/stream?job=%s&after=0", f->job);
    rh_client_stream(f->client, path, sse);
    rh_free(path);
}

/* Waits for the next look at the job, listening meanwhile. */
static void rest(struct rh_follow *f, struct rh_sse *sse, int wait_ms)
{
    if (!rh_client_stream_turn(f->client, wait_ms) && f->events)
        open_stream(f, sse);
}

/* Since when there has been no room, by the job's own words; 0 when there is. */
static void watch_room(const struct rh_json *job, int64_t *since_ns, int64_t now_ns)
{
    bool parked = strcmp(text_of(job, "state"), "blocked") == 0;
    bool stuck = *text_of(job, "reason") && !rh_job_has_ended(job);
    if (!parked && !stuck)
        *since_ns = 0;
    else if (*since_ns == 0)
        *since_ns = now_ns;
}

static enum rh_rc look(struct rh_follow *f, struct rh_json **out, struct rh_error *err)
{
    struct rh_json *job = NULL;
    char *path = rh_format("/v1/jobs/%s", f->job);
    enum rh_rc rc = rh_client_call(f->client, "GET", path, NULL, &job, err);
    rh_free(path);
    if (rc != RH_OK)
        return rc;
    rh_json_free(*out);
    *out = job;
    return RH_OK;
}

enum rh_rc rh_follow(struct rh_follow *f, struct rh_json **out, struct rh_error *err)
{
    struct listener listener = {.progress = f->progress};
    struct rh_sse sse = {.on_event = on_event, .arg = &listener};
    int wait_ms = (int)(rh_progress_interval_ns(f->progress) / 1000000);
    int64_t blocked_since = 0, ended_at = 0;
    enum rh_rc rc = RH_OK;
    *out = NULL;
    if (f->events)
        open_stream(f, &sse);
    while (rc == RH_OK) {
        int64_t now = rh_clock_ns();
        if (rh_interrupt_count() > 0) {
            rc = rh_fail(err, RH_ERR_CANCELLED, "interrupted");
            break;
        }
        rc = look(f, out, err);
        if (rc == RH_ERR_REMOTE && f->lost)
            rc = f->lost(f->arg, err);
        if (rc != RH_OK || !*out)
            continue;
        rh_progress_job(f->progress, *out, now);
        watch_room(*out, &blocked_since, now);
        if (rh_job_has_ended(*out)) {
            ended_at = ended_at ? ended_at : now;
            if (!f->events || listener.end_seen || now - ended_at > LAST_EVENTS_NS)
                break;
        } else if (f->give_up_when_blocked && blocked_since && now - blocked_since > BLOCKED_NS) {
            bool held = strcmp(text_of(*out, "state"), "held") == 0;
            rc = rh_fail(err, held ? RH_ERR_INTERNAL : RH_ERR_NO_SPACE, "%s",
                         text_of(*out, "reason"));
            break;
        }
        rest(f, &sse, wait_ms);
    }
    rh_client_stream_close(f->client);
    rh_sse_done(&sse);
    return rc;
}
