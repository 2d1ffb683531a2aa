#include "link.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "link_internal.h"

/* Before the orchestrator has said otherwise. */
#define BEAT_MS        2000
#define HELLO_AGAIN_MS 1000
/* Unanswered beats after which the orchestrator is taken for gone. */
#define SILENT_BEATS 3
/* Beats out of turn are no denser than this. */
#define URGENT_MS 200
/* A drain waits so long for short tasks, and so long for the last acknowledgements; for the part that a
 * session is at it waits options.grace_ms. */
#define DRAIN_MS 15000
#define ACK_MS   3000
/* As sysexits.h has it: try again. */
#define STUCK_EXIT 75

int64_t rh_link_now(void)
{
    return rh_clock_ns() / 1000000;
}

size_t rh_link_running(const struct rh_link *link)
{
    size_t n = 0;
    for (const struct rh_task *t = link->tasks; t; t = t->next)
        n += !t->joined;
    return n;
}

void rh_link_send(struct rh_link *link, enum rh_kind kind, const ProtobufCMessage *body)
{
    struct rh_error err;
    if (rh_socket_send(link->socket, NULL, kind, body, &err) != RH_OK)
        rh_log(RH_LOG_DEBUG, "link.unsent", "kind=%s why=\"%s\"", rh_kind_name(kind), err.message);
}

static uint32_t credits(const struct rh_link *link)
{
    size_t busy = rh_link_running(link);
    return link->draining || busy >= (size_t)link->options.slots
               ? 0
               : (uint32_t)((size_t)link->options.slots - busy);
}

void rh_link_ready(struct rh_link *link)
{
    Rh__Ready ready = RH__READY__INIT;
    ready.session = link->session;
    ready.credits = credits(link);
    rh_link_send(link, RH_KIND_READY, &ready.base);
}

/* Leases of all tasks that are still ours; owned by caller, with their strings. */
static Rh__Lease **held_leases(const struct rh_link *link, size_t *count)
{
    *count = 0;
    for (const struct rh_task *t = link->tasks; t; t = t->next)
        *count += !t->drop;
    Rh__Lease **leases = rh_alloc_array(*count + 1, sizeof(Rh__Lease *));
    size_t n = 0;
    for (struct rh_task *t = link->tasks; t; t = t->next) {
        if (t->drop)
            continue;
        Rh__Lease *l = rh_alloc(sizeof *l);
        rh__lease__init(l);
        l->task = t->id;
        l->epoch = t->epoch;
        l->progress_seq = atomic_load(&t->progress_seq);
        pthread_mutex_lock(&t->lock);
        l->phase = rh_strdup(t->phase);
        l->unit = rh_strdup(t->unit);
        l->done = t->done;
        l->total = t->total;
        pthread_mutex_unlock(&t->lock);
        leases[n++] = l;
    }
    return leases;
}

static void free_leases(Rh__Lease **leases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        rh_free(leases[i]->phase);
        rh_free(leases[i]->unit);
        rh_free(leases[i]);
    }
    rh_free(leases);
}

void rh_link_hello(struct rh_link *link)
{
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    Rh__Hello hello = RH__HELLO__INIT;
    hello.proto_min = RH_PROTO_MIN;
    hello.proto_max = RH_PROTO_MAX;
    hello.worker = (char *)(uintptr_t)link->options.worker;
    hello.incarnation = link->incarnation;
    hello.stage = (char *)(uintptr_t)link->stage->name;
    hello.slots = (uint32_t)link->options.slots;
    hello.pid = getpid();
    hello.host = host;
    hello.build = (char *)(uintptr_t)RH_VERSION;
    if (link->stage->device_memory) {
        uint64_t unused = 0;
        link->stage->device_memory(&hello.device_bytes, &unused);
    }
    hello.factory = link->factory ? link->factory : (char *)(uintptr_t) "";
    hello.held = held_leases(link, &hello.n_held);
    rh_link_send(link, RH_KIND_HELLO, &hello.base);
    free_leases(hello.held, hello.n_held);
    link->welcomed = false;
    link->hello_at = rh_link_now();
}

static void send_beat(struct rh_link *link)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    Rh__Beat beat = RH__BEAT__INIT;
    beat.session = link->session;
    beat.credits = credits(link);
    beat.rss_bytes = (uint64_t)usage.ru_maxrss * 1024;
    if (link->stage->device_memory) {
        uint64_t total = 0;
        link->stage->device_memory(&total, &beat.device_free_bytes);
    }
    beat.held = held_leases(link, &beat.n_held);
    rh_link_send(link, RH_KIND_BEAT, &beat.base);
    free_leases(beat.held, beat.n_held);
}

static bool take_urgent(struct rh_link *link)
{
    bool urgent = false;
    for (struct rh_task *t = link->tasks; t; t = t->next) {
        pthread_mutex_lock(&t->lock);
        urgent |= t->urgent;
        t->urgent = false;
        pthread_mutex_unlock(&t->lock);
    }
    return urgent;
}

static void send_ticks(struct rh_link *link)
{
    for (struct rh_task *t = link->tasks; t; t = t->next) {
        pthread_mutex_lock(&t->lock);
        struct rh_tick tick = t->tick;
        t->tick.fresh = false;
        pthread_mutex_unlock(&t->lock);
        if (!tick.fresh || t->drop)
            continue;
        Rh__Tick m = RH__TICK__INIT;
        m.task = t->id;
        m.epoch = t->epoch;
        m.block = tick.block;
        m.iter = tick.iter;
        m.iters = tick.iters;
        m.loss = tick.loss;
        m.loss_best = tick.best_loss;
        rh_link_send(link, RH_KIND_TICK, &m.base);
    }
}

static void stop_loop(struct rh_link *link)
{
    if (link->stopping)
        return;
    link->stopping = true;
    if (link->welcomed) {
        Rh__Bye bye = RH__BYE__INIT;
        bye.session = link->session;
        bye.reason = (char *)(uintptr_t) "drained";
        rh_link_send(link, RH_KIND_BYE, &bye.base);
    }
    rh_socket_close(link->socket, 500);
    uv_close((uv_handle_t *)&link->timer, NULL);
    uv_close((uv_handle_t *)&link->wake, NULL);
    uv_close((uv_handle_t *)&link->terminate, NULL);
    uv_close((uv_handle_t *)&link->interrupt, NULL);
}

void rh_link_fail(struct rh_link *link, const struct rh_error *why)
{
    if (link->refused)
        return;
    link->failure = *why;
    link->refused = true;
    link->welcomed = false;
    rh_link_drain(link);
    /* Nobody wants their results. */
    for (struct rh_task *t = link->tasks; t; t = t->next)
        atomic_store(&t->cancelled, true);
}

static bool is_session(struct rh_task *t)
{
    pthread_mutex_lock(&t->lock);
    bool session = t->session || t->last > t->index;
    pthread_mutex_unlock(&t->lock);
    return session;
}

/* While draining: short tasks may end, then nothing is left to wait for. */
static void look_after_drain(struct rh_link *link, int64_t now)
{
    if (!link->draining || link->stopping)
        return;
    for (struct rh_task *t = link->tasks; t; t = t->next) {
        if (now - link->draining_since > (is_session(t) ? link->grace_ms : DRAIN_MS))
            atomic_store(&t->cancelled, true);
    }
    size_t running = rh_link_running(link);
    if (running > 0 && link->heard_by < now + ACK_MS)
        link->heard_by = now + ACK_MS;
    bool unheard = link->tasks != NULL && now < link->heard_by;
    if (running == 0 && (!unheard || !link->welcomed))
        stop_loop(link);
}

/* A thread can only be ended with its process, and the process is of no use as long as a thread of
 * it hangs. Whoever started it starts it again; what is durable is durable. */
static void leave_when_stuck(const struct rh_link *link, int64_t now)
{
    for (const struct rh_task *t = link->tasks; t; t = t->next) {
        if (t->joined || t->stop_by == 0 || now < t->stop_by)
            continue;
        rh_log(RH_LOG_ERROR, "worker.stuck", "job=%s op=%s index=%lld why=\"its thread hangs\"",
               t->job, t->op->op, (long long)t->index);
        _exit(STUCK_EXIT);
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct rh_link *link = timer->data;
    int64_t now = rh_link_now();
    leave_when_stuck(link, now);
    rh_link_deliver(link, now);
    if (!link->welcomed) {
        if (!link->refused && now - link->hello_at >= HELLO_AGAIN_MS)
            rh_link_hello(link);
    } else if (now - link->beat_at >= link->beat_ms) {
        link->beat_at = now;
        if (link->beats_unanswered >= SILENT_BEATS) {
            rh_link_hello(link);
        } else {
            send_beat(link);
            link->beats_unanswered++;
        }
    } else if (now - link->beat_at >= URGENT_MS && take_urgent(link)) {
        link->beat_at = now;
        send_beat(link);
    }
    if (link->welcomed)
        send_ticks(link);
    look_after_drain(link, now);
}

static void on_wake(uv_async_t *wake)
{
    struct rh_link *link = wake->data;
    if (!link->stopping)
        rh_link_deliver(link, rh_link_now());
    look_after_drain(link, rh_link_now());
}

void rh_link_wake(void *arg)
{
    uv_async_send(&((struct rh_link *)arg)->wake);
}

void rh_link_drain(struct rh_link *link)
{
    if (link->draining)
        return;
    link->draining = true;
    link->draining_since = rh_link_now();
    link->heard_by = link->draining_since + DRAIN_MS + ACK_MS;
    /* Whoever would take the result is gone, and a successor wants the device. */
    bool orphan = link->options.parent != 0 && getppid() != link->options.parent;
    link->grace_ms = orphan ? 0 : link->options.grace_ms;
    /* A session ends at its next checkpoint, or at its last one; everything else is short. */
    for (struct rh_task *t = link->tasks; t; t = t->next) {
        if (is_session(t))
            rh_task_leave(t, link->grace_ms);
    }
    if (!link->welcomed)
        return;
    Rh__Drain drain = RH__DRAIN__INIT;
    drain.session = link->session;
    drain.deadline_ms = (uint32_t)(link->grace_ms > DRAIN_MS ? link->grace_ms : DRAIN_MS);
    rh_link_send(link, RH_KIND_DRAIN, &drain.base);
    rh_link_ready(link);
}

static void on_signal(uv_signal_t *handle, int signal_number)
{
    struct rh_link *link = handle->data;
    if (link->draining)
        _exit(128 + signal_number); /* asked twice: what is durable is durable */
    rh_log(RH_LOG_INFO, "worker.draining", "signal=%d", signal_number);
    rh_link_drain(link);
    look_after_drain(link, rh_link_now());
}

static void start_handles(struct rh_link *link)
{
    uv_timer_init(&link->loop, &link->timer);
    uv_async_init(&link->loop, &link->wake, on_wake);
    uv_signal_init(&link->loop, &link->terminate);
    uv_signal_init(&link->loop, &link->interrupt);
    link->timer.data = link->wake.data = link->terminate.data = link->interrupt.data = link;
    uv_timer_start(&link->timer, on_timer, 50, 250);
    uv_signal_start(&link->terminate, on_signal, SIGTERM);
    uv_signal_start(&link->interrupt, on_signal, SIGINT);
}

static void free_tasks(struct rh_link *link)
{
    while (link->tasks) {
        struct rh_task *next = link->tasks->next;
        if (!link->tasks->joined)
            pthread_join(link->tasks->thread, NULL);
        rh_task_free(link->tasks);
        link->tasks = next;
    }
}

enum rh_rc rh_link_run(const struct rh_stage *stage, const struct rh_link_options *options,
                       struct rh_error *err)
{
    struct rh_link *link = rh_alloc(sizeof *link);
    link->stage = stage;
    link->options = *options;
    link->beat_ms = BEAT_MS;
    link->incarnation = (uint64_t)rh_clock_unix_ns();
    uv_loop_init(&link->loop);
    char *identity = rh_format("%s#%llu", options->worker, (unsigned long long)link->incarnation);
    struct rh_socket_events events = {
        .message = rh_link_message, .garbage = rh_link_garbage, .arg = link};
    enum rh_rc rc = rh_zmq_new(&link->zmq, err);
    if (rc == RH_OK)
        rc = rh_dealer_open(link->zmq, &link->loop, options->endpoint, identity, &events,
                            &link->socket, err);
    if (rc == RH_OK) {
        start_handles(link);
        uv_run(&link->loop, UV_RUN_DEFAULT);
        free_tasks(link);
        if (link->failure.rc != RH_OK) {
            rc = link->failure.rc;
            *err = link->failure;
        }
    }
    uv_run(&link->loop, UV_RUN_DEFAULT);
    uv_loop_close(&link->loop);
    rh_zmq_free(link->zmq);
    rh_free(identity);
    rh_free(link->factory);
    rh_free(link);
    return rc;
}
