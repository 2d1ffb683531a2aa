#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "factory_internal.h"

/* What workers say, turned into the scheduler's events. Everything here comes from outside. */

#define PEERS_MAX 4096
#define SLOTS_MAX 256
#define HELD_MAX  1024

/* -- Peers ------------------------------------------------------------------------------------ */

static struct rh_peer_entry *entry_of_peer(const struct rh_factory *f, const struct rh_peer *peer)
{
    for (size_t i = 0; i < f->peer_count; i++) {
        const struct rh_peer *p = &f->peers[i].peer;
        if (p->size == peer->size && memcmp(p->id, peer->id, p->size) == 0)
            return &f->peers[i];
    }
    return NULL;
}

static struct rh_peer_entry *entry_of_worker(const struct rh_factory *f, const char *worker)
{
    for (size_t i = 0; i < f->peer_count; i++) {
        if (strcmp(f->peers[i].worker, worker) == 0)
            return &f->peers[i];
    }
    return NULL;
}

const struct rh_peer_entry *rh_factory_peer_of(const struct rh_factory *f, const char *worker)
{
    return entry_of_worker(f, worker);
}

static void remove_entry(struct rh_factory *f, struct rh_peer_entry *entry)
{
    *entry = f->peers[--f->peer_count];
}

void rh_factory_send(struct rh_factory *f, const struct rh_peer *peer, enum rh_kind kind,
                     const ProtobufCMessage *body)
{
    struct rh_error err;
    if (rh_socket_send(f->socket, peer, kind, body, &err) != RH_OK)
        rh_log(RH_LOG_DEBUG, "worker.unsent", "kind=%s why=\"%s\"", rh_kind_name(kind),
               err.message);
}

/* -- Refusals --------------------------------------------------------------------------------- */

static void refuse(struct rh_factory *f, const struct rh_peer *peer, Rh__RefuseCode code,
                   const char *text)
{
    Rh__Refuse m = RH__REFUSE__INIT;
    m.code = code;
    m.text = (char *)(uintptr_t)text; /* only read */
    m.retry_after_ms = 1000;
    m.proto_min = RH_PROTO_MIN;
    m.proto_max = RH_PROTO_MAX;
    rh_factory_send(f, peer, RH_KIND_REFUSE, &m.base);
}

/* To somebody we do not know: say Hello first. */
static void ask_for_hello(struct rh_factory *f, const struct rh_peer *peer, int64_t task,
                          int64_t epoch)
{
    Rh__Ack m = RH__ACK__INIT;
    m.task = task;
    m.epoch = epoch;
    m.verdict = RH__VERDICT__VERDICT_REHELLO;
    rh_factory_send(f, peer, RH_KIND_ACK, &m.base);
}

void rh_factory_garbage(void *factory, const struct rh_peer *peer, int kind,
                        const struct rh_error *why)
{
    struct rh_factory *f = factory;
    rh_log(RH_LOG_DEBUG, "worker.garbage", "kind=%d why=\"%s\"", kind, why->message);
    if (why->rc == RH_ERR_UNSUPPORTED)
        refuse(f, peer, RH__REFUSE_CODE__REFUSE_UNKNOWN_KIND, why->message);
}

/* -- Hello ------------------------------------------------------------------------------------ */

static bool is_name(const char *text)
{
    size_t size = strlen(text);
    if (size == 0 || size >= RH_WORKER_ID_SIZE)
        return false;
    for (const char *c = text; *c; c++) {
        if ((unsigned char)*c <= 0x20 || *c == 0x7f || *c == '"' || *c == '\\')
            return false;
    }
    return true;
}

/* Returns the reason against it, with its code; NULL: welcome. */
static char *objection(const struct rh_factory *f, const Rh__Hello *h, uint32_t *proto,
                       enum rh_stage_id *stage, Rh__RefuseCode *code)
{
    struct rh_error err;
    const struct rh_peer_entry *known = entry_of_worker(f, h->worker);
    *code = RH__REFUSE_CODE__REFUSE_VERSION;
    if (rh_proto_negotiate(h->proto_min, h->proto_max, proto, &err) != RH_OK)
        return rh_strdup(err.message);
    *code = RH__REFUSE_CODE__REFUSE_FACTORY;
    if (h->factory[0] && strcmp(h->factory, rh_database_factory_id(f->db)) != 0)
        return rh_format("this worker belongs to the state directory %.40s, this is %s", h->factory,
                         rh_database_factory_id(f->db));
    *code = RH__REFUSE_CODE__REFUSE_SUPERSEDED;
    if (known && known->incarnation > h->incarnation)
        return rh_format("a younger process works under the name %s", h->worker);
    *code = RH__REFUSE_CODE__REFUSE_MALFORMED;
    if (!is_name(h->worker))
        return rh_format("a worker needs a name of 1 to %d visible characters",
                         RH_WORKER_ID_SIZE - 1);
    if (!rh_stage_from_name(h->stage, stage))
        return rh_format("\"%.40s\" is no stage", h->stage);
    if (h->slots < 1 || h->slots > SLOTS_MAX)
        return rh_format("%u slots; 1 to %d are possible", h->slots, SLOTS_MAX);
    if (h->n_held > HELD_MAX || (!known && f->peer_count >= PEERS_MAX))
        return rh_strdup("too many workers, or tasks of one");
    const struct rh_sched_worker *w = rh_sched_find_worker(f->sched, h->worker);
    if (w && w->stage != *stage && w->connected)
        return rh_format("%s is the name of a worker of the stage %s", h->worker,
                         rh_stage_name(w->stage));
    return NULL;
}

static void register_peer(struct rh_factory *f, const struct rh_peer *peer, const Rh__Hello *h,
                          uint32_t proto)
{
    struct rh_peer_entry *entry = entry_of_peer(f, peer);
    /* Another name under the same routing id: the old one cannot be reached any more. */
    if (entry && strcmp(entry->worker, h->worker) != 0)
        remove_entry(f, entry);
    entry = entry_of_worker(f, h->worker);
    if (!entry) {
        f->peers = rh_realloc_array(f->peers, f->peer_count + 1, sizeof *f->peers);
        entry = &f->peers[f->peer_count++];
        *entry = (struct rh_peer_entry){0};
        snprintf(entry->worker, sizeof entry->worker, "%s", h->worker);
    }
    entry->peer = *peer;
    entry->incarnation = h->incarnation;
    entry->proto = proto;
    /* Unlike that of any earlier orchestrator. */
    entry->session = (f->epoch << 32) + ++f->last_session;
}

static int64_t bytes_or_zero(uint64_t bytes)
{
    return bytes < INT64_MAX ? (int64_t)bytes : 0;
}

static void on_hello(struct rh_factory *f, const struct rh_peer *peer, const Rh__Hello *h)
{
    uint32_t proto = 0;
    enum rh_stage_id stage = RH_STAGE_DOWNLOAD;
    Rh__RefuseCode code = RH__REFUSE_CODE__REFUSE_NONE;
    char *why = objection(f, h, &proto, &stage, &code);
    if (why) {
        rh_log(RH_LOG_WARN, "worker.refused", "worker=\"%.63s\" pid=%lld why=\"%s\"", h->worker,
               (long long)h->pid, why);
        refuse(f, peer, code, why);
        rh_free(why);
        return;
    }
    if (f->stopping) {
        refuse(f, peer, RH__REFUSE_CODE__REFUSE_DRAINING, "the orchestrator is shutting down");
        return;
    }
    register_peer(f, peer, h, proto);
    struct rh_sched_held *held = rh_alloc_array(h->n_held + 1, sizeof *held);
    for (size_t i = 0; i < h->n_held; i++)
        held[i] = (struct rh_sched_held){h->held[i]->task, h->held[i]->epoch};
    const struct rh_sched_hello hello = {.id = h->worker,
                                         .incarnation = h->incarnation,
                                         .stage = stage,
                                         .slots = (int)h->slots,
                                         .pid = h->pid,
                                         .host = h->host,
                                         .device_bytes = bytes_or_zero(h->device_bytes),
                                         .held = held,
                                         .held_count = h->n_held};
    rh_sched_hello(f->sched, rh_factory_now(), &hello);
    rh_free(held);
}

/* -- Progress --------------------------------------------------------------------------------- */

static double finite_or_zero(double value)
{
    return isfinite(value) ? value : 0;
}

/* The scheduler keeps phase, done and total; what is counted is for display only. */
static void note_unit(struct rh_factory *f, int64_t task, const char *worker, const char *unit)
{
    const struct rh_sched_task *t = rh_sched_find_task(f->sched, task);
    if (!t || strcmp(t->worker, worker) != 0)
        return;
    struct rh_job_info *info = t->job->user;
    size_t at = 0;
    while (at < info->unit_count && info->units[at].task != task)
        at++;
    if (at == info->unit_count) {
        info->units = rh_realloc_array(info->units, at + 1, sizeof *info->units);
        info->unit_count++;
    }
    info->units[at].task = task;
    snprintf(info->units[at].unit, sizeof info->units[at].unit, "%s", unit);
}

static void on_beat(struct rh_factory *f, const struct rh_peer_entry *from, const Rh__Beat *b)
{
    if (b->session != from->session) {
        ask_for_hello(f, &from->peer, 0, 0);
        return;
    }
    size_t count = b->n_held < HELD_MAX ? b->n_held : HELD_MAX;
    struct rh_sched_progress *held = rh_alloc_array(count + 1, sizeof *held);
    for (size_t i = 0; i < count; i++) {
        const Rh__Lease *l = b->held[i];
        held[i] = (struct rh_sched_progress){.task = l->task,
                                             .epoch = l->epoch,
                                             .progress_seq = l->progress_seq,
                                             .phase = l->phase,
                                             .done = finite_or_zero(l->done),
                                             .total = finite_or_zero(l->total)};
        note_unit(f, l->task, from->worker, l->unit);
    }
    rh_sched_beat(f->sched, rh_factory_now(), from->worker, from->incarnation, held, count);
    rh_sched_device(f->sched, from->worker, bytes_or_zero(b->device_free_bytes),
                    b->n_held == 0);
    rh_free(held);
    Rh__BeatAck ack = RH__BEAT_ACK__INIT;
    ack.session = from->session;
    ack.orch_epoch = f->epoch;
    rh_factory_send(f, &from->peer, RH_KIND_BEAT_ACK, &ack.base);
}

/* Only the tuning task that the sender holds has ticks. */
static void on_tick(struct rh_factory *f, const struct rh_peer_entry *from, const Rh__Tick *t)
{
    const struct rh_sched_task *task = rh_sched_find_task(f->sched, t->task);
    if (!task || task->op != RH_OP_TUNE || task->epoch != t->epoch ||
        strcmp(task->worker, from->worker) != 0 || t->block < task->index ||
        t->block > task->last || t->iters <= 0 || t->iter < 0 || t->iter > t->iters)
        return;
    struct rh_job_info *info = task->job->user;
    info->tick = (struct rh_job_tick){.task = t->task,
                                      .epoch = t->epoch,
                                      .block = t->block,
                                      .iter = t->iter,
                                      .iters = t->iters,
                                      .loss = t->loss,
                                      .loss_best = t->loss_best,
                                      .fresh = true};
}

/* -- Results ---------------------------------------------------------------------------------- */

/* A JSON object is passed on, anything else is left out: it ends in the event log. */
static const char *object_or_null(const char *text, const char *what)
{
    struct rh_json *json = NULL;
    struct rh_error err;
    if (!*text)
        return NULL;
    bool ok = rh_json_parse(text, strlen(text), what, &json, &err) == RH_OK &&
              rh_json_type(json) == RH_JSON_OBJECT;
    rh_json_free(json);
    if (!ok)
        rh_log(RH_LOG_WARN, "worker.malformed", "what=\"%s\"", what);
    return ok ? text : NULL;
}

static enum rh_failure failure_of(Rh__Failure failure)
{
    switch (failure) {
    case RH__FAILURE__FAILURE_TRANSIENT:
        return RH_FAILURE_TRANSIENT;
    case RH__FAILURE__FAILURE_RESOURCE:
        return RH_FAILURE_RESOURCE;
    case RH__FAILURE__FAILURE_CANCELLED:
        return RH_FAILURE_CANCELLED;
    default:
        return RH_FAILURE_PERMANENT;
    }
}

static void on_result(struct rh_factory *f, const struct rh_peer_entry *from, const Rh__Result *r)
{
    if (!r->ok && r->device_need_bytes > 0)
        rh_sched_device_short(f->sched, from->worker, r->task, r->epoch,
                              bytes_or_zero(r->device_need_bytes),
                              bytes_or_zero(r->device_room_bytes));
    rh_sched_result(f->sched, rh_factory_now(), from->worker, r->task, r->epoch, r->ok != 0,
                    failure_of(r->failure), r->error, object_or_null(r->meta, "meta of a result"));
}

static void on_checkpoint(struct rh_factory *f, const struct rh_peer_entry *from,
                          const Rh__Checkpoint *c)
{
    rh_sched_checkpoint(f->sched, rh_factory_now(), from->worker, c->task, c->epoch, c->block,
                        object_or_null(c->metrics, "metrics of a checkpoint"));
}

/* The process says that it is leaving; it has given back what it held. */
static void on_bye(struct rh_factory *f, struct rh_peer_entry *from, const Rh__Bye *b)
{
    char *why = rh_format("said goodbye: %.200s", b->reason);
    rh_sched_worker_gone(f->sched, rh_factory_now(), from->worker, false, why);
    rh_free(why);
    remove_entry(f, from);
}

/* -- Dispatch --------------------------------------------------------------------------------- */

/* Messages of somebody unknown create nothing; those that wait for an answer get one. */
static void from_stranger(struct rh_factory *f, const struct rh_peer *peer,
                          const struct rh_message *message)
{
    const void *body = message->body;
    int64_t task = 0;
    int64_t epoch = 0;
    if (message->kind == RH_KIND_RESULT) {
        task = ((const Rh__Result *)body)->task;
        epoch = ((const Rh__Result *)body)->epoch;
    } else if (message->kind == RH_KIND_CHECKPOINT) {
        task = ((const Rh__Checkpoint *)body)->task;
        epoch = ((const Rh__Checkpoint *)body)->epoch;
    } else if (message->kind == RH_KIND_TICK || message->kind == RH_KIND_BYE) {
        return;
    }
    ask_for_hello(f, peer, task, epoch);
}

void rh_factory_message(void *factory, const struct rh_peer *peer, const struct rh_message *message)
{
    struct rh_factory *f = factory;
    const void *body = message->body;
    int64_t now = rh_factory_now();
    if (message->kind == RH_KIND_HELLO) {
        on_hello(f, peer, body);
        return;
    }
    struct rh_peer_entry *from = entry_of_peer(f, peer);
    if (!from) {
        from_stranger(f, peer, message);
        return;
    }
    switch (message->kind) {
    case RH_KIND_ACCEPT: {
        const Rh__Accept *a = body;
        rh_sched_accept(f->sched, now, from->worker, a->task, a->epoch);
        break;
    }
    case RH_KIND_REJECT: {
        const Rh__Reject *r = body;
        rh_sched_reject(f->sched, now, from->worker, r->task, r->epoch, r->why);
        break;
    }
    case RH_KIND_BEAT:
        on_beat(f, from, body);
        break;
    case RH_KIND_CHECKPOINT:
        on_checkpoint(f, from, body);
        break;
    case RH_KIND_RESULT:
        on_result(f, from, body);
        break;
    case RH_KIND_TICK:
        on_tick(f, from, body);
        break;
    case RH_KIND_DRAIN:
        rh_sched_leaving(f->sched, from->worker);
        break;
    case RH_KIND_BYE:
        on_bye(f, from, body);
        break;
    case RH_KIND_READY:
        break; /* the turn that follows gives out what there is */
    default:
        rh_log(RH_LOG_DEBUG, "worker.unexpected", "worker=%s kind=%s", from->worker,
               rh_kind_name(message->kind));
    }
}
