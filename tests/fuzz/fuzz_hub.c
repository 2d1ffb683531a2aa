#include <string.h>

#include "base/mem.h"
#include "download/hub_tree.h"
#include "fuzz.h"
#include "http/http.h"
#include "recipe/model_reference.h"

/* What a listing gave must be plain, and come back from source.json as it was. */
static void check_tree(struct rh_hub_tree *tree)
{
    struct rh_hub_tree again = {0};
    struct rh_error err;
    if (rh_hub_tree_finish(tree, "listing", &err) != RH_OK)
        return;
    memset(tree->commit, 'a', RH_HUB_COMMIT_SIZE - 1);
    struct rh_json *json = rh_hub_tree_to_json(tree, "owner/name");
    RH_ASSERT(rh_hub_tree_from_json(json, "source.json", &again, &err) == RH_OK);
    RH_ASSERT(again.count == tree->count);
    for (size_t i = 0; i < tree->count; i++) {
        const struct rh_hub_file *file = &tree->files[i];
        RH_ASSERT(*file->name && file->name[0] != '.' && !strpbrk(file->name, "/\\\n\r"));
        RH_ASSERT(rh_hub_is_hex(file->digest, 40) || rh_hub_is_hex(file->digest, 64));
        RH_ASSERT(strcmp(again.files[i].name, file->name) == 0);
        RH_ASSERT(strcmp(again.files[i].digest, file->digest) == 0);
        RH_ASSERT(again.files[i].size == file->size);
        RH_ASSERT(rh_hub_tree_find(tree, file->name) == file);
    }
    rh_json_free(json);
    rh_hub_tree_done(&again);
}

/* '{': the answer about a revision, "<": a Link header, "@": a name on the Hub behind it, "h": a
 * redirect's Location, else a page of the listing. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char commit[RH_HUB_COMMIT_SIZE];
    struct rh_hub_tree tree = {0};
    struct rh_hub_name name;
    struct rh_error err;
    char *text = rh_strndup((const char *)data, size);
    if (*text == '{') {
        if (rh_hub_commit_parse((const char *)data, size, "answer", commit, &err) == RH_OK)
            RH_ASSERT(rh_hub_is_hex(commit, RH_HUB_COMMIT_SIZE - 1));
    } else if (*text == '<') {
        rh_free(rh_hub_next_page(text));
    } else if (*text == '@') {
        if (rh_hub_name_parse(text + 1, &name))
            RH_ASSERT(strchr(name.repo, '/') && !strstr(name.repo, "..") &&
                      !strstr(name.revision, ".."));
    } else if (*text == 'h') {
        char *url = rh_http_resolve("https://hub.invalid/a/b", text);
        char *host = url ? rh_http_host(url) : NULL;
        RH_ASSERT(!url || rh_http_same_origin(url, url));
        rh_free(host);
        rh_free(url);
        (void)rh_http_seconds(text + 1);
    } else if (rh_hub_tree_add(&tree, (const char *)data, size, "listing", &err) == RH_OK) {
        check_tree(&tree);
    }
    rh_hub_tree_done(&tree);
    rh_free(text);
    return 0;
}
