#include <string.h>

#include "base/mem.h"
#include "base/strbuf.h"

#include "family.h"

#define CONFIG_MAX (4u << 20)

static const struct rh_family *const families[] = {&rh_family_qwen3_5_moe};

#define FAMILY_COUNT (sizeof families / sizeof families[0])

const struct rh_family *rh_family_find(const char *architecture)
{
    for (size_t i = 0; architecture && i < FAMILY_COUNT; i++) {
        for (const char *const *a = families[i]->architectures; *a; a++) {
            if (strcmp(*a, architecture) == 0)
                return families[i];
        }
    }
    return NULL;
}

static enum rh_rc unsupported(const char *architecture, const char *what, struct rh_error *err)
{
    struct rh_strbuf names = {0};
    for (size_t i = 0; i < FAMILY_COUNT; i++) {
        for (const char *const *a = families[i]->architectures; *a; a++)
            rh_strbuf_printf(&names, "%s%s", names.size ? ", " : "", *a);
    }
    enum rh_rc rc = rh_fail(err, RH_ERR_UNSUPPORTED,
                            "%s: architecture %.120s is not supported; supported are %s", what,
                            architecture, names.text);
    rh_strbuf_done(&names);
    return rc;
}

enum rh_rc rh_config_from_json(struct rh_json *json, const char *what, struct rh_model_config *out,
                               struct rh_error *err)
{
    memset(out, 0, sizeof *out);
    out->json = json;
    const struct rh_json *list;
    enum rh_rc rc = RH_OK;
    if (rh_json_type(json) != RH_JSON_OBJECT)
        rc = rh_fail(err, RH_ERR_FORMAT, "%s: not a JSON object", what);
    if (rc == RH_OK)
        rc = rh_json_want_array(json, "architectures", what, &list, err);
    if (rc != RH_OK)
        goto out;
    const char *architecture = rh_json_string(rh_json_first(list));
    if (!architecture || rh_json_count(list) != 1) {
        rc = rh_fail(err, RH_ERR_FORMAT, "%s: architectures must hold one name", what);
        goto out;
    }
    const struct rh_family *family = rh_family_find(architecture);
    if (!family) {
        rc = unsupported(architecture, what, err);
        goto out;
    }
    if (!rh_json_is_null(rh_json_get(json, "quantization_config"))) {
        rc = rh_fail(err, RH_ERR_UNSUPPORTED,
                     "%s: the checkpoint is quantized already; start from the unquantized release",
                     what);
        goto out;
    }
    out->architecture = rh_strdup(architecture);
    rc = family->read_config(json, what, out, err);
out:
    if (rc != RH_OK)
        rh_model_config_done(out);
    return rc;
}

enum rh_rc rh_model_config_read(const char *config_json_path, struct rh_model_config *out,
                                struct rh_error *err)
{
    struct rh_json *json = NULL;
    memset(out, 0, sizeof *out);
    enum rh_rc rc = rh_json_read(config_json_path, CONFIG_MAX, &json, err);
    return rc == RH_OK ? rh_config_from_json(json, config_json_path, out, err) : rc;
}

void rh_model_config_done(struct rh_model_config *config)
{
    rh_free(config->architecture);
    rh_free(config->model_type);
    rh_json_free(config->json);
    memset(config, 0, sizeof *config);
}
