#define _XOPEN_SOURCE 700 /* realpath */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/daemon.h"
#include "factory_internal.h"

#define TICK_MS 500
/* The loop was away for so long (suspended, stopped): what has arrived meanwhile is heard before
 * anybody is declared dead. */
#define AWAY_MS      5000
/* Daemons have so long for short tasks and the last words; beside it the grace for a block. */
#define DRAIN_MS     20000
#define LINGER_MS    200
#define LONGEST_LEAF "/work.sock"
#define SOCKET_MODE  0750

int64_t rh_factory_now(void)
{
    return rh_clock_ns() / 1000000;
}

/* -- Transactions ----------------------------------------------------------------------------- */

static void add_pending(struct rh_factory *f, const struct rh_action *action)
{
    if (f->pending_count == f->pending_capacity) {
        f->pending_capacity = f->pending_capacity ? 2 * f->pending_capacity : 64;
        f->pending = rh_realloc_array(f->pending, f->pending_capacity, sizeof *f->pending);
    }
    f->pending[f->pending_count++] =
        (struct rh_pending){.action = *action, .unix_ns = rh_clock_unix_ns()};
}

void rh_factory_note(struct rh_factory *f, const char *type, struct rh_sched_job *job,
                     const char *worker, const char *text)
{
    struct rh_action a = {.kind = RH_ACT_EVENT, .event = type, .job = job, .block = -1};
    a.text = rh_strdup(text);
    if (worker)
        strncpy(a.worker, worker, sizeof a.worker - 1);
    add_pending(f, &a);
}

static struct rh_event_row event_row(const struct rh_factory *f, const struct rh_pending *p)
{
    const struct rh_action *a = &p->action;
    struct rh_event_row row = {.seq = p->seq,
                               .unix_ns = p->unix_ns,
                               .epoch = f->epoch,
                               .job = a->job ? a->job->id : NULL,
                               .type = a->event,
                               .worker = a->worker,
                               .text = a->text,
                               .data = a->data,
                               .index = -1,
                               .block = a->block,
                               .pid = a->pid};
    if (a->task) {
        row.task = a->task->id;
        row.op = rh_op_name(a->task->op);
        row.index = a->task->index;
    }
    return row;
}

static enum rh_rc store_one(struct rh_factory *f, struct rh_pending *p, struct rh_error *err)
{
    struct rh_sched_job *job = p->action.job;
    if (p->action.kind == RH_ACT_SAVE_JOB) {
        struct rh_job_info *info = job->user;
        if (job->state < RH_JOB_DONE)
            info->finished_unix_ns = 0;
        else if (info->finished_unix_ns == 0)
            info->finished_unix_ns = p->unix_ns;
        enum rh_rc rc = rh_database_save_job(f->db, job, info->finished_unix_ns, err);
        if (rc == RH_OK && job->state == RH_JOB_DONE && f->retain_bytes == 0)
            rc = rh_database_forget_steps(f->db, job->id, err); /* its files go */
        return rc;
    }
    if (p->action.kind == RH_ACT_SAVE_TASK)
        return rh_database_save_task(f->db, p->action.task, err);
    if (p->action.kind == RH_ACT_SAVE_WORKER) {
        const struct rh_sched_worker *w = rh_sched_find_worker(f->sched, p->action.worker);
        return rh_database_save_worker(f->db, p->action.worker, w->stage,
                                       p->action.keep ? w->why : NULL, err);
    }
    if (p->action.kind != RH_ACT_EVENT)
        return RH_OK;
    struct rh_event_row row = event_row(f, p);
    enum rh_rc rc = rh_database_add_event(f->db, &row, err);
    p->seq = row.seq;
    bool made = strcmp(row.type, "task.done") == 0 || strcmp(row.type, "block.done") == 0;
    if (rc == RH_OK && made && p->action.task)
        rc = rh_factory_save_step(f, p->action.task, row.block, err);
    return rc;
}

static enum rh_rc store_all(struct rh_factory *f, struct rh_error *err)
{
    bool rows = false;
    for (size_t i = 0; i < f->pending_count; i++) {
        enum rh_action_kind kind = f->pending[i].action.kind;
        rows = rows || kind == RH_ACT_SAVE_JOB || kind == RH_ACT_SAVE_TASK ||
               kind == RH_ACT_SAVE_WORKER || kind == RH_ACT_EVENT;
    }
    if (!rows)
        return RH_OK;
    enum rh_rc rc = rh_database_begin(f->db, err);
    for (size_t i = 0; i < f->pending_count && rc == RH_OK; i++)
        rc = store_one(f, &f->pending[i], err);
    if (rc == RH_OK)
        rc = rh_database_commit(f->db, err);
    if (rc != RH_OK)
        rh_database_rollback(f->db);
    return rc;
}

/* Rows are stored or nothing is said: with a full disk the actions wait, no lease is given out, and
 * everything is tried again with the next turn. */
static bool store(struct rh_factory *f)
{
    struct rh_error err;
    enum rh_rc rc = store_all(f, &err);
    if ((rc == RH_ERR_NO_SPACE || rc == RH_ERR_IO) && rh_factory_drop_ballast(f))
        rc = store_all(f, &err);
    if (rc != RH_OK) {
        if (!f->stuck)
            rh_log(RH_LOG_ERROR, "factory.stuck", "why=\"%s\"", err.message);
        f->fault = err;
        f->stuck = true;
    } else if (f->stuck) {
        rh_log(RH_LOG_INFO, "factory.unstuck", "%s", "");
        f->stuck = false;
    }
    rh_sched_hold(f->sched, f->stuck || f->stopping);
    return !f->stuck;
}

/* -- Turns ------------------------------------------------------------------------------------ */

/* Moves actions from the scheduler to the pending ones; true when a commit was carried out, after
 * which there may be more to give out. */
static bool collect(struct rh_factory *f)
{
    struct rh_action action;
    bool committed = false;
    while (rh_sched_next(f->sched, &action)) {
        if (action.kind != RH_ACT_COMMIT) {
            add_pending(f, &action);
            continue;
        }
        rh_factory_commit(f, &action);
        rh_action_done(&action);
        committed = true;
    }
    return committed;
}

static void log_event(const struct rh_event_row *row)
{
    rh_log(RH_LOG_INFO, row->type, "job=%s op=%s index=%lld block=%lld worker=%s%s%s%s",
           row->job ? row->job : "-", row->op ? row->op : "-", (long long)row->index,
           (long long)row->block, row->worker[0] ? row->worker : "-", row->text ? " text=\"" : "",
           row->text ? row->text : "", row->text ? "\"" : "");
}

static void tell(struct rh_factory *f, const struct rh_pending *p)
{
    struct rh_event_row row = event_row(f, p);
    struct rh_json *event = rh_event_json(&row);
    if (strcmp(row.type, "block.done") == 0)
        rh_job_info_add_metric(p->action.job->user, row.block, rh_json_get(event, "data"));
    if (f->subscriber)
        f->subscriber(f->subscriber_arg, event);
    rh_json_free(event);
    log_event(&row);
}

/* Ended jobs live in the database only. */
static void forget_ended(struct rh_factory *f)
{
    for (size_t i = rh_sched_job_count(f->sched); i-- > 0;) {
        struct rh_sched_job *job = rh_sched_job_at(f->sched, i);
        if (job->state < RH_JOB_DONE)
            continue;
        rh_job_info_free(job->user);
        rh_sched_forget(f->sched, job);
    }
}

static void look_whether_idle(struct rh_factory *f)
{
    if (rh_sched_job_count(f->sched) > 0) {
        f->had_job = true;
    } else if (f->exit_when_idle && f->had_job && !f->said_idle && f->on_idle) {
        f->said_idle = true;
        f->on_idle(f->on_idle_arg);
    }
}

void rh_factory_turn(struct rh_factory *f)
{
    if (f->in_turn || f->closed)
        return;
    f->in_turn = true;
    do {
        rh_factory_reuse(f);
        rh_sched_dispatch(f->sched, rh_factory_now());
    } while (collect(f));
    if (store(f)) {
        f->had_job = f->had_job || rh_sched_job_count(f->sched) > 0;
        for (size_t i = 0; i < f->pending_count; i++) {
            struct rh_pending *p = &f->pending[i];
            if (p->action.kind == RH_ACT_EVENT)
                tell(f, p);
            else
                rh_factory_carry_out(f, &p->action);
            rh_action_done(&p->action);
        }
        f->pending_count = 0;
        forget_ended(f);
        look_whether_idle(f);
    }
    f->in_turn = false;
}

static void on_turn(void *factory)
{
    rh_factory_turn(factory);
}

static void look_at_disk(struct rh_factory *f)
{
    uint64_t bytes = 0;
    bool known = rh_fs_free_bytes(f->state_dir, &bytes, NULL) == RH_OK && bytes < INT64_MAX;
    rh_sched_space(f->sched, known ? (int64_t)bytes : -1);
    if (f->config.headroom < 0 && rh_fs_disk_bytes(f->state_dir, &bytes, NULL) == RH_OK)
        rh_sched_set_headroom(f->sched, rh_sched_headroom_for(bytes));
}

static void on_tick(uv_timer_t *timer)
{
    struct rh_factory *f = timer->data;
    int64_t now = rh_factory_now();
    bool away = now - f->last_tick > AWAY_MS;
    f->last_tick = now;
    rh_factory_keep_ballast(f);
    look_at_disk(f);
    rh_factory_look_after_space(f);
    if (!away)
        rh_sched_tick(f->sched, now);
    rh_factory_turn(f);
    rh_factory_tell_ticks(f);
}

/* -- Start ------------------------------------------------------------------------------------ */

static void on_child_gone(void *factory, const char *worker, bool died, const char *why)
{
    struct rh_factory *f = factory;
    const struct rh_sched_worker *w = rh_sched_find_worker(f->sched, worker);
    if (w && !w->connected && !died)
        return; /* it has said goodbye */
    rh_sched_worker_gone(f->sched, rh_factory_now(), worker, died && !f->stopping, why);
    rh_factory_turn(f);
}

/* SQLite's WAL and flock need a file system that only this host uses. */
static enum rh_rc refuse_network_disk(const char *dir, struct rh_error *err)
{
    static const struct {
        unsigned long magic;
        const char *name;
    } refused[] = {{0x6969, "NFS"},      {0x517B, "SMB"},        {0xFF534D42, "CIFS"},
                   {0xFE534D42, "SMB"},  {0x01021997, "9p"},     {0x65735546, "FUSE"},
                   {0x00C36400, "Ceph"}, {0x0BD00BD0, "Lustre"}, {0x5346414F, "AFS"}};
    struct statfs st;
    if (statfs(dir, &st) != 0)
        return rh_fail_errno(err, errno, "%s: could not find out the file system", dir);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (((unsigned long)st.f_type & 0xFFFFFFFFUL) == refused[i].magic)
            return rh_fail(err, RH_ERR_UNSUPPORTED,
                           "%s: the state directory cannot be on %s; use --state with a local disk",
                           dir, refused[i].name);
    }
    return RH_OK;
}

static enum rh_rc make_directory(const char *dir, const char *name, struct rh_error *err)
{
    char *path = rh_fs_join(dir, name);
    enum rh_rc rc = rh_fs_mkdirs(path, err);
    rh_free(path);
    return rc;
}

static enum rh_rc make_run_dir(struct rh_factory *f, const char *run_dir, struct rh_error *err)
{
    struct sockaddr_un address;
    char *wanted = run_dir ? rh_strdup(run_dir) : rh_fs_join(f->state_dir, "run");
    enum rh_rc rc = RH_OK;
    if (strlen(wanted) + strlen(LONGEST_LEAF) >= sizeof address.sun_path) {
        rc = rh_fail(err, RH_ERR_ARGUMENT,
                     "%s: too long for the sockets in it (%zu bytes are possible); name a shorter "
                     "directory with --run",
                     wanted, sizeof address.sun_path - 1 - strlen(LONGEST_LEAF));
        goto out;
    }
    bool there = rh_fs_is_dir(wanted);
    rc = rh_fs_mkdirs(wanted, err);
    if (rc == RH_OK && !there && chmod(wanted, SOCKET_MODE) != 0)
        rc = rh_fail_errno(err, errno, "%s: could not set the mode", wanted);
    if (rc == RH_OK) {
        f->run_dir = wanted;
        wanted = NULL;
    }
out:
    rh_free(wanted);
    return rc;
}

static enum rh_rc open_database(struct rh_factory *f, struct rh_error *err)
{
    char *path = rh_fs_join(f->state_dir, "roundhouse.db");
    rh_database_close(f->db);
    f->db = NULL;
    enum rh_rc rc = rh_database_open(path, &f->db, err);
    if (rc == RH_OK)
        rc = rh_database_next_epoch(f->db, &f->epoch, err);
    rh_free(path);
    return rc;
}

/* Everything before the first socket: nobody else may be at work here. */
static enum rh_rc open_state(struct rh_factory *f, const struct rh_factory_options *options,
                             struct rh_error *err)
{
    enum rh_rc rc = rh_fs_mkdirs(options->state_dir, err);
    if (rc != RH_OK)
        return rc;
    char *real = realpath(options->state_dir, NULL);
    if (!real)
        return rh_fail_errno(err, errno, "%s: could not be opened", options->state_dir);
    f->state_dir = rh_strdup(real);
    free(real); /* of the C library, not ours */
    rc = refuse_network_disk(f->state_dir, err);
    if (rc == RH_OK)
        rc = rh_lock_dir(f->state_dir, &f->lock_fd, err);
    if (rc == RH_OK)
        rc = make_run_dir(f, options->run_dir, err);
    if (rc == RH_OK)
        rc = make_directory(f->state_dir, "jobs", err);
    if (rc == RH_OK)
        rc = make_directory(f->state_dir, "log", err);
    if (rc == RH_OK)
        rc = make_directory(f->state_dir, "trash", err);
    if (rc == RH_OK)
        rc = open_database(f, err);
    if ((rc == RH_ERR_NO_SPACE || rc == RH_ERR_IO) && f->lock_fd >= 0 && rh_factory_drop_ballast(f))
        rc = open_database(f, err);
    return rc;
}

static enum rh_rc open_sockets(struct rh_factory *f, const struct rh_factory_options *options,
                               struct rh_error *err)
{
    const struct rh_socket_events events = {
        .message = rh_factory_message, .garbage = rh_factory_garbage, .turn = on_turn, .arg = f};
    char *endpoint = rh_format("ipc://%s/work.sock", f->run_dir);
    char *log_dir = rh_fs_join(f->state_dir, "log");
    enum rh_rc rc = rh_zmq_new(&f->zmq, err);
    if (rc == RH_OK)
        rc = rh_router_open(f->zmq, f->loop, endpoint, &events, &f->socket, err);
    if (rc == RH_OK && options->spawn) {
        const struct rh_supervisor_options stages = {.bin_dir = options->bin_dir,
                                                     .state_dir = f->state_dir,
                                                     .endpoint = endpoint,
                                                     .log_dir = log_dir,
                                                     .grace_s = options->grace_s,
                                                     .gone = on_child_gone,
                                                     .arg = f};
        rc = rh_supervisor_new(f->loop, &stages, &f->supervisor, err);
    }
    rh_free(log_dir);
    rh_free(endpoint);
    return rc;
}

enum rh_rc rh_factory_new(uv_loop_t *loop, const struct rh_factory_options *options,
                          struct rh_factory **out, struct rh_error *err)
{
    struct rh_factory *f = rh_alloc(sizeof *f);
    f->loop = loop;
    f->lock_fd = -1;
    f->exit_when_idle = options->exit_when_idle;
    f->config = options->sched ? *options->sched : rh_sched_defaults;
    f->retain_bytes = options->retain_bytes;
    f->grace_s = options->grace_s;
    f->sched = rh_sched_new(&f->config);
    f->last_tick = rh_factory_now();
    *out = NULL;
    enum rh_rc rc = open_state(f, options, err);
    if (rc == RH_OK) {
        look_at_disk(f);
        rh_factory_sweep_trash(f);
        rc = rh_factory_load(f, err);
    }
    if (rc == RH_OK)
        rc = open_sockets(f, options, err);
    if (rc != RH_OK) {
        rh_socket_close(f->socket, 0);
        rh_factory_free(f);
        return rc;
    }
    uv_timer_init(loop, &f->timer);
    f->timer.data = f;
    uv_timer_start(&f->timer, on_tick, TICK_MS, TICK_MS);
    char *text = rh_format("epoch %llu", (unsigned long long)f->epoch);
    rh_factory_note(f, "factory.started", NULL, NULL, text);
    rh_free(text);
    rh_factory_turn(f);
    *out = f;
    return RH_OK;
}

/* -- End -------------------------------------------------------------------------------------- */

static void on_timer_closed(uv_handle_t *handle)
{
    struct rh_factory *f = handle->data;
    f->stopped(f->stopped_arg);
}

static void close_down(struct rh_factory *f)
{
    rh_factory_note(f, "factory.stopped", NULL, NULL, NULL);
    rh_factory_turn(f);
    f->closed = true;
    rh_socket_close(f->socket, LINGER_MS);
    f->socket = NULL;
    uv_close((uv_handle_t *)&f->timer, on_timer_closed);
}

static void on_drained(void *factory)
{
    struct rh_factory *f = factory;
    if (f->gc_first)
        f->gc_idle = close_down; /* whoever waits for its report gets an answer first */
    else
        close_down(f);
}

void rh_factory_stop(struct rh_factory *f, void (*done)(void *arg), void *arg)
{
    if (f->closed)
        return;
    bool again = f->stopping;
    f->stopping = true;
    f->stopped = done;
    f->stopped_arg = arg;
    rh_sched_hold(f->sched, true);
    if (f->supervisor)
        rh_supervisor_stop(f->supervisor, again ? 0 : DRAIN_MS + 1000 * f->grace_s, on_drained, f);
    else
        on_drained(f);
}

void rh_factory_free(struct rh_factory *f)
{
    if (!f)
        return;
    for (size_t i = 0; i < f->pending_count; i++)
        rh_action_done(&f->pending[i].action);
    for (size_t i = 0; i < rh_sched_job_count(f->sched); i++)
        rh_job_info_free(rh_sched_job_at(f->sched, i)->user);
    rh_sched_free(f->sched);
    rh_database_close(f->db);
    rh_supervisor_free(f->supervisor);
    rh_zmq_free(f->zmq);
    if (f->lock_fd >= 0)
        close(f->lock_fd);
    rh_free(f->pending);
    rh_free(f->peers);
    rh_free(f->state_dir);
    rh_free(f->run_dir);
    rh_free(f);
}

/* -- Small questions -------------------------------------------------------------------------- */

char *rh_factory_api_path(const struct rh_factory *f)
{
    return rh_fs_join(f->run_dir, "api.sock");
}

void rh_factory_on_idle(struct rh_factory *f, void (*fn)(void *arg), void *arg)
{
    f->on_idle = fn;
    f->on_idle_arg = arg;
}

bool rh_factory_ready(const struct rh_factory *f, const char **why_not)
{
    *why_not = f->stopping ? "the factory is shutting down" : f->stuck ? f->fault.message : NULL;
    return *why_not == NULL;
}

void rh_factory_subscribe(struct rh_factory *f, rh_event_fn fn, void *arg)
{
    f->subscriber = fn;
    f->subscriber_arg = arg;
}

uint64_t rh_factory_epoch(const struct rh_factory *f)
{
    return f->epoch;
}
