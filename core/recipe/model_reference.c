#include "recipe/model_reference.h"

#include <ctype.h>
#include <string.h>

#include "base/fs.h"
#include "base/mem.h"

/* A part of a repository's name: letters, digits, and "-", "_", "." inside; no "--" and no "..". */
static bool is_name(const char *text, size_t size)
{
    if (size == 0 || strchr("-.", text[0]) || strchr("-.", text[size - 1]))
        return false;
    for (size_t i = 0; i < size; i++) {
        bool twice = i > 0 && text[i] == text[i - 1] && strchr("-.", text[i]);
        if (twice || (!isalnum((unsigned char)text[i]) && !strchr("-_.", text[i])))
            return false;
    }
    return true;
}

/* What git allows of a reference's name is more; the rest is not worth an escape in an URL. */
static bool is_revision(const char *text)
{
    size_t size = strlen(text);
    if (size == 0 || size > RH_HUB_REVISION_MAX || strchr("-./", text[0]) || text[size - 1] == '/')
        return false;
    for (const char *c = text; *c; c++) {
        if (!isalnum((unsigned char)*c) && !strchr("-_./+", *c))
            return false;
    }
    return !strstr(text, "..") && !strstr(text, "//");
}

bool rh_hub_name_parse(const char *text, struct rh_hub_name *out)
{
    const char *slash = strchr(text, '/'), *at = strchr(text, '@');
    size_t size = at ? (size_t)(at - text) : strlen(text);
    if (!slash || slash - text >= (ptrdiff_t)size || size >= sizeof out->repo)
        return false;
    const char *name = slash + 1;
    const char *revision = at ? at + 1 : "main";
    if (!is_name(text, (size_t)(slash - text)) || !is_name(name, size - (size_t)(name - text)) ||
        !is_revision(revision))
        return false;
    memcpy(out->repo, text, size);
    out->repo[size] = '\0';
    memcpy(out->revision, revision, strlen(revision) + 1);
    return true;
}

char *rh_model_reference(const char *given, bool *hides)
{
    struct rh_hub_name name;
    size_t letters = strspn(given, "abcdefghijklmnopqrstuvwxyz");
    bool is_scheme = letters > 0 && given[letters] == ':';
    bool is_hub = rh_hub_name_parse(given, &name);
    *hides = false;
    if (rh_fs_exists(given)) {
        *hides = is_hub;
        return NULL;
    }
    if (strncmp(given, RH_HUB_SCHEME "//", strlen(RH_HUB_SCHEME "//")) == 0)
        return rh_format(RH_HUB_SCHEME "%s", given + strlen(RH_HUB_SCHEME "//"));
    if (is_scheme)
        return rh_strdup(given);
    return is_hub ? rh_format(RH_HUB_SCHEME "%s", given) : NULL;
}
