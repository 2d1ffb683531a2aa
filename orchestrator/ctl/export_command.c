#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "command.h"
#include "ctl/bundle.h"
#include "ctl/connection.h"
#include "ctl/job_path.h"

/* export: what a bug report needs of a job, and no weights. */

#define LOG_BYTES    ((size_t)256 << 10)
#define REPORT_BYTES ((size_t)16 << 20)

struct export
{
    const char *state, *run, *output, *job;
    struct rh_connection connection;
    struct rh_bundle *bundle;
    char *id;
};

/* json: adopted. */
static enum rh_rc add_json(struct export *e, struct rh_json *json, const char *name,
                           struct rh_error *err)
{
    char *text = rh_json_text(json, true);
    enum rh_rc rc = rh_bundle_add(e->bundle, name, text, strlen(text), err);
    rh_free(text);
    rh_json_free(json);
    return rc;
}

static enum rh_rc add_answer(struct export *e, const char *path, const char *name,
                             struct rh_error *err)
{
    struct rh_json *answer = NULL;
    enum rh_rc rc = rh_client_call(e->connection.client, "GET", path, NULL, &answer, err);
    return rc == RH_OK ? add_json(e, answer, name, err) : rc;
}

static enum rh_rc add_events(struct export *e, struct rh_error *err)
{
    struct rh_json *events = NULL;
    enum rh_rc rc = rh_client_events(e->connection.client, e->id, &events, err);
    return rc == RH_OK ? add_json(e, events, "events.json", err) : rc;
}

static enum rh_rc add_answers(struct export *e, struct rh_error *err)
{
    static const char *const parts[] = {"", "/tasks", "/recipe"};
    static const char *const names[] = {"job.json", "tasks.json", "recipe.json"};
    enum rh_rc rc = add_answer(e, "/v1/workers", "workers.json", err);
    for (int i = 0; i < 3 && rc == RH_OK; i++) {
        char *path = rh_format("/v1/jobs/%s%s", e->id, parts[i]);
        rc = add_answer(e, path, names[i], err);
        rh_free(path);
    }
    if (rc == RH_OK)
        rc = add_events(e, err);
    char *timeline = rh_format("/v1/timeline?jobs=%s", e->id);
    if (rc == RH_OK)
        rc = add_answer(e, timeline, "timeline.json", err);
    rh_free(timeline);
    return rc;
}

/* Reports and manifests of one artifact or staging directory. */
static enum rh_rc add_reports(struct export *e, const char *folder, const char *leaf,
                              struct rh_error *err)
{
    static const char *const kept[] = {"MANIFEST.json", "report.json", "receipt.json",
                                       "digest.json", "plan.json"};
    enum rh_rc rc = RH_OK;
    for (size_t i = 0; i < sizeof kept / sizeof *kept && rc == RH_OK; i++) {
        char *name = rh_format("%s/%.40s/%s", folder, leaf, kept[i]);
        char *path =
            rh_format("%s/jobs/%s/%s/%s/%s", e->connection.state, e->id, folder, leaf, kept[i]);
        rc = rh_bundle_add_file(e->bundle, name, path, REPORT_BYTES, err);
        rh_free(path);
        rh_free(name);
    }
    return rc;
}

static enum rh_rc add_folder(struct export *e, const char *folder, struct rh_error *err)
{
    char **names = NULL;
    size_t count = 0;
    enum rh_rc rc = RH_OK;
    char *dir = rh_format("%s/jobs/%s/%s", e->connection.state, e->id, folder);
    if (rh_fs_is_dir(dir))
        rc = rh_fs_list(dir, &names, &count, err);
    for (size_t i = 0; i < count && rc == RH_OK; i++)
        rc = add_reports(e, folder, names[i], err);
    rh_fs_list_free(names, count);
    rh_free(dir);
    return rc;
}

static enum rh_rc add_logs(struct export *e, struct rh_error *err)
{
    static const char *const stages[] = {"download", "calibrate", "quantize", "pack", "publish"};
    enum rh_rc rc = RH_OK;
    for (int i = 0; i < 5 && rc == RH_OK; i++) {
        char *name = rh_format("log/%s.log", stages[i]);
        char *path = rh_format("%s/%s", e->connection.state, name);
        rc = rh_bundle_add_file(e->bundle, name, path, LOG_BYTES, err);
        rh_free(path);
        rh_free(name);
    }
    return rc;
}

static enum rh_rc find_job(struct export *e, struct rh_error *err)
{
    struct rh_json *job = NULL;
    enum rh_rc rc = rh_job_path_check(e->job, err);
    char *path = rh_format("/v1/jobs/%s", e->job);
    if (rc == RH_OK)
        rc = rh_client_call(e->connection.client, "GET", path, NULL, &job, err);
    const char *id = rh_json_string(rh_json_get(job, "id"));
    if (rc == RH_OK)
        rc = rh_job_path_check(id ? id : "", err);
    if (rc == RH_OK)
        e->id = rh_strdup(id);
    rh_json_free(job);
    rh_free(path);
    return rc;
}

static enum rh_rc write_bundle(struct export *e, char **written, struct rh_error *err)
{
    enum rh_rc rc = rh_connection_open(&e->connection, e->state, e->run, RH_CONNECT_OR_READ, err);
    if (rc == RH_OK)
        rc = find_job(e, err);
    if (rc != RH_OK)
        return rc;
    char *output = e->output ? rh_strdup(e->output) : rh_format("roundhouse-%s.tar", e->id);
    rc = rh_bundle_open(output, &e->bundle, err);
    if (rc == RH_OK)
        rc = rh_bundle_add(e->bundle, "version", RH_VERSION "\n", strlen(RH_VERSION) + 1, err);
    if (rc == RH_OK)
        rc = add_answers(e, err);
    if (rc == RH_OK)
        rc = add_folder(e, "artifacts", err);
    if (rc == RH_OK)
        rc = add_folder(e, "staging", err);
    if (rc == RH_OK)
        rc = add_logs(e, err);
    if (rc == RH_OK) {
        rc = rh_bundle_close(e->bundle, err);
        e->bundle = NULL;
    }
    if (rc == RH_OK)
        *written = output;
    else
        rh_free(output);
    return rc;
}

int rh_command_export(const struct rh_command *command, int argc, char **argv)
{
    struct export e = {0};
    const char *help = NULL;
    char *written = NULL;
    int count = 0, code = RH_EXIT_OK;
    const struct rh_option options[] = {
        {.name = "output",
         .argument = "FILE",
         .value = &e.output,
         .help = "the tar file (default roundhouse-<job>.tar)"},
        {.name = "state",
         .argument = "DIR",
         .value = &e.state,
         .help = "state directory of the orchestrator"},
        {.name = "run", .argument = "DIR", .value = &e.run, .help = "directory of its sockets"},
        {.name = "help", .value = &help, .help = "show this text"},
        {0},
    };
    if (!rh_command_parse(command, argc, argv, options, &e.job, 1, 1, &count, &code))
        return code;
    struct rh_error err;
    if (write_bundle(&e, &written, &err) == RH_OK) {
        char *line = rh_format("%s\n", written);
        code = rh_command_print(line);
        rh_free(line);
    } else {
        code = rh_command_fail(&err);
    }
    rh_bundle_abort(e.bundle);
    rh_connection_close(&e.connection);
    rh_free(written);
    rh_free(e.id);
    return code;
}
