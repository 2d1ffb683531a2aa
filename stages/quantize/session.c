#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/daemon.h"
#include "device.h"
#include "probe.h"
#include "quantize/quantize.h"
#include "session.h"

#define PLAN_MAX ((uint64_t)1 << 30)

/* Options of the worker; they go before what a recipe says. */
static const char *own_backend;
static const char *own_device;

char *rh_session_path(const struct rh_session *s, const char *op, int64_t index, const char *name)
{
    char *dir = rh_task_artifact(s->task, op, index);
    char *path = rh_fs_join(dir, name);
    rh_free(dir);
    return path;
}

static enum rh_rc read_plan(struct rh_session *s, struct rh_error *err)
{
    char *path = rh_session_path(s, "plan", 0, "plan.json");
    struct rh_json *json = NULL;
    enum rh_rc rc = rh_json_read(path, PLAN_MAX, &json, err);
    if (rc == RH_OK)
        rc = rh_model_plan_from_json(json, path, &s->plan, err);
    rh_json_free(json);
    rh_free(path);
    return rc;
}

enum rh_rc rh_session_open_unit(const struct rh_session *s, const struct rh_unit *unit,
                                struct rh_safetensors **out, struct rh_error *err)
{
    enum rh_rc rc = rh_task_wait_artifact(s->task, "fetch", (int64_t)unit->index, err);
    if (rc != RH_OK)
        return rc;
    char *path = rh_session_path(s, "fetch", (int64_t)unit->index, "tensors.safetensors");
    rc = rh_safetensors_open(path, out, err);
    rh_free(path);
    return rc;
}

const char *rh_session_embedding(const struct rh_session *s, const struct rh_unit **head)
{
    *head = rh_model_plan_kind(s->plan, RH_UNIT_HEAD);
    return *head && (*head)->tensor_count == 1 ? (*head)->tensors[0].info.name : NULL;
}

enum rh_rc rh_session_embed(struct rh_session *s, const struct rh_token_rows *rows,
                            struct rh_error *err)
{
    const struct rh_unit *unit = NULL;
    struct rh_safetensors *head = NULL;
    const char *name = rh_session_embedding(s, &unit);
    if (!name)
        return rh_fail(err, RH_ERR_UNSUPPORTED, "the plan's head is not one embedding matrix");
    enum rh_rc rc = rh_session_open_unit(s, unit, &head, err);
    if (rc == RH_OK)
        rc = rh_chain_embed(&s->chain, rows, head, name, err);
    rh_safetensors_close(head);
    return rc;
}

enum rh_rc rh_session_read_rows(const struct rh_session *s, struct rh_token_rows *out,
                                struct rh_error *err)
{
    const char *from = s->recipe->top_up_rows > 0 ? "probe" : "calibrate";
    char *path = rh_session_path(s, from, 0, "ids.safetensors");
    enum rh_rc rc = rh_token_rows_read(path, s->plan->config.vocab_size, out, err);
    rh_free(path);
    return rc;
}

/* The activations before block `first`. */
static enum rh_rc read_chain(struct rh_session *s, const struct rh_token_rows *rows, int64_t first,
                             struct rh_error *err)
{
    enum rh_rc rc = rh_chain_new(s->backend, s->memory.chains_on_host, rows->samples, rows->seq,
                                 s->plan->config.hidden_size, &s->chain, err);
    if (rc == RH_OK && first == 0)
        rc = rh_session_embed(s, rows, err);
    if (rc == RH_OK && first > 0) {
        char *path = rh_session_path(s, "tune", first - 1, "chain.safetensors");
        rc = rh_chain_read(&s->chain, path, err);
        rh_free(path);
    }
    return rc;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void set_options(struct rh_session *s, int64_t samples)
{
    const struct rh_recipe *r = s->recipe;
    s->options = (struct rh_tune_options){
        .iters = r->iters,
        .rows = least(samples, r->batch_size * r->gradient_accumulate_steps),
        .batch_size = least(samples, r->batch_size),
        .lr = r->lr,
        .minmax_lr = r->minmax_lr,
        .minmax = r->enable_minmax_tuning,
        .search = r->observer == RH_OBSERVER_MSE,
        .keep_last = r->not_use_best_mse,
    };
}

void rh_session_draw_order(struct rh_session *s)
{
    rh_minibatch_begin_block(s->sampler);
    for (int64_t i = 0; i < s->options.iters; i++)
        rh_minibatch_next(s->sampler, s->order + i * s->options.rows);
}

/* "cuda:1" and the like from the worker's options and the recipe; owned by the caller. */
static char *backend_name(const struct rh_recipe *recipe)
{
    static const char *const names[] = {"auto", "cpu", "cuda"};
    const char *name = own_backend ? own_backend : names[recipe ? recipe->backend : 0];
    bool gpu = strcmp(name, "auto") == 0 || strcmp(name, "cuda") == 0;
    return own_device && gpu ? rh_format("cuda:%s", own_device) : rh_strdup(name);
}

static enum rh_rc open_backend(struct rh_session *s, struct rh_error *err)
{
    char *name = backend_name(s->recipe);
    enum rh_rc rc = rh_backend_new(name, (int)s->recipe->threads, &s->backend, err);
    rh_free(name);
    return rc;
}

enum rh_rc rh_session_plan_memory(struct rh_session *s, int64_t samples, int64_t seq,
                                  struct rh_error *err)
{
    enum rh_rc rc =
        rh_memory_plan_make(s->backend, s->plan, &s->options, samples, seq, &s->memory, err);
    /* The backend itself has taken some of what was free before the session. */
    size_t own = s->room > s->memory.available ? s->room - s->memory.available : 0;
    if (rc != RH_OK && s->memory.available > 0)
        rh_task_device_short(s->task, s->memory.least + own, s->memory.available + own);
    if (rc != RH_OK)
        return rc;
    s->options.batch_size = s->memory.batch_size;
    if (s->memory.available == 0)
        return RH_OK; /* nothing was decided */
    char *text = rh_memory_plan_text(&s->memory);
    rh_log(RH_LOG_INFO, "tune.memory", "backend=%s device=\"%s\" plan=\"%s\"",
           rh_backend_name(s->backend), rh_backend_device(s->backend), text);
    rh_free(text);
    return RH_OK;
}

static enum rh_rc prepare(struct rh_session *s, int64_t first, struct rh_error *err)
{
    struct rh_token_rows rows = {0};
    enum rh_rc rc = rh_session_read_rows(s, &rows, err);
    if (rc == RH_OK && rows.seq < 2 &&
        rh_model_plan_steps(s->plan) > s->plan->config.num_hidden_layers)
        rc = rh_fail(
            err, RH_ERR_ARGUMENT,
            "mtp.method \"tune\" takes rows of two tokens or more: raise calibration.seqlen");
    if (rc == RH_OK) {
        set_options(s, rows.samples);
        rc = rh_session_plan_memory(s, rows.samples, rows.seq, err);
    }
    if (rc == RH_OK)
        rc = read_chain(s, &rows, first, err);
    rh_token_rows_done(&rows);
    return rc;
}

enum rh_rc rh_session_open(struct rh_session *s, struct rh_error *err)
{
    s->loading = (struct rh_loading){.session = s, .index = -1};
    s->writing.session = s;
    enum rh_rc rc = read_plan(s, err);
    s->room = rh_device_look();
    return rc == RH_OK ? open_backend(s, err) : rc;
}

void rh_session_close(struct rh_session *s)
{
    rh_minibatch_free(s->sampler);
    rh_free(s->order);
    rh_chain_done(&s->chain);
    rh_chain_done(&s->snapshot);
    rh_backend_free(s->backend);
    rh_model_plan_free(s->plan);
    rh_device_look(); /* before the result is known: the next task may have that memory */
}

static enum rh_rc start(struct rh_session *s, struct rh_error *err)
{
    int64_t first = rh_task_first_index(s->task);
    s->last = rh_task_last_index(s->task);
    enum rh_rc rc = rh_session_open(s, err);
    int64_t steps = rc == RH_OK ? rh_model_plan_steps(s->plan) : 0;
    if (rc == RH_OK && (first < 0 || s->last >= steps || first > s->last))
        rc = rh_fail(err, RH_ERR_ARGUMENT, "blocks %lld to %lld of a model with %lld",
                     (long long)first, (long long)s->last, (long long)steps);
    if (rc == RH_OK)
        rc = prepare(s, first, err);
    if (rc != RH_OK)
        return rc;
    void *memory = NULL;
    rc = rh_try_alloc((size_t)(s->options.iters * s->options.rows) * sizeof *s->order + 1,
                      "order of the rows", &memory, err);
    s->order = memory;
    if (rc != RH_OK)
        return rc;
    s->sampler = rh_minibatch_new((uint64_t)s->recipe->seed, s->chain.samples, s->options.rows);
    for (int64_t b = 0; b < first; b++)
        rh_session_draw_order(s); /* one stream through all blocks */
    return RH_OK;
}

static enum rh_rc run_tune(struct rh_task *task, struct rh_error *err)
{
    struct rh_session s = {.task = task, .recipe = rh_task_recipe(task)};
    enum rh_rc rc = start(&s, err);
    for (int64_t b = rh_task_first_index(task); rc == RH_OK && b <= rh_task_last_index(task); b++) {
        strncpy(s.phase, rh_model_plan_step(s.plan, b)->name, sizeof s.phase - 1);
        rc = rh_task_next_part(task, err);
        if (rc == RH_OK)
            rc = rh_session_run_block(&s, b, err);
    }
    enum rh_rc settled = rh_session_settle(&s, rc == RH_OK ? err : NULL);
    rh_session_close(&s);
    return rc == RH_OK ? settled : rc;
}

/* A worker without its GPU should say so at once, not when the first model comes. */
static enum rh_rc check_options(struct rh_error *err)
{
    struct rh_backend *backend = NULL;
    if (own_device && (own_device[0] == '\0' ||
                       strspn(own_device, "0123456789") != strlen(own_device)))
        return rh_fail(err, RH_ERR_ARGUMENT, "--device %.40s: the number of a GPU is needed",
                       own_device);
    char *name = backend_name(NULL);
    enum rh_rc rc = RH_OK;
    if (own_backend || own_device)
        rc = rh_backend_new(name, 1, &backend, err);
    rh_backend_free(backend);
    if (rc == RH_OK)
        rh_device_watch(name);
    rh_free(name);
    return rc;
}

static const struct rh_stage_op ops[] = {{"probe", rh_run_probe}, {"tune", run_tune}};

static const struct rh_option options[] = {
    {.name = "backend",
     .argument = "NAME",
     .value = &own_backend,
     .help = "auto, cpu or cuda, whatever recipes say"},
    {.name = "device",
     .argument = "N",
     .value = &own_device,
     .help = "number of the GPU; one worker for each"},
    {0},
};

const struct rh_stage rh_quantize_stage = {.name = "quantize", .ops = ops, .op_count = 2,
                                           .default_slots = 1, .options = options,
                                           .check = check_options,
                                           .device_memory = rh_device_memory};
