#include "house.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"

static void check(enum rh_rc rc, const struct rh_error *err)
{
    if (rc != RH_OK)
        fail_msg("%s", err->message);
}

static void on_event(void *arg, const struct rh_json *event)
{
    struct house *h = arg;
    int64_t seq = 0;
    assert_true(rh_json_int(rh_json_get(event, "seq"), &seq));
    if (seq > 0)
        h->stored++;
    else
        h->ticks++;
}

static void on_idle(void *arg)
{
    ((struct house *)arg)->idle_calls++;
}

void house_open(struct house *h)
{
    struct rh_error err;
    h->stopped = false;
    check(rh_factory_new(&h->loop, &h->options, &h->factory, &err), &err);
    rh_factory_subscribe(h->factory, on_event, h);
    rh_factory_on_idle(h->factory, on_idle, h);
}

static void on_stopped(void *arg)
{
    ((struct house *)arg)->stopped = true;
}

void house_close(struct house *h)
{
    if (!h->factory)
        return;
    rh_factory_stop(h->factory, on_stopped, h);
    uv_run(&h->loop, UV_RUN_DEFAULT);
    assert_true(h->stopped);
    rh_factory_free(h->factory);
    h->factory = NULL;
}

int house_set_up(void **state)
{
    static const char *const stages[] = {"download", "calibrate", "quantize", "pack", "publish"};
    struct house *h = rh_alloc(sizeof *h);
    struct rh_error err;
    const char *tmp = getenv("TMPDIR");
    signal(SIGPIPE, SIG_IGN);
    if (getenv("RH_LOG"))
        rh_log_init("house");
    else
        rh_log_set_level(RH_LOG_ERROR);
    h->dir = rh_format("%s/rh-house-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(h->dir))
        return -1;
    h->state = rh_fs_join(h->dir, "s");
    h->bin = rh_fs_join(h->dir, "bin");
    h->model = rh_fs_join(h->dir, "model");
    if (rh_fs_mkdirs(h->bin, &err) != RH_OK || rh_fs_mkdirs(h->model, &err) != RH_OK)
        return -1;
    for (int i = 0; i < 5; i++) {
        char *path = rh_format("%s/rh-%s", h->bin, stages[i]);
        if (symlink(FAKE_STAGE, path) != 0)
            return -1;
        rh_free(path);
    }
    h->sched = rh_sched_defaults;
    h->options = (struct rh_factory_options){
        .state_dir = h->state, .bin_dir = h->bin, .spawn = true, .sched = &h->sched};
    uv_loop_init(&h->loop);
    *state = h;
    return 0;
}

int house_tear_down(void **state)
{
    struct house *h = *state;
    struct rh_error err;
    house_close(h);
    uv_run(&h->loop, UV_RUN_DEFAULT);
    int busy = uv_loop_close(&h->loop);
    enum rh_rc rc = rh_fs_remove_tree(h->dir, &err);
    rh_free(h->dir);
    rh_free(h->state);
    rh_free(h->bin);
    rh_free(h->model);
    rh_free(h);
    return busy ? busy : rc;
}

static void on_nap(uv_timer_t *timer)
{
    (void)timer;
}

void house_wait(struct house *h, house_condition condition, void *arg, int seconds)
{
    uv_timer_t nap;
    int64_t deadline = rh_clock_ns() + seconds * INT64_C(1000000000);
    uv_timer_init(&h->loop, &nap);
    uv_timer_start(&nap, on_nap, 20, 20);
    bool met = condition(h, arg);
    while (!met && rh_clock_ns() < deadline) {
        uv_run(&h->loop, UV_RUN_ONCE);
        met = condition(h, arg);
    }
    uv_close((uv_handle_t *)&nap, NULL);
    uv_run(&h->loop, UV_RUN_NOWAIT);
    if (!met)
        fail_msg("nothing came of it in %d s", seconds);
}

void house_mark(struct house *h, const char *name)
{
    struct rh_error err;
    char *path = rh_fs_join(h->model, name);
    check(rh_fs_write(path, "x", 1, &err), &err);
    rh_free(path);
}

void house_unmark(struct house *h, const char *name)
{
    char *path = rh_fs_join(h->model, name);
    assert_int_equal(unlink(path), 0);
    rh_free(path);
}

struct rh_json *house_request(const struct house *h, const char *output, const char *token)
{
    struct rh_json *request = NULL;
    struct rh_error err;
    char *text = rh_format("{\"model\": \"file:%s\", \"output\": \"dir:%s/%s\", \"recipe\": "
                           "{\"calibration\": {\"dataset\": \"%s/data.jsonl\"}}}",
                           h->model, h->dir, output, h->model);
    check(rh_json_parse(text, strlen(text), "request", &request, &err), &err);
    if (token)
        rh_json_set_string(request, "token", token);
    rh_free(text);
    return request;
}

char *house_submit(struct house *h, const char *output)
{
    struct rh_json *request = house_request(h, output, NULL);
    struct rh_json *job = NULL;
    struct rh_error err;
    check(rh_factory_submit(h->factory, request, &job, &err), &err);
    char *id = rh_strdup(rh_json_string(rh_json_get(job, "id")));
    rh_json_free(job);
    rh_json_free(request);
    return id;
}

void house_desire(struct house *h, const char *id, const char *desired)
{
    struct rh_json *job = NULL;
    struct rh_error err;
    check(rh_factory_set_desired(h->factory, id, desired, &job, &err), &err);
    assert_string_equal(rh_json_string(rh_json_get(job, "desired")), desired);
    rh_json_free(job);
}

struct rh_json *house_job(struct house *h, const char *id)
{
    struct rh_json *job = NULL;
    struct rh_error err;
    check(rh_factory_job(h->factory, id, &job, &err), &err);
    return job;
}

struct wanted {
    const char *id, *state;
};

static bool in_state(struct house *h, void *arg)
{
    const struct wanted *w = arg;
    struct rh_json *job = house_job(h, w->id);
    bool is = strcmp(rh_json_string(rh_json_get(job, "state")), w->state) == 0;
    rh_json_free(job);
    return is;
}

void house_await(struct house *h, const char *id, const char *state)
{
    struct wanted w = {id, state};
    house_wait(h, in_state, &w, 60);
}

static struct rh_json *all_events(struct house *h, const char *job)
{
    struct rh_json *events = NULL;
    struct rh_error err;
    check(rh_factory_events(h->factory, job, 0, 10000, &events, &err), &err);
    return events;
}

static bool is_of(const struct rh_json *event, const char *type, const char *op)
{
    const char *its_op = rh_json_string(rh_json_get(event, "op"));
    return strcmp(rh_json_string(rh_json_get(event, "type")), type) == 0 &&
           (!op || (its_op && strcmp(its_op, op) == 0));
}

int house_count(struct house *h, const char *job, const char *type, const char *op)
{
    struct rh_json *events = all_events(h, job);
    int count = 0;
    for (const struct rh_json *e = rh_json_first(rh_json_get(events, "events")); e;
         e = rh_json_next(e))
        count += is_of(e, type, op);
    rh_json_free(events);
    return count;
}

char *house_event_text(struct house *h, const char *type)
{
    struct rh_json *events = all_events(h, NULL);
    char *text = NULL;
    for (const struct rh_json *e = rh_json_first(rh_json_get(events, "events")); e && !text;
         e = rh_json_next(e)) {
        if (is_of(e, type, NULL))
            text = rh_strdup(rh_json_string(rh_json_get(e, "text")));
    }
    rh_json_free(events);
    return text;
}

bool house_has(const struct house *h, const char *id, const char *below)
{
    char *path = rh_format("%s/jobs/%s/%s", h->state, id, below);
    bool there = rh_fs_exists(path);
    rh_free(path);
    return there;
}
