#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "sched_internal.h"

/* Workers come, say what they hold, are drained, and go. */

static struct rh_sched_worker *add_worker(struct rh_sched *s, const char *id)
{
    struct rh_sched_worker *w = rh_alloc(sizeof *w);
    snprintf(w->id, sizeof w->id, "%s", id);
    s->workers =
        rh_realloc_array(s->workers, s->worker_count + 1, sizeof(struct rh_sched_worker *));
    s->workers[s->worker_count++] = w;
    return w;
}

static void set_drained(struct rh_sched_worker *w, bool drained, const char *why)
{
    char *copy = drained ? rh_strdup(why) : NULL;
    rh_free(w->why);
    w->drained = drained;
    w->why = copy;
}

static struct rh_sched_worker *register_worker(struct rh_sched *s, const struct rh_sched_hello *h)
{
    struct rh_sched_worker *w = rh_sched_worker(s, h->id);
    if (!w)
        w = add_worker(s, h->id);
    if (w->incarnation != h->incarnation) {
        w->leaving = false;
        w->busy_until = 0;
    }
    if (w->incarnation != h->incarnation || w->device_bytes != h->device_bytes)
        w->device_bytes = w->device_free = w->device_room = h->device_bytes;
    w->incarnation = h->incarnation;
    w->stage = h->stage;
    w->slots = h->slots;
    w->pid = h->pid;
    snprintf(w->host, sizeof w->host, "%s", h->host ? h->host : "");
    return w;
}

static bool is_held(const struct rh_sched_hello *h, const struct rh_sched_task *task)
{
    for (size_t i = 0; i < h->held_count; i++) {
        if (h->held[i].task == task->id && h->held[i].epoch == task->epoch)
            return true;
    }
    return false;
}

/* Leases that the worker should hold and does not. */
static void release_forgotten(struct rh_sched *s, int64_t now, const struct rh_sched_hello *h)
{
    for (struct rh_sched_task *t = s->claimed, *next; t; t = next) {
        next = t->next_claimed;
        if (strcmp(t->worker, h->id) != 0 || is_held(h, t) || t->result_in)
            continue;
        if (t->state == RH_TASK_WAITING)
            t->worker[0] = '\0';
        else if (t->state == RH_TASK_LEASED)
            rh_sched_lost(s, now, t, t->incarnation != 0 && t->incarnation != h->incarnation,
                          "the worker has started anew");
    }
}

void rh_sched_hello(struct rh_sched *s, int64_t now, const struct rh_sched_hello *hello)
{
    const struct rh_sched_worker *old = rh_sched_worker(s, hello->id);
    if (old && hello->incarnation < old->incarnation)
        return; /* superseded by a younger process of that name */
    bool joined = !old || !old->connected || old->incarnation != hello->incarnation;
    struct rh_sched_worker *w = register_worker(s, hello);
    w->connected = true;
    w->last_seen = now;
    if (joined) {
        char *text = rh_format("%s on %s", rh_stage_name(w->stage), w->host);
        rh_sched_event(s, "worker.joined", NULL, NULL, -1, text, NULL);
        rh_free(text);
        struct rh_action *a = &s->queue[s->queue_count - 1];
        memcpy(a->worker, w->id, sizeof a->worker);
        a->pid = w->pid;
    }
    release_forgotten(s, now, hello);
    struct rh_sched_keep *held = rh_alloc_array(hello->held_count + 1, sizeof *held);
    for (size_t i = 0; i < hello->held_count; i++) {
        struct rh_sched_task *task = rh_sched_find_task(s, hello->held[i].task);
        held[i].task = hello->held[i].task;
        held[i].epoch = hello->held[i].epoch;
        /* Done counts as kept: the result will be repeated and answered DUPLICATE. */
        held[i].keep = rh_sched_holds(task, hello->id, hello->held[i].epoch) ||
                       (task && task->state == RH_TASK_DONE && task->epoch == held[i].epoch);
        if (held[i].keep && task->state != RH_TASK_DONE)
            rh_sched_renew(s, now, task, w);
    }
    struct rh_action *a = rh_sched_push(s, RH_ACT_WELCOME);
    memcpy(a->worker, w->id, sizeof a->worker);
    a->held = held;
    a->held_count = hello->held_count;
}

void rh_sched_worker_gone(struct rh_sched *s, int64_t now, const char *worker, bool blame,
                          const char *why)
{
    struct rh_sched_worker *w = rh_sched_worker(s, worker);
    if (!w)
        return;
    w->connected = false;
    rh_sched_event(s, "worker.gone", NULL, NULL, -1, why, NULL);
    struct rh_action *a = &s->queue[s->queue_count - 1];
    memcpy(a->worker, w->id, sizeof a->worker);
    a->pid = w->pid;
    for (struct rh_sched_task *t = s->claimed, *next; t; t = next) {
        next = t->next_claimed;
        if (strcmp(t->worker, worker) != 0 || t->result_in)
            continue;
        if (t->state == RH_TASK_WAITING)
            t->worker[0] = '\0';
        else if (t->state == RH_TASK_LEASED)
            rh_sched_lost(s, now, t, blame && t->revoke_at == 0, why);
    }
}

void rh_sched_leaving(struct rh_sched *s, const char *worker)
{
    struct rh_sched_worker *w = rh_sched_worker(s, worker);
    if (w)
        w->leaving = true;
}

void rh_sched_load_worker(struct rh_sched *s, const char *id, enum rh_stage_id stage,
                          const char *why)
{
    struct rh_sched_worker *w = add_worker(s, id);
    w->stage = stage;
    set_drained(w, true, why);
}

enum rh_rc rh_sched_drain(struct rh_sched *s, const char *worker, bool drained, const char *why,
                          struct rh_error *err)
{
    struct rh_sched_worker *w = rh_sched_worker(s, worker);
    if (!w)
        return rh_fail(err, RH_ERR_NOT_FOUND, "there is no worker \"%.64s\"", worker);
    if (w->drained == drained)
        return RH_OK;
    set_drained(w, drained, why);
    if (!drained)
        memset(w->blames, 0, sizeof w->blames);
    struct rh_action *a = rh_sched_push(s, RH_ACT_SAVE_WORKER);
    memcpy(a->worker, w->id, sizeof a->worker);
    a->keep = drained;
    a->text = rh_strdup(why);
    rh_sched_event(s, drained ? "worker.drained" : "worker.undrained", NULL, NULL, -1, why, NULL);
    a = &s->queue[s->queue_count - 1];
    memcpy(a->worker, w->id, sizeof a->worker);
    return RH_OK;
}
