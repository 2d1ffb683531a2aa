#define _XOPEN_SOURCE 700 /* realpath */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "ctl/place.h"

/* The longest name among the sockets of a run directory. */
#define SOCKET_NAME  "/work.sock"
#define RUN_DIR_FILE "run-dir"
#define RUN_DIR_MAX  4096

char *rh_place_absolute(const char *path)
{
    struct rh_strbuf out = {0};
    char *whole;
    if (path[0] == '/') {
        whole = rh_strdup(path);
    } else {
        char *here = realpath(".", NULL);
        whole = rh_format("%s/%s", here ? here : "", path);
        free(here);
    }
    for (const char *part = whole; *part;) {
        size_t size = strcspn(part, "/");
        if (size == 2 && memcmp(part, "..", 2) == 0) {
            while (out.size > 0 && out.text[out.size - 1] != '/')
                out.size--;
            if (out.size > 0)
                out.size--;
        } else if (size > 0 && !(size == 1 && *part == '.')) {
            rh_strbuf_append(&out, "/", 1);
            rh_strbuf_append(&out, part, size);
        }
        part += size + (part[size] == '/');
    }
    if (out.size == 0)
        rh_strbuf_append(&out, "/", 1);
    out.text[out.size] = '\0';
    rh_free(whole);
    return rh_strbuf_take(&out);
}

char *rh_place_state(const char *given)
{
    const char *state = given ? given : getenv("ROUNDHOUSE_STATE");
    const char *xdg = getenv("XDG_STATE_HOME");
    const char *home = getenv("HOME");
    if (state && *state)
        return rh_place_absolute(state);
    if (xdg && xdg[0] == '/')
        return rh_format("%s/roundhouse", xdg);
    return rh_format("%s/.local/state/roundhouse", home ? home : "");
}

char *rh_place_hidden_state(const char *output)
{
    const char *slash = strrchr(output, '/');
    int dir = slash ? (int)(slash - output) : 0;
    return rh_format("%.*s/.%s.roundhouse", dir, output, slash ? slash + 1 : output);
}

/* A directory of ours that nobody else can write to: the short one lies where anybody may. */
static bool is_private(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() &&
           (st.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

static char *recorded(const char *state)
{
    char *text = NULL;
    size_t size = 0;
    char *file = rh_fs_join(state, RUN_DIR_FILE);
    enum rh_rc rc = rh_fs_read(file, RUN_DIR_MAX, &text, &size, NULL);
    rh_free(file);
    if (rc != RH_OK)
        return NULL;
    text[strcspn(text, "\r\n")] = '\0';
    if (text[0] == '/')
        return text;
    rh_free(text);
    return NULL;
}

static enum rh_rc make_short(const char *state, char **out, struct rh_error *err)
{
    const char *base = getenv("XDG_RUNTIME_DIR");
    if (!base || base[0] != '/' || strlen(base) > 60 || access(base, W_OK) != 0)
        base = "/tmp";
    char *dir = rh_format("%s/roundhouse-XXXXXX", base);
    char *file = rh_fs_join(state, RUN_DIR_FILE);
    enum rh_rc rc = RH_OK;
    if (!mkdtemp(dir))
        rc = rh_fail(err, RH_ERR_IO, "%s: could not make a directory for sockets", dir);
    if (rc == RH_OK)
        rc = rh_fs_write(file, dir, strlen(dir), err);
    rh_free(file);
    if (rc != RH_OK)
        rh_free(dir);
    else
        *out = dir;
    return rc;
}

enum rh_rc rh_place_run_dir(const char *state, bool make, char **out, struct rh_error *err)
{
    char *plain = rh_fs_join(state, "run");
    char *shorter = recorded(state);
    enum rh_rc rc = make ? rh_fs_mkdirs(state, err) : RH_OK;
    *out = NULL;
    if (rc == RH_OK && shorter && is_private(shorter)) {
        *out = shorter;
        shorter = NULL;
    } else if (rc == RH_OK &&
               strlen(plain) + strlen(SOCKET_NAME) < sizeof((struct sockaddr_un *)NULL)->sun_path) {
        if (make)
            rc = rh_fs_mkdirs(plain, err);
        if (rc == RH_OK) {
            *out = plain;
            plain = NULL;
        }
    } else if (rc == RH_OK && make) {
        rc = make_short(state, out, err);
    } else if (rc == RH_OK) {
        rc = rh_fail(err, RH_ERR_REMOTE,
                     "%s: no orchestrator answers here; start one with \"roundhoused --spawn "
                     "--state DIR\"",
                     state);
    }
    rh_free(plain);
    rh_free(shorter);
    return rc;
}

void rh_place_forget_run_dir(const char *state)
{
    char *dir = recorded(state);
    if (dir && is_private(dir) && strstr(dir, "/roundhouse-")) {
        enum rh_rc rc = rh_fs_remove_tree(dir, NULL);
        (void)rc; /* nothing but sockets nobody listens on */
    }
    rh_free(dir);
}

enum rh_rc rh_place_is_empty(const char *dir, bool *out, struct rh_error *err)
{
    char **names = NULL;
    size_t count = 0;
    *out = true;
    if (!rh_fs_exists(dir))
        return RH_OK;
    if (!rh_fs_is_dir(dir))
        return rh_fail(err, RH_ERR_EXISTS, "%s: is there and is not a directory", dir);
    enum rh_rc rc = rh_fs_list(dir, &names, &count, err);
    if (rc != RH_OK)
        return rc;
    *out = count == 0;
    rh_fs_list_free(names, count);
    return RH_OK;
}
