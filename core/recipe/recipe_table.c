#include "recipe_table.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/strbuf.h"

#define STRING_MAX    4096
#define STRINGS_MAX   1024
#define NAME_MAX_SIZE 128

static const char *const schema_ids[] = {RH_RECIPE_SCHEMA_ID, NULL};
static const char *const orders[] = {"auto", "python", "numpy", "none", NULL};
static const char *const backends[] = {"auto", "cpu", "cuda", NULL};
static const char *const observers[] = {"minmax", "mse", NULL};
static const char *const mtp_methods[] = {"rtn", "keep", "tune", NULL};
static const int64_t bit_widths[] = {2, 3, 4, 8, 0};
static const int64_t group_sizes[] = {-1, 16, 32, 64, 128, 256, 512, 1024, 0};

/* clang-format off */
#define AT(m) offsetof(struct rh_recipe, m), sizeof(((struct rh_recipe *)NULL)->m)

#define STRING(path, m, def, help) {path, RH_ROW_STRING, AT(m), 0, 0, NULL, NULL, def, help}
#define CHOICE(path, m, set, def, help) {path, RH_ROW_CHOICE, AT(m), 0, 0, set, NULL, def, help}
#define INT(path, m, lo, hi, def, help) {path, RH_ROW_INT, AT(m), lo, hi, NULL, NULL, def, help}
#define ONE_OF(path, m, set, def, help) {path, RH_ROW_INT, AT(m), 0, 0, NULL, set, def, help}
#define NUMBER(path, m, lo, hi, def, help) {path, RH_ROW_NUMBER, AT(m), lo, hi, NULL, NULL, def, help}
#define BOOL(path, m, def, help) {path, RH_ROW_BOOL, AT(m), 0, 0, NULL, NULL, def, help}

static const struct rh_recipe_row rows[] = {
    {"schema", RH_ROW_CHOICE, 0, 0, 0, 0, schema_ids, NULL, "\"" RH_RECIPE_SCHEMA_ID "\"",
     "Version of the recipe format."},
    {"name", RH_ROW_NAME, AT(name), 0, 0, NULL, NULL, "\"unnamed\"",
     "Name for people; a recipe file without one is called after the file. Not part of the digest."},
    STRING("calibration.dataset", dataset, "\"\"",
           "Calibration text: a path (absolute, beginning with ./ or ../, or with a file suffix), "
           "relative to the recipe, or the hub name of a data set; .jsonl, .json, .txt and .parquet "
           "files are read. Several are separated by commas; options follow after colons: num=ROWS, "
           "share=PART of nsamples, concat, column=NAME. Empty: must be set for a job."),
    INT("calibration.nsamples", nsamples, 1, 1048576, "128", "Calibration rows."),
    INT("calibration.seqlen", seqlen, 1, 1048576, "2048", "Tokens of a calibration row."),
    INT("calibration.seed", calibration_seed, 0, 4294967295, "42", "Seed of the row order."),
    CHOICE("calibration.order", order, orders, "\"auto\"",
           "How documents are shuffled: auto takes python for local files and numpy for hub data "
           "sets, as AutoRound does."),
    BOOL("calibration.concat", concat, "false",
         "Pack documents end to end into rows instead of leaving out those shorter than seqlen; "
         ":concat and :concat=false at a data set go before. Plain text is always packed."),
    INT("calibration.expert_floor", expert_floor, 0, 1000000000, "256",
        "Warn of experts that the calibration text routes fewer tokens to; 0: never."),
    INT("calibration.top_up_rows", top_up_rows, 0, 1048576, "0",
        "Exchange at most so many of the nsamples rows for rows that bring tokens to experts below "
        "expert_floor, found by a forward pass of the source before the tuning; 0: none."),
    INT("calibration.top_up_pool", top_up_pool, 0, 1048576, "0",
        "Further rows of the data sets that top_up_rows chooses from; 0: as many as nsamples."),
    BOOL("calibration.accept_fewer", accept_fewer, "false",
         "Go on when the data set yields fewer than nsamples rows of seqlen tokens."),
    ONE_OF("quant.bits", bits, bit_widths, "4", "Bits of a weight code."),
    ONE_OF("quant.group_size", group_size, group_sizes, "128",
           "Weights that share a scale, along the input; -1: a whole row."),
    BOOL("quant.sym", sym, "true", "Symmetric codes (full range, signed scales)."),
    CHOICE("quant.observer", observer, observers, "\"minmax\"",
           "Range of a group before tuning: minmax takes all its weights, as AutoRound does; mse "
           "clips it where the squared error of rounding to nearest is lowest."),
    INT("quant.iters", iters, 0, 100000, "200",
        "Tuning iterations of a block; 0: round to nearest."),
    INT("quant.batch_size", batch_size, 1, 65536, "8", "Rows of a minibatch."),
    INT("quant.gradient_accumulate_steps", gradient_accumulate_steps, 1, 65536, "1",
        "Minibatches whose gradients are added up for one step."),
    NUMBER("quant.lr", lr, 0, 10, "0", "Step of the rounding offsets; 0: 1/iters."),
    NUMBER("quant.minmax_lr", minmax_lr, 0, 10, "0", "Step of the range factors; 0: lr."),
    BOOL("quant.enable_minmax_tuning", enable_minmax_tuning, "true", "Tune the range factors too."),
    BOOL("quant.enable_quanted_input", enable_quanted_input, "true",
         "Tune a block on the outputs of the quantized blocks before it."),
    BOOL("quant.not_use_best_mse", not_use_best_mse, "false",
         "Keep the parameters of the last iteration, not those whose minibatch had the lowest loss."),
    INT("quant.seed", seed, 0, 4294967295, "42", "Seed of the minibatch order."),
    {"quant.ignore_layers", RH_ROW_STRINGS, AT(ignore_layers), 0, 0, NULL, NULL, "[]",
     "Linear layers that stay 16 bit: the full name or a part of it; an entry that ends in a "
     "digit gets a dot, so that layers.1 does not match layers.10."},
    CHOICE("mtp.method", mtp, mtp_methods, "\"rtn\"",
           "The multi-token-prediction head: rtn rounds its linears to nearest, keep leaves them, "
           "tune tunes them like those of a block, after the last one."),
    INT("output.max_shard_bytes", max_shard_bytes, 0, 9007199254740992, "0",
        "Tensor bytes of an output file; 0: AutoRound's rule."),
    INT("resources.threads", threads, 0, 4096, "0",
        "Threads of the compute loops; 0: one per processor. Never changes the result."),
    CHOICE("resources.backend", backend, backends, "\"auto\"",
           "Where blocks are tuned: auto takes a GPU when there is one. Results of cpu (fp32) and "
           "cuda (bf16) differ in the last digits. A worker's own --backend goes first."),
    INT("resources.prefetch_blocks", prefetch_blocks, 0, 65536, "0",
        "Fetch at most so many blocks ahead of tuning; 0: no limit."),
};
/* clang-format on */

size_t rh_recipe_row_count(void)
{
    return sizeof rows / sizeof rows[0];
}

const struct rh_recipe_row *rh_recipe_row_at(size_t index)
{
    return &rows[index];
}

const struct rh_recipe_row *rh_recipe_row_find(const char *path)
{
    for (size_t i = 0; i < rh_recipe_row_count(); i++) {
        if (strcmp(rows[i].path, path) == 0)
            return &rows[i];
    }
    return NULL;
}

bool rh_recipe_is_section(const char *path)
{
    size_t size = strlen(path);
    for (size_t i = 0; i < rh_recipe_row_count(); i++) {
        if (strncmp(rows[i].path, path, size) == 0 && rows[i].path[size] == '.')
            return true;
    }
    return false;
}

#define WORD_MAX 64

/* Levenshtein distance of the first WORD_MAX bytes. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t row[WORD_MAX + 1];
    size_t na = strnlen(a, WORD_MAX);
    size_t nb = strnlen(b, WORD_MAX);
    for (size_t j = 0; j <= nb; j++)
        row[j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[nb];
}

const char *rh_recipe_nearest(const char *path)
{
    const char *nearest = rows[0].path;
    size_t best = SIZE_MAX;
    /* "iters" on its own should find "quant.iters", so an unqualified word meets the last parts. */
    bool bare = strchr(path, '.') == NULL;
    for (size_t i = 0; i < rh_recipe_row_count(); i++) {
        const char *dot = strchr(rows[i].path, '.');
        size_t d = edit_distance(path, rows[i].path);
        if (bare && dot) {
            size_t tail = edit_distance(path, dot + 1);
            d = tail < d ? tail : d;
        }
        if (d < best) {
            best = d;
            nearest = rows[i].path;
        }
    }
    static const char *const sections[] = {"calibration", "quant", "mtp", "output", "resources"};
    for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++) {
        size_t d = edit_distance(path, sections[i]);
        if (d < best) {
            best = d;
            nearest = sections[i];
        }
    }
    return nearest;
}

static enum rh_rc bad(const struct rh_recipe_row *row, const struct rh_json *value,
                      const char *what, const char *wanted, struct rh_error *err)
{
    char *text = rh_json_text(value, false);
    enum rh_rc rc = rh_fail(err, RH_ERR_ARGUMENT, "%s: %s is %.120s, but must be %s", what,
                            row->path, text, wanted);
    rh_free(text);
    return rc;
}

static enum rh_rc check_int(const struct rh_recipe_row *row, const struct rh_json *value,
                            const char *what, struct rh_error *err)
{
    char wanted[160];
    int64_t n = 0;
    bool ok = rh_json_int(value, &n);
    if (row->numbers) {
        bool found = false;
        size_t used = (size_t)snprintf(wanted, sizeof wanted, "one of");
        for (const int64_t *p = row->numbers; *p; p++) {
            found = found || *p == n;
            used += (size_t)snprintf(wanted + used, sizeof wanted - used, " %lld", (long long)*p);
        }
        ok = ok && found;
    } else {
        snprintf(wanted, sizeof wanted, "an integer from %.0f to %.0f", row->min, row->max);
        ok = ok && (double)n >= row->min && (double)n <= row->max;
    }
    return ok ? RH_OK : bad(row, value, what, wanted, err);
}

static bool is_name(const char *s)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                                  "._-";
    size_t size = s ? strlen(s) : 0;
    return size > 0 && size <= NAME_MAX_SIZE && s[0] != '.' && strspn(s, allowed) == size;
}

static bool is_strings(const struct rh_json *value)
{
    if (rh_json_type(value) != RH_JSON_ARRAY || rh_json_count(value) > STRINGS_MAX)
        return false;
    for (const struct rh_json *c = rh_json_first(value); c; c = rh_json_next(c)) {
        const char *s = rh_json_string(c);
        if (!s || !*s || strlen(s) > STRING_MAX)
            return false;
    }
    return true;
}

static int choice_of(const struct rh_recipe_row *row, const char *text)
{
    for (int i = 0; text && row->choices[i]; i++) {
        if (strcmp(row->choices[i], text) == 0)
            return i;
    }
    return -1;
}

static enum rh_rc check_choice(const struct rh_recipe_row *row, const struct rh_json *value,
                               const char *what, struct rh_error *err)
{
    if (choice_of(row, rh_json_string(value)) >= 0)
        return RH_OK;
    struct rh_strbuf wanted = {0};
    for (int i = 0; row->choices[i]; i++)
        rh_strbuf_printf(&wanted, "%s\"%s\"", i ? " or " : "", row->choices[i]);
    enum rh_rc rc = bad(row, value, what, wanted.text, err);
    rh_strbuf_done(&wanted);
    return rc;
}

enum rh_rc rh_recipe_row_check(const struct rh_recipe_row *row, const struct rh_json *value,
                               const char *what, struct rh_error *err)
{
    const char *s = rh_json_string(value);
    char wanted[160];
    switch (row->type) {
    case RH_ROW_STRING:
        if (s && strlen(s) <= STRING_MAX)
            return RH_OK;
        return bad(row, value, what, "a string of at most 4096 bytes", err);
    case RH_ROW_NAME:
        if (is_name(s))
            return RH_OK;
        return bad(row, value, what,
                   "1 to 128 letters, digits, '.', '_' or '-', not beginning with a dot", err);
    case RH_ROW_STRINGS:
        if (is_strings(value))
            return RH_OK;
        return bad(row, value, what, "an array of at most 1024 non-empty strings", err);
    case RH_ROW_CHOICE:
        return check_choice(row, value, what, err);
    case RH_ROW_INT:
        return check_int(row, value, what, err);
    case RH_ROW_NUMBER:
        if (rh_json_type(value) == RH_JSON_NUMBER) {
            double d = rh_json_number(value, 0);
            if (isfinite(d) && d >= row->min && d <= row->max)
                return RH_OK;
        }
        snprintf(wanted, sizeof wanted, "a number from %g to %g", row->min, row->max);
        return bad(row, value, what, wanted, err);
    case RH_ROW_BOOL:
        if (rh_json_type(value) == RH_JSON_BOOL)
            return RH_OK;
        return bad(row, value, what, "true or false", err);
    }
    return rh_fail(err, RH_ERR_INTERNAL, "%s: row %s has no type", what, row->path);
}

static void store_strings(const struct rh_json *value, struct rh_recipe *recipe)
{
    size_t count = rh_json_count(value);
    recipe->ignore_layers = rh_alloc_array(count + 1, sizeof *recipe->ignore_layers);
    for (const struct rh_json *c = rh_json_first(value); c; c = rh_json_next(c))
        recipe->ignore_layers[recipe->ignore_layers_count++] = rh_strdup(rh_json_string(c));
}

void rh_recipe_row_store(const struct rh_recipe_row *row, const struct rh_json *value,
                         struct rh_recipe *recipe)
{
    char *member = (char *)recipe + row->offset;
    if (row->size == 0)
        return;
    switch (row->type) {
    case RH_ROW_STRING:
    case RH_ROW_NAME: {
        char *copy = rh_strdup(rh_json_string(value));
        memcpy(member, &copy, sizeof copy);
        break;
    }
    case RH_ROW_STRINGS:
        store_strings(value, recipe);
        break;
    case RH_ROW_CHOICE: {
        /* The enums of recipe.h list the choices in the order of the table. */
        int chosen = choice_of(row, rh_json_string(value));
        RH_ASSERT(row->size == sizeof chosen);
        memcpy(member, &chosen, sizeof chosen);
        break;
    }
    case RH_ROW_INT: {
        int64_t n = 0;
        RH_ASSERT(rh_json_int(value, &n));
        int narrow = (int)n;
        if (row->size == sizeof n)
            memcpy(member, &n, sizeof n);
        else
            memcpy(member, &narrow, sizeof narrow);
        break;
    }
    case RH_ROW_NUMBER: {
        double d = rh_json_number(value, 0);
        memcpy(member, &d, sizeof d);
        break;
    }
    case RH_ROW_BOOL: {
        bool b = rh_json_bool(value, false);
        memcpy(member, &b, sizeof b);
        break;
    }
    }
}
