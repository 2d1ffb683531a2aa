#include "ctl/request.h"

#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "ctl/place.h"
#include "recipe/model_reference.h"
#include "recipe/recipe.h"

/* "dir:/out/x" of a reference or a path. A path has no scheme; what looks like one but is there as
 * a path is a path. */
static char *reference(const char *given, const char *scheme)
{
    size_t letters = strspn(given, "abcdefghijklmnopqrstuvwxyz");
    if (letters > 0 && given[letters] == ':' && !rh_fs_exists(given))
        return rh_strdup(given);
    char *path = rh_place_absolute(given);
    char *whole = rh_format("%s:%s", scheme, path);
    rh_free(path);
    return whole;
}

/* What is no name of another kind is a path. */
static char *model_reference(const char *given, bool *hides)
{
    char *whole = rh_model_reference(given, hides);
    return whole ? whole : reference(given, "file");
}

static enum rh_rc check_model(const char *model, struct rh_error *err)
{
    if (strncmp(model, "file:", 5) != 0)
        return RH_OK; /* the download stage knows */
    const char *path = model + 5;
    if (!rh_fs_exists(path))
        return rh_fail(err, RH_ERR_NOT_FOUND, "%s: there is no such model directory", path);
    if (!rh_fs_is_dir(path))
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "%s: a model is a directory with config.json and *.safetensors", path);
    return RH_OK;
}

static enum rh_rc check_dataset(const struct rh_recipe *recipe, struct rh_error *err)
{
    if (recipe->dataset[0] == '/' && !rh_fs_exists(recipe->dataset))
        return rh_fail(err, RH_ERR_ARGUMENT, "calibration.dataset %s: there is no such file",
                       recipe->dataset);
    return RH_OK;
}

/* Whatever is wrong with it, it is the command line that has to change. */
static enum rh_rc load_recipe(const struct rh_request_words *words, struct rh_recipe **out,
                              struct rh_error *err)
{
    enum rh_rc rc = rh_recipe_load(words->recipe, out, err);
    for (int i = 0; i < words->set_count && rc == RH_OK; i++)
        rc = rh_recipe_set(*out, words->sets[i], err);
    if (rc == RH_OK)
        rc = rh_recipe_check_complete(*out, err);
    if (rc == RH_OK)
        rc = check_dataset(*out, err);
    if (rc != RH_OK)
        err->rc = RH_ERR_ARGUMENT;
    return rc == RH_OK ? RH_OK : RH_ERR_ARGUMENT;
}

enum rh_rc rh_request_make(const struct rh_request_words *words, struct rh_request *out,
                           struct rh_error *err)
{
    struct rh_recipe *recipe = NULL;
    *out = (struct rh_request){0};
    if (!words->recipe)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "--recipe is needed: a file, or the name of a shipped recipe such as "
                       "\"tiny\"");
    if (!words->output || !*words->output)
        return rh_fail(err, RH_ERR_ARGUMENT, "--output is needed: the directory that will appear");
    if (!*words->model)
        return rh_fail(err, RH_ERR_ARGUMENT, "the model is an empty text; name a directory");
    char *model = model_reference(words->model, &out->hides_hub_model);
    char *output = reference(words->output, "dir");
    enum rh_rc rc = load_recipe(words, &recipe, err);
    if (rc == RH_OK)
        rc = check_model(model, err);
    if (rc == RH_OK) {
        out->body = rh_json_new_object();
        rh_json_set_string(out->body, "model", model);
        rh_json_set_string(out->body, "output", output);
        rh_json_set(out->body, "recipe", rh_json_copy(recipe->canonical));
        out->model = rh_json_string(rh_json_get(out->body, "model"));
        out->output = rh_json_string(rh_json_get(out->body, "output"));
        out->recipe_digest = rh_strdup(recipe->digest);
        if (strncmp(output, "dir:", 4) == 0)
            out->output_path = rh_strdup(output + 4);
    }
    rh_recipe_free(recipe);
    rh_free(model);
    rh_free(output);
    return rc;
}

void rh_request_done(struct rh_request *request)
{
    rh_json_free(request->body);
    rh_free(request->recipe_digest);
    rh_free(request->output_path);
    *request = (struct rh_request){0};
}
