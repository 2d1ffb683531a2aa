#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "base/log.h"
#include "base/mem.h"
#include "link_internal.h"

/* A result or checkpoint that nobody acknowledged is said again, soon at first. */
#define REPEAT_SOON_MS 1000
#define REPEAT_MS      5000
#define SOON_TRIES     3

static bool is_due(int64_t now, int64_t sent_at, int tries)
{
    return tries == 0 || now - sent_at >= (tries < SOON_TRIES ? REPEAT_SOON_MS : REPEAT_MS);
}

/* Facts for the event log may fail to fit; what they are about is delivered all the same. */
static char *fitting(char *facts, const struct rh_task *t)
{
    if (!facts)
        return (char *)(uintptr_t) "";
    if (strlen(facts) <= RH_WIRE_BODY_MAX / 2)
        return facts;
    rh_log(RH_LOG_WARN, "task.facts_dropped", "job=%s op=%s bytes=%zu", t->job, t->op->op,
           strlen(facts));
    return (char *)(uintptr_t) "";
}

static struct rh_task *find(struct rh_link *link, int64_t task, int64_t epoch)
{
    for (struct rh_task *t = link->tasks; t; t = t->next) {
        if (t->id == task && t->epoch == epoch)
            return t;
    }
    return NULL;
}

static void revoke(struct rh_link *link, int64_t task, int64_t epoch, const char *why)
{
    struct rh_task *t = find(link, task, epoch);
    if (!t)
        return;
    if (!t->joined)
        rh_log(RH_LOG_INFO, "task.revoked", "task=%lld epoch=%lld why=\"%s\"", (long long)task,
               (long long)epoch, why);
    atomic_store(&t->cancelled, true);
    t->drop = true;
}

/* -- What is delivered ------------------------------------------------------------------------ */

static void send_checkpoint(struct rh_link *link, const struct rh_task *t,
                            struct rh_checkpoint_note *note, int64_t now)
{
    Rh__Checkpoint m = RH__CHECKPOINT__INIT;
    m.task = t->id;
    m.epoch = t->epoch;
    m.block = note->index;
    m.metrics = fitting(note->metrics, t);
    rh_link_send(link, RH_KIND_CHECKPOINT, &m.base);
    note->sent_at = now;
    note->tries++;
}

static void send_result(struct rh_link *link, struct rh_task *t, int64_t now)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    char *meta = t->meta ? rh_json_text(t->meta, false) : NULL;
    Rh__Result m = RH__RESULT__INIT;
    m.task = t->id;
    m.epoch = t->epoch;
    m.ok = t->rc == RH_OK;
    if (!m.ok) {
        m.failure = (Rh__Failure)t->err.failure;
        m.error_name = (char *)(uintptr_t)rh_rc_name(t->rc);
        m.error = t->err.message;
        m.device_need_bytes = t->device_need;
        m.device_room_bytes = t->device_room;
    }
    m.meta = fitting(meta, t);
    m.wall_s = (double)(now - t->started_at) / 1000.0;
    m.max_rss_bytes = (uint64_t)usage.ru_maxrss * 1024;
    rh_link_send(link, RH_KIND_RESULT, &m.base);
    t->result_sent_at = now;
    t->result_tries++;
    rh_free(meta);
}

static void join_finished(struct rh_link *link, struct rh_task *t)
{
    pthread_mutex_lock(&t->lock);
    bool finished = t->finished;
    pthread_mutex_unlock(&t->lock);
    if (!finished || t->joined)
        return;
    pthread_join(t->thread, NULL);
    t->joined = true;
    rh_log(t->rc == RH_OK || t->drop ? RH_LOG_INFO : RH_LOG_ERROR, "task.finished",
           "job=%s op=%s index=%lld epoch=%lld rc=%s%s%s", t->job, t->op->op, (long long)t->index,
           (long long)t->epoch, t->rc == RH_OK ? "OK" : rh_rc_name(t->rc),
           t->rc == RH_OK ? "" : " error=", t->rc == RH_OK ? "" : t->err.message);
    if (link->welcomed)
        rh_link_ready(link);
}

static void deliver_task(struct rh_link *link, struct rh_task *t, int64_t now)
{
    join_finished(link, t);
    if (!link->welcomed || t->drop)
        return;
    pthread_mutex_lock(&t->lock);
    struct rh_checkpoint_note *first = t->notes;
    for (struct rh_checkpoint_note *n = first; n; n = n->next) {
        if (is_due(now, n->sent_at, n->tries))
            send_checkpoint(link, t, n, now);
    }
    pthread_mutex_unlock(&t->lock);
    if (t->joined && !first && is_due(now, t->result_sent_at, t->result_tries))
        send_result(link, t, now);
}

static void sweep(struct rh_link *link)
{
    for (struct rh_task **at = &link->tasks; *at;) {
        struct rh_task *t = *at;
        if (!t->joined || !t->drop) {
            at = &t->next;
            continue;
        }
        *at = t->next;
        rh_task_free(t);
    }
}

void rh_link_deliver(struct rh_link *link, int64_t now)
{
    for (struct rh_task *t = link->tasks; t; t = t->next)
        deliver_task(link, t, now);
    sweep(link);
}

/* -- What is said to us ----------------------------------------------------------------------- */

static void reject(struct rh_link *link, const Rh__Assign *a, const char *why)
{
    Rh__Reject m = RH__REJECT__INIT;
    m.task = a->task;
    m.epoch = a->epoch;
    m.why = (char *)(uintptr_t)why;
    rh_link_send(link, RH_KIND_REJECT, &m.base);
    rh_log(RH_LOG_INFO, "task.rejected", "task=%lld why=\"%s\"", (long long)a->task, why);
}

static void say_accepted(struct rh_link *link, int64_t task, int64_t epoch)
{
    Rh__Accept m = RH__ACCEPT__INIT;
    m.task = task;
    m.epoch = epoch;
    rh_link_send(link, RH_KIND_ACCEPT, &m.base);
}

static void *compute(void *task)
{
    rh_task_execute(task);
    return NULL;
}

static struct rh_recipe *read_recipe(const Rh__Assign *a, struct rh_error *err)
{
    struct rh_json *json = NULL;
    struct rh_recipe *recipe = NULL;
    enum rh_rc rc = rh_json_parse(a->recipe, strlen(a->recipe), "recipe of the task", &json, err);
    if (rc == RH_OK)
        rc = rh_recipe_from_json(json, "recipe of the task", &recipe, err);
    rh_json_free(json);
    return rc == RH_OK ? recipe : NULL;
}

/* A recipe that cannot be read is a failure of the task: refusing it would only bring it back. */
static bool start_thread(struct rh_task *t, const struct rh_error *unreadable)
{
    if (t->recipe)
        return pthread_create(&t->thread, NULL, compute, t) == 0;
    t->err = *unreadable;
    rh_task_clean_text(t->err.message);
    t->rc = t->err.rc;
    t->finished = t->joined = true;
    return true;
}

static void start_task(struct rh_link *link, const Rh__Assign *a, const struct rh_stage_op *op)
{
    struct rh_error err = {0};
    struct rh_recipe *recipe = read_recipe(a, &err);
    char *job_dir = rh_format("%s/%s", link->options.state_dir, a->job_dir);
    char *staging = rh_format("%s/%s", job_dir, a->staging);
    struct rh_task *t = rh_task_new(op, a->job, a->model, a->output, job_dir, staging, recipe);
    t->id = a->task;
    t->epoch = a->epoch;
    t->index = a->index;
    t->first = a->next > a->index ? a->next : a->index;
    t->last = a->last;
    t->wake = rh_link_wake;
    t->wake_arg = link;
    t->started_at = rh_link_now();
    rh_free(job_dir);
    rh_free(staging);
    if (!start_thread(t, &err)) {
        rh_task_free(t);
        reject(link, a, "no thread to be had");
        return;
    }
    t->next = link->tasks;
    link->tasks = t;
    say_accepted(link, a->task, a->epoch);
    rh_log(RH_LOG_INFO, "task.started", "job=%s op=%s index=%lld epoch=%lld", a->job, a->op,
           (long long)a->index, (long long)a->epoch);
}

static void settle(struct rh_link *link, int64_t task, int64_t epoch)
{
    link->settled[link->settled_count++ % RH_SETTLED_MAX] = (struct rh_settled){task, epoch};
}

/* A network may bring an assignment again when its result is long taken over. */
static bool is_settled(const struct rh_link *link, int64_t task, int64_t epoch)
{
    for (size_t i = 0; i < link->settled_count && i < RH_SETTLED_MAX; i++) {
        if (link->settled[i].task == task && link->settled[i].epoch == epoch)
            return true;
    }
    return false;
}

static void on_assign(struct rh_link *link, const Rh__Assign *a)
{
    if (link->refused || is_settled(link, a->task, a->epoch))
        return;
    if (find(link, a->task, a->epoch)) {
        say_accepted(link, a->task, a->epoch);
        return;
    }
    for (struct rh_task *t = link->tasks; t; t = t->next) {
        if (t->id == a->task)
            revoke(link, t->id, t->epoch, "a newer lease of the same task");
    }
    const struct rh_stage_op *op = rh_stage_find_op(link->stage, a->op);
    if (!op)
        reject(link, a, "unknown operation");
    else if (link->draining)
        reject(link, a, "draining");
    else if (rh_link_running(link) >= (size_t)link->options.slots)
        reject(link, a, "busy");
    else
        start_task(link, a, op);
}

/* Everything is said again at once to whoever has just come. */
static void repeat_all(struct rh_link *link)
{
    for (struct rh_task *t = link->tasks; t; t = t->next) {
        t->result_tries = 0;
        pthread_mutex_lock(&t->lock);
        for (struct rh_checkpoint_note *n = t->notes; n; n = n->next)
            n->tries = 0;
        pthread_mutex_unlock(&t->lock);
    }
}

static void refuse(struct rh_link *link, const char *why)
{
    struct rh_error err = {0};
    (void)!rh_fail(&err, RH_ERR_PROTOCOL, "%s", why);
    rh_link_fail(link, &err);
}

static void on_welcome(struct rh_link *link, const Rh__Welcome *w)
{
    if (link->refused)
        return;
    if (link->factory && *link->factory && strcmp(link->factory, w->factory) != 0) {
        refuse(link, "the orchestrator here works on another state directory now");
        return;
    }
    /* The epoch rises with every start: a lower one is a forgotten process on an old copy. */
    if (w->orch_epoch < link->orch_epoch) {
        rh_log(RH_LOG_WARN, "worker.old_orchestrator", "epoch=%llu seen=%llu",
               (unsigned long long)w->orch_epoch, (unsigned long long)link->orch_epoch);
        return;
    }
    link->orch_epoch = w->orch_epoch;
    link->welcomed = true;
    if (link->session != w->session)
        link->settled_count = 0; /* a restored orchestrator may count epochs anew */
    link->session = w->session;
    link->beat_ms = w->beat_ms > 0 ? w->beat_ms : link->beat_ms;
    link->beats_unanswered = 0;
    rh_free(link->factory);
    link->factory = rh_strdup(w->factory);
    for (size_t i = 0; i < w->n_held; i++) {
        if (!w->held[i]->keep)
            revoke(link, w->held[i]->task, w->held[i]->epoch, "the orchestrator gave it away");
    }
    rh_log(RH_LOG_INFO, "worker.welcome", "worker=%s session=%llu", link->options.worker,
           (unsigned long long)w->session);
    rh_link_ready(link);
    repeat_all(link);
    rh_link_deliver(link, rh_link_now());
}

static void on_refuse(struct rh_link *link, const Rh__Refuse *r)
{
    rh_log(RH_LOG_ERROR, "worker.refused", "code=%d text=\"%s\"", (int)r->code, r->text);
    if (r->code == RH__REFUSE_CODE__REFUSE_DRAINING ||
        r->code == RH__REFUSE_CODE__REFUSE_UNKNOWN_KIND)
        return;
    char *why = rh_format("the orchestrator refuses this worker: %s", r->text);
    refuse(link, why);
    rh_free(why);
}

static void on_ack(struct rh_link *link, const Rh__Ack *a)
{
    if (a->verdict == RH__VERDICT__VERDICT_REHELLO) {
        if (link->refused)
            return;
        rh_link_hello(link);
        return;
    }
    struct rh_task *t = find(link, a->task, a->epoch);
    if (!t)
        return;
    if (a->verdict == RH__VERDICT__VERDICT_STALE) {
        revoke(link, a->task, a->epoch, "the lease is over");
    } else if (!a->checkpoint) {
        t->drop = true;
        settle(link, t->id, t->epoch);
    } else {
        pthread_mutex_lock(&t->lock);
        struct rh_checkpoint_note *note = t->notes;
        if (note && note->index == a->block) {
            t->notes = note->next;
            rh_free(note->metrics);
            rh_free(note);
        }
        pthread_mutex_unlock(&t->lock);
    }
    rh_link_deliver(link, rh_link_now());
}

static void on_beat_ack(struct rh_link *link, const Rh__BeatAck *b)
{
    if (b->session != link->session)
        return;
    link->beats_unanswered = 0;
    for (size_t i = 0; i < b->n_revoke; i++)
        revoke(link, b->revoke[i]->task, b->revoke[i]->epoch, "revoked");
}

void rh_link_garbage(void *link, const struct rh_peer *peer, int kind, const struct rh_error *why)
{
    (void)link;
    (void)peer;
    rh_log(RH_LOG_WARN, "link.garbage", "kind=%d why=\"%s\"", kind, why->message);
}

void rh_link_message(void *arg, const struct rh_peer *peer, const struct rh_message *message)
{
    (void)peer;
    struct rh_link *link = arg;
    if (link->stopping)
        return;
    const void *body = message->body;
    switch (message->kind) {
    case RH_KIND_WELCOME:
        on_welcome(link, body);
        break;
    case RH_KIND_REFUSE:
        on_refuse(link, body);
        break;
    case RH_KIND_ASSIGN:
        on_assign(link, body);
        break;
    case RH_KIND_ACK:
        on_ack(link, body);
        break;
    case RH_KIND_BEAT_ACK:
        on_beat_ack(link, body);
        break;
    case RH_KIND_CANCEL: {
        const Rh__Cancel *c = body;
        struct rh_task *t = find(link, c->task, c->epoch);
        if (t)
            atomic_store(&t->cancelled, true);
        if (t && c->exit_ms > 0 && t->stop_by == 0)
            t->stop_by = rh_link_now() + c->exit_ms;
        break;
    }
    case RH_KIND_DRAIN:
        rh_link_drain(link);
        break;
    default:
        rh_log(RH_LOG_WARN, "link.unexpected", "kind=%s", rh_kind_name(message->kind));
    }
}
