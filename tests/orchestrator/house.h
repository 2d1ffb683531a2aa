#ifndef RH_TESTS_ORCHESTRATOR_HOUSE_H
#define RH_TESTS_ORCHESTRATOR_HOUSE_H

#include <stdbool.h>
#include <uv.h>

#include "base/json.h"
#include "factory/factory.h"
#include "scheduler/scheduler.h"

/* A factory in this process, on a directory of its own, with the fake stages as its daemons. */
struct house {
    char *dir, *state, *bin, *model; /* state: <dir>/s; model: an empty folder for markers */
    uv_loop_t loop;
    struct rh_factory *factory; /* NULL: not running */
    bool stopped;
    int ticks;                    /* heard of since the house was opened */
    int stored;                   /* events with a number heard of */
    int idle_calls;               /* of rh_factory_on_idle */
    struct rh_sched_config sched; /* the defaults; may be changed before house_open() */
    struct rh_factory_options options;
};

/* cmocka's set-up and tear-down; *state is a struct house with a running factory. */
int house_set_up(void **state);
int house_tear_down(void **state);

void house_open(struct house *h);  /* starts the factory */
void house_close(struct house *h); /* stops it as SIGTERM would */

/* Lets the loop run until the condition holds; fails the test after `seconds`. */
typedef bool (*house_condition)(struct house *h, void *arg);
void house_wait(struct house *h, house_condition condition, void *arg, int seconds);

/* Makes or removes a file beside the model. */
void house_mark(struct house *h, const char *name);
void house_unmark(struct house *h, const char *name);

/* A good request to "dir:<dir>/<output>"; owned by caller. */
struct rh_json *house_request(const struct house *h, const char *output, const char *token);
/* Submits it; the id is owned by the caller. */
char *house_submit(struct house *h, const char *output);
/* Sets what is desired. */
void house_desire(struct house *h, const char *id, const char *desired);
/* Waits until the job is in that state. */
void house_await(struct house *h, const char *id, const char *state);
struct rh_json *house_job(struct house *h, const char *id); /* owned by caller */
/* How many events of the kind there are; op and job may be NULL. */
int house_count(struct house *h, const char *job, const char *type, const char *op);
/* Text of the first event of the kind; owned by caller, NULL: no such event. */
char *house_event_text(struct house *h, const char *type);
/* Is <state>/jobs/<id>/<below> there? */
bool house_has(const struct house *h, const char *id, const char *below);

#endif
