#include "hub_settings.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/strbuf.h"

#define TOKEN_FILE_MAX (UINT64_C(64) << 10)
#define SECONDS        10
#define SECONDS_MAX    3600

/* NULL: not set, or empty. */
static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

static bool is_true(const char *name)
{
    static const char *const words[] = {"1", "ON", "YES", "TRUE"};
    const char *value = variable(name);
    for (size_t i = 0; value && i < sizeof words / sizeof *words; i++) {
        if (strcasecmp(value, words[i]) == 0)
            return true;
    }
    return false;
}

/* "~" at the beginning, $NAME and ${NAME}; a variable that is not set stays as it is written. */
static char *expand(const char *text)
{
    struct rh_strbuf out = {0};
    const char *home = variable("HOME");
    if (text[0] == '~' && (text[1] == '/' || text[1] == '\0') && home) {
        rh_strbuf_puts(&out, home);
        text++;
    }
    while (*text) {
        bool braces = text[0] == '$' && text[1] == '{';
        const char *from = text + (braces ? 2 : 1), *end = from;
        while (*text == '$' && (isalnum((unsigned char)*end) || *end == '_'))
            end++;
        char *name = rh_strndup(from, (size_t)(end - from));
        const char *value = end > from && (!braces || *end == '}') ? getenv(name) : NULL;
        rh_free(name);
        if (value) {
            rh_strbuf_puts(&out, value);
            text = end + (braces ? 1 : 0);
        } else {
            rh_strbuf_append(&out, text++, 1);
        }
    }
    return rh_strbuf_take(&out);
}

static char *hub_home(void)
{
    const char *home = variable("HF_HOME"), *xdg = variable("XDG_CACHE_HOME");
    if (home)
        return expand(home);
    char *base = expand(xdg ? xdg : "~/.cache");
    char *whole = rh_fs_join(base, "huggingface");
    rh_free(base);
    return whole;
}

static char *cache_dir(const char *home)
{
    const char *cache = variable("HF_HUB_CACHE");
    if (!cache)
        cache = variable("HUGGINGFACE_HUB_CACHE");
    return cache ? expand(cache) : rh_fs_join(home, "hub");
}

/* Blanks around a token come with copying; inside, and anything that is not ASCII, would end up in
 * a header. */
static enum rh_rc take_token(struct rh_hub_settings *s, const char *text, const char *of,
                             struct rh_error *err)
{
    size_t from = strspn(text, " \t\r\n"), size = strlen(text);
    while (size > from && strchr(" \t\r\n", text[size - 1]))
        size--;
    if (size == from)
        return RH_OK;
    for (size_t i = from; i < size; i++) {
        if (!isgraph((unsigned char)text[i]))
            return rh_fail(err, RH_ERR_ARGUMENT,
                           "the Hub token of %s has a character that no token has; copy it anew "
                           "from the Hub's settings",
                           of);
    }
    s->token = rh_strndup(text + from, size - from);
    s->token_of = rh_strdup(of);
    return RH_OK;
}

static enum rh_rc find_token(struct rh_hub_settings *s, const char *home, struct rh_error *err)
{
    static const char *const names[] = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"};
    enum rh_rc rc = RH_OK;
    if (is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN"))
        return RH_OK;
    for (size_t i = 0; i < 2 && rc == RH_OK && !s->token; i++) {
        if (variable(names[i]))
            rc = take_token(s, variable(names[i]), names[i], err);
    }
    if (rc != RH_OK || s->token)
        return rc;
    const char *given = variable("HF_TOKEN_PATH");
    char *path = given ? expand(given) : rh_fs_join(home, "token");
    char *text = NULL;
    if (rh_fs_exists(path))
        rc = rh_fs_read(path, TOKEN_FILE_MAX, &text, NULL, err);
    if (rc == RH_OK && text)
        rc = take_token(s, text, path, err);
    rh_free(text);
    rh_free(path);
    return rc;
}

static enum rh_rc seconds_of(const char *name, int *out, struct rh_error *err)
{
    const char *text = variable(name);
    char *end = NULL;
    *out = SECONDS;
    if (!text)
        return RH_OK;
    long value = strtol(text, &end, 10);
    if (*end != '\0' || value < 1 || value > SECONDS_MAX)
        return rh_fail(err, RH_ERR_ARGUMENT, "%s=%.60s: 1 to %d seconds are possible", name, text,
                       SECONDS_MAX);
    *out = (int)value;
    return RH_OK;
}

static enum rh_rc find_endpoint(struct rh_hub_settings *s, struct rh_error *err)
{
    const char *given = variable("HF_ENDPOINT");
    s->endpoint = rh_strdup(given ? given : "https://huggingface.co");
    for (size_t n = strlen(s->endpoint); n > 0 && s->endpoint[n - 1] == '/'; n--)
        s->endpoint[n - 1] = '\0';
    if (strncasecmp(s->endpoint, "https://", 8) == 0 || strncasecmp(s->endpoint, "http://", 7) == 0)
        return RH_OK;
    return rh_fail(err, RH_ERR_ARGUMENT,
                   "HF_ENDPOINT=%.200s is no address; write https://host, or unset it for the "
                   "Hugging Face Hub",
                   given);
}

enum rh_rc rh_hub_settings_read(struct rh_hub_settings *out, struct rh_error *err)
{
    *out = (struct rh_hub_settings){0};
    char *home = hub_home();
    out->cache = cache_dir(home);
    out->offline = is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE");
    enum rh_rc rc = find_endpoint(out, err);
    if (rc == RH_OK)
        rc = find_token(out, home, err);
    if (rc == RH_OK)
        rc = seconds_of("HF_HUB_ETAG_TIMEOUT", &out->connect_seconds, err);
    if (rc == RH_OK)
        rc = seconds_of("HF_HUB_DOWNLOAD_TIMEOUT", &out->idle_seconds, err);
    rh_free(home);
    return rc;
}

void rh_hub_settings_done(struct rh_hub_settings *s)
{
    rh_free(s->endpoint);
    rh_free(s->token);
    rh_free(s->token_of);
    rh_free(s->cache);
    *s = (struct rh_hub_settings){0};
}
