#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "base/strbuf.h"
#include "base/utf8.h"

#include "front_matter.h"
#include "publication.h"
#include "recipe/dataset_spec.h"

#define SOURCE_CARD_MAX (UINT64_C(4) << 20)
#define HUB_SCHEME      "hf:"

/* What a card is made of. */
struct card {
    const struct publication *p;
    const struct rh_recipe *recipe;
    const struct rh_unit *mtp, *visual; /* NULL: the model has none */
    size_t mtp_quantized;               /* linears */
    char *hub_name;                     /* "owner/name"; NULL: a local source */
    struct rh_strbuf text;
};

static const struct rh_unit *unit_of(const struct rh_model_plan *plan, enum rh_unit_kind kind)
{
    for (size_t u = 0; u < plan->unit_count; u++) {
        if (plan->units[u].kind == kind)
            return &plan->units[u];
    }
    return NULL;
}

static char *hub_name(const char *source)
{
    if (strncmp(source, HUB_SCHEME, strlen(HUB_SCHEME)) != 0)
        return NULL;
    source += strlen(HUB_SCHEME);
    return rh_strndup(source, strcspn(source, "@"));
}

/* The source's own card; NULL when there is none that can be used. Owned by caller. */
static char *source_card(const struct publication *p)
{
    char *dir = rh_task_artifact(p->task, "plan", 0);
    char *path = rh_format("%s/meta/" PUBLICATION_CARD, dir);
    char *text = NULL;
    size_t size = 0;
    if (rh_fs_exists(path) && rh_fs_read(path, SOURCE_CARD_MAX, &text, &size, NULL) == RH_OK &&
        (strlen(text) != size || !rh_utf8_valid(text, size, NULL))) {
        rh_free(text);
        text = NULL;
    }
    rh_free(path);
    rh_free(dir);
    return text;
}

static void add_head(struct card *c)
{
    struct rh_strbuf kept = {0}, tags = {0};
    char *source = source_card(c->p);
    front_matter_keep(source, &kept, &tags);
    rh_strbuf_puts(&c->text, "---\n");
    rh_strbuf_append(&c->text, kept.text ? kept.text : "", kept.size);
    if (c->hub_name)
        rh_strbuf_printf(&c->text, "base_model: %s\nbase_model_relation: quantized\n", c->hub_name);
    rh_strbuf_puts(&c->text, "library_name: transformers\ntags:\n");
    rh_strbuf_append(&c->text, tags.text ? tags.text : "", tags.size);
    rh_strbuf_printf(&c->text, "- int%d\n- auto-round\n- roundhouse\n---\n\n", c->recipe->bits);
    rh_strbuf_done(&kept);
    rh_strbuf_done(&tags);
    rh_free(source);
}

static void add_summary(struct card *c)
{
    const struct rh_model_plan *plan = c->p->plan;
    const struct rh_recipe *r = c->recipe;
    rh_strbuf_printf(&c->text, "# %s\n\n", c->p->base);
    rh_strbuf_printf(
        &c->text,
        "INT%d weights of `%s`, made with Roundhouse " RH_VERSION " by %s, in the format "
        "`auto_round:auto_gptq` (%s",
        r->bits, c->p->source_name,
        r->iters > 0 ? "AutoRound's method (signed gradient descent on rounding and ranges)"
                     : "rounding to nearest",
        r->group_size < 0 ? "one scale a row" : "");
    if (r->group_size > 0)
        rh_strbuf_printf(&c->text, "groups of %lld", (long long)r->group_size);
    rh_strbuf_printf(&c->text,
                     ", %s). Before it was published, every unquantized tensor was compared byte "
                     "for byte with the source, and every quantized linear weight by weight.\n\n",
                     r->sym ? "symmetric" : "asymmetric");
    rh_strbuf_puts(&c->text, "| part | tensors | bytes | what was done |\n|---|---|---|---|\n");
    rh_strbuf_printf(&c->text,
                     "| language model | %llu | %llu | %zu linears INT%d, %zu kept at 16 bit, all "
                     "else unchanged |\n",
                     (unsigned long long)plan->main.tensors, (unsigned long long)plan->main.bytes,
                     plan->quantized_linears, r->bits, plan->unquantized_linears);
    if (c->mtp)
        rh_strbuf_printf(&c->text, "| MTP head | %llu | %llu | %zu linears INT%d |\n",
                         (unsigned long long)plan->mtp.tensors, (unsigned long long)plan->mtp.bytes,
                         c->mtp_quantized, r->bits);
    if (c->visual)
        rh_strbuf_printf(&c->text, "| visual tower | %llu | %llu | unchanged |\n",
                         (unsigned long long)plan->visual.tensors,
                         (unsigned long long)plan->visual.bytes);
    rh_strbuf_printf(&c->text, "| **all** | %llu | %llu | |\n\n",
                     (unsigned long long)plan->all.tensors, (unsigned long long)plan->all.bytes);
}

static void add_mtp(struct card *c)
{
    rh_strbuf_puts(&c->text, "## Multi-token prediction\n\n");
    if (!c->mtp)
        rh_strbuf_puts(&c->text, "The source has no MTP head, so there is none here.\n\n");
    else if (c->mtp->step >= 0)
        rh_strbuf_printf(&c->text,
                         "The MTP head is included. Its %zu linears are INT%d, %s; `mtp.fc`, the "
                         "router and the norms keep the source's bytes.\n\n",
                         c->mtp_quantized, c->recipe->bits,
                         c->recipe->iters > 0
                             ? "tuned like those of a decoder block, on the final hidden states of "
                               "the calibration rows"
                             : "rounded to nearest, without calibration");
    else if (c->mtp_quantized > 0)
        rh_strbuf_printf(&c->text,
                         "The MTP head is included. Its %zu linears were rounded to nearest at "
                         "INT%d, without calibration; `mtp.fc`, the router and the norms keep the "
                         "source's bytes.\n\n",
                         c->mtp_quantized, c->recipe->bits);
    else
        rh_strbuf_puts(&c->text,
                       "The MTP head is included, not quantized: it keeps the source's bytes.\n\n");
}

static void recipe_row(struct card *c, const char *key, const struct rh_json *value)
{
    char *text = rh_json_text(value, false);
    rh_strbuf_printf(&c->text, "| `%s` | ", key);
    /* A bar would end the cell. */
    for (const char *t = text; *t; t++)
        rh_strbuf_append(&c->text, *t == '|' ? "\\|" : t, *t == '|' ? 2 : 1);
    rh_strbuf_puts(&c->text, " |\n");
    rh_free(text);
}

static void add_recipe(struct card *c, const struct rh_json *recipe)
{
    static const char *const sections[] = {"calibration", "quant", "mtp", "output"};
    rh_strbuf_puts(&c->text, "## Recipe\n\n| key | value |\n|---|---|\n");
    for (size_t s = 0; s < sizeof sections / sizeof sections[0]; s++) {
        const struct rh_json *section = rh_json_get(recipe, sections[s]);
        for (const struct rh_json *v = rh_json_first(section); v; v = rh_json_next(v)) {
            char *key = rh_format("%s.%s", sections[s], rh_json_key(v));
            recipe_row(c, key, v);
            rh_free(key);
        }
    }
    rh_strbuf_printf(&c->text,
                     "\nRecipe digest `%s`. " PUBLICATION_MANIFEST
                     " holds the recipe, the digest of every file of the source and of every file "
                     "here.\n\n",
                     c->recipe->digest);
}

/* What the rows of a top-up did to the experts; nothing when there was none. */
static void add_top_up(struct card *c)
{
    char *dir = rh_task_artifact(c->p->task, "probe", 0);
    char *path = rh_fs_join(dir, "report.json");
    struct rh_json *report = NULL;
    if (c->recipe->top_up_rows > 0 && rh_fs_exists(path) &&
        rh_json_read(path, PUBLICATION_JSON_MAX, &report, NULL) == RH_OK) {
        const struct rh_json *before = rh_json_get(report, "before");
        const struct rh_json *after = rh_json_get(report, "after");
        rh_strbuf_printf(&c->text,
                         "%zu of the rows were exchanged for others, out of %.0f, that bring tokens to "
                         "experts which got few. Experts with fewer than %.0f tokens, over all "
                         "blocks: %.0f before, %.0f after; without any: %.0f before, %.0f "
                         "after.\n\n",
                         rh_json_count(rh_json_get(report, "exchanged")),
                         rh_json_number(rh_json_get(report, "candidates"), 0),
                         rh_json_number(rh_json_get(report, "floor"), 0),
                         rh_json_number(rh_json_get(before, "below_floor"), 0),
                         rh_json_number(rh_json_get(after, "below_floor"), 0),
                         rh_json_number(rh_json_get(before, "without_tokens"), 0),
                         rh_json_number(rh_json_get(after, "without_tokens"), 0));
    }
    rh_json_free(report);
    rh_free(path);
    rh_free(dir);
}

static void add_calibration(struct card *c)
{
    const struct rh_recipe *r = c->recipe;
    if (r->iters == 0)
        return;
    char *dataset = rh_dataset_public_text(r->dataset);
    rh_strbuf_printf(&c->text,
                     "## Calibration\n\n%lld rows of %lld tokens (%lld tokens) of `%s`, seed %lld. "
                     "Each decoder block%s was tuned for %lld iterations of %lld rows",
                     (long long)r->nsamples, (long long)r->seqlen,
                     (long long)(r->nsamples * r->seqlen), dataset, (long long)r->calibration_seed,
                     c->mtp && c->mtp->step >= 0 ? ", and the MTP head," : "", (long long)r->iters,
                     (long long)(r->batch_size * r->gradient_accumulate_steps));
    rh_free(dataset);
    rh_strbuf_printf(&c->text, ", on the outputs of %s.\n\n",
                     r->enable_quanted_input ? "the quantized blocks before it"
                                             : "the source's blocks before it");
    add_top_up(c);
}

static void add_losses(struct card *c)
{
    if (c->recipe->iters == 0 || rh_json_count(c->p->blocks) == 0)
        return;
    rh_strbuf_puts(
        &c->text,
        "Loss of each block (mean squared error of its output against the source's block, over "
        "the rows of an iteration): at the first iteration, where weights are rounded to "
        "nearest, and at the one that was kept.\n\n"
        "| block | first | kept | ratio | iteration |\n|---|---|---|---|---|\n");
    for (const struct rh_json *b = rh_json_first(c->p->blocks); b; b = rh_json_next(b)) {
        int64_t block = 0, iteration = 0;
        double before = rh_json_number(rh_json_get(b, "init_loss"), 0);
        double after = rh_json_number(rh_json_get(b, "best_loss"), 0);
        if (!rh_json_int(rh_json_get(b, "block"), &block))
            continue;
        if (rh_json_string(rh_json_get(b, "unit")))
            rh_strbuf_puts(&c->text, "| MTP head | ");
        else
            rh_strbuf_printf(&c->text, "| %lld | ", (long long)block);
        rh_strbuf_printf(&c->text, "%.4e | %.4e | ", before, after);
        if (before > 0)
            rh_strbuf_printf(&c->text, "%.3f | ", after / before);
        else
            rh_strbuf_puts(&c->text, "– | ");
        if (rh_json_int(rh_json_get(b, "best_iter"), &iteration))
            rh_strbuf_printf(&c->text, "%lld |\n", (long long)iteration);
        else
            rh_strbuf_puts(&c->text, "– |\n");
    }
    rh_strbuf_puts(&c->text, "\n");
}

static void add_use(struct card *c)
{
    rh_strbuf_puts(&c->text, "## Use\n\nTransformers (needs the `auto-round` package):\n\n"
                             "```python\n"
                             "from transformers import AutoModelForImageTextToText, AutoProcessor\n"
                             "\n");
    rh_strbuf_printf(&c->text,
                     "name = \"%s\"\n"
                     "model = AutoModelForImageTextToText.from_pretrained(name, dtype=\"auto\", "
                     "device_map=\"auto\")\n"
                     "processor = AutoProcessor.from_pretrained(name)\n```\n\n",
                     c->p->base);
    rh_strbuf_printf(&c->text, "vLLM:\n\n```sh\nvllm serve %s", c->p->base);
    if (c->mtp)
        rh_strbuf_puts(&c->text, " \\\n  --speculative-config "
                                 "'{\"method\": \"mtp\", \"num_speculative_tokens\": 1}'");
    rh_strbuf_puts(&c->text, "\n```\n\n");
}

static void add_reproduction(struct card *c)
{
    rh_strbuf_printf(&c->text,
                     "## Reproduce\n\nSave the member `recipe` of " PUBLICATION_MANIFEST
                     " as `recipe.json`. Same source, recipe and version give the same bytes.\n\n"
                     "```sh\nroundhouse run %s --recipe recipe.json --output %s\n"
                     "roundhouse verify %s --source SOURCE\n```\n",
                     c->hub_name ? c->p->source_name : "SOURCE", c->p->base, c->p->base);
}

static enum rh_rc write_card(struct publication *p, const struct rh_strbuf *text,
                             struct rh_error *err)
{
    char *path = rh_fs_join(p->staging, PUBLICATION_CARD);
    char hex[RH_SHA256_HEX_SIZE];
    enum rh_rc rc = rh_fs_write(path, text->text, text->size, err);
    if (rc == RH_OK) {
        rh_sha256_of(text->text, text->size, hex);
        publication_add_file(p, PUBLICATION_CARD, (int64_t)text->size, hex);
    }
    rh_free(path);
    return rc;
}

enum rh_rc publication_card(struct publication *p, struct rh_error *err)
{
    struct card c = {.p = p, .recipe = rh_task_recipe(p->task)};
    c.mtp = unit_of(p->plan, RH_UNIT_MTP);
    c.visual = unit_of(p->plan, RH_UNIT_VISUAL);
    c.hub_name = hub_name(p->source_name);
    for (size_t i = 0; c.mtp && i < c.mtp->linear_count; i++)
        c.mtp_quantized += c.mtp->linears[i].bits < 16;
    struct rh_json *recipe = publication_recipe(c.recipe);
    add_head(&c);
    add_summary(&c);
    add_mtp(&c);
    add_recipe(&c, recipe);
    add_calibration(&c);
    add_losses(&c);
    add_use(&c);
    add_reproduction(&c);
    enum rh_rc rc = write_card(p, &c.text, err);
    rh_json_free(recipe);
    rh_strbuf_done(&c.text);
    rh_free(c.hub_name);
    return rc;
}
