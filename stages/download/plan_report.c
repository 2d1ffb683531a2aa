#include "plan_report.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/strbuf.h"

#define SCHEMA "roundhouse.plan-report/1"

struct grouped {
    char text[32];
};

/* "19,545,968,896" */
static struct grouped grouped(uint64_t value)
{
    struct grouped out;
    char digits[24];
    int size = snprintf(digits, sizeof digits, "%llu", (unsigned long long)value);
    size_t used = 0;
    for (int i = 0; i < size; i++) {
        if (i > 0 && (size - i) % 3 == 0)
            out.text[used++] = ',';
        out.text[used++] = digits[i];
    }
    out.text[used] = '\0';
    return out;
}

static void add_totals(struct rh_strbuf *out, const char *name, uint64_t tensors, uint64_t bytes)
{
    rh_strbuf_printf(out, "%-8s%6s tensors  %14s B\n", name, grouped(tensors).text,
                     grouped(bytes).text);
}

static void add_bytes(struct rh_strbuf *out, const char *name, uint64_t bytes, const char *what)
{
    rh_strbuf_printf(out, "%-22s%16s B%s%s\n", name, grouped(bytes).text, *what ? "  " : "", what);
}

static size_t block_count(const struct rh_model_plan *plan)
{
    size_t blocks = 0;
    for (size_t i = 0; i < plan->unit_count; i++)
        blocks += plan->units[i].kind == RH_UNIT_BLOCK;
    return blocks;
}

/* "42 (head, 40 blocks, tail, mtp)" */
static void add_units(struct rh_strbuf *out, const struct rh_model_plan *plan)
{
    rh_strbuf_printf(out, "units   %zu (", plan->unit_count);
    bool blocks = false;
    for (size_t i = 0; i < plan->unit_count; i++) {
        if (plan->units[i].kind != RH_UNIT_BLOCK)
            rh_strbuf_printf(out, "%s%s", i ? ", " : "", plan->units[i].name);
        else if (!blocks)
            rh_strbuf_printf(out, "%s%zu blocks", i ? ", " : "", block_count(plan));
        blocks = blocks || plan->units[i].kind == RH_UNIT_BLOCK;
    }
    rh_strbuf_puts(out, ")\n");
}

static size_t mtp_linears(const struct rh_model_plan *plan)
{
    size_t count = 0;
    for (size_t u = 0; u < plan->unit_count; u++) {
        const struct rh_unit *unit = &plan->units[u];
        for (size_t i = 0; unit->kind == RH_UNIT_MTP && i < unit->linear_count; i++)
            count += unit->linears[i].bits < 16;
    }
    return count;
}

static bool tunes_mtp(const struct rh_model_plan *plan)
{
    const struct rh_unit *unit = rh_model_plan_kind(plan, RH_UNIT_MTP);
    return unit && unit->step >= 0;
}

static double total_flop(const struct rh_plan_report *r)
{
    return r->estimate.tuning_flop + r->estimate.forward_flop;
}

static double hours(const struct rh_plan_report *r)
{
    return total_flop(r) / (r->tflops * 1e12) / 3600.0;
}

static void add_head(struct rh_strbuf *out, const struct rh_plan_report *r)
{
    const struct rh_recipe *recipe = r->recipe;
    rh_strbuf_printf(out, "model   %s\n", r->model);
    rh_strbuf_printf(out, "        %s\n", r->plan->config.architecture);
    rh_strbuf_printf(out, "recipe  %s: %d bit, group %lld, %s, %lld iterations\n", recipe->name,
                     recipe->bits, (long long)recipe->group_size,
                     recipe->sym ? "symmetric" : "asymmetric", (long long)recipe->iters);
    rh_strbuf_printf(out, "        %lld rows of %lld tokens, batches of %lld x %lld\n",
                     (long long)recipe->nsamples, (long long)recipe->seqlen,
                     (long long)recipe->batch_size, (long long)recipe->gradient_accumulate_steps);
    add_units(out, r->plan);
}

static void add_output(struct rh_strbuf *out, const struct rh_model_plan *p)
{
    rh_strbuf_puts(out, "\noutput\n");
    add_totals(out, "main", p->main.tensors, p->main.bytes);
    if (p->mtp.tensors > 0)
        add_totals(out, "mtp", p->mtp.tensors, p->mtp.bytes);
    if (p->visual.tensors > 0)
        add_totals(out, "visual", p->visual.tensors, p->visual.bytes);
    add_totals(out, "all", p->all.tensors, p->all.bytes);
    rh_strbuf_printf(out, "linears %6s quantized, %s at 16 bit in the blocks",
                     grouped(p->quantized_linears).text, grouped(p->unquantized_linears).text);
    if (p->mtp.tensors > 0)
        rh_strbuf_printf(out, "; %s quantized in mtp%s", grouped(mtp_linears(p)).text,
                         tunes_mtp(p) ? ", tuned" : "");
    rh_strbuf_printf(out, "\nfiles   %6zu\n", p->shard_count);
    for (size_t i = 0; i < p->shard_count; i++)
        rh_strbuf_printf(out, "        %6s tensors  %14s B  %s\n",
                         grouped(p->shards[i].tensor_count).text, grouped(p->shards[i].bytes).text,
                         p->shards[i].name);
}

char *rh_plan_report_text(const struct rh_plan_report *r)
{
    const struct rh_estimate *e = &r->estimate;
    struct rh_strbuf out = {0};
    add_head(&out, r);
    rh_strbuf_printf(&out, "\nsource  %6zu files\n", r->plan->file_count);
    add_totals(&out, "", e->source_tensors, e->source_bytes);
    add_output(&out, r->plan);
    rh_strbuf_puts(&out, "\ndisk of the job, nothing deleted (exact but for small files)\n");
    if (e->disk_files > 0)
        add_bytes(&out, "  source files", e->disk_files,
                  "at most at a time; downloaded, cut, deleted");
    add_bytes(&out, "  source tensors", e->disk_source, "");
    add_bytes(&out, "  tuned blocks", e->disk_tuned, "");
    add_bytes(&out, "  chains of 2 blocks", e->disk_chains, "");
    add_bytes(&out, "  packed tensors", e->disk_packed, "");
    add_bytes(&out, "  output files", e->disk_shards, "");
    add_bytes(&out, "  together", e->disk_all,
              "and the output files again if the destination is on another file system");
    rh_strbuf_puts(&out, "\nestimates\n");
    add_bytes(&out, "  peak memory", e->memory,
              "fp32: one block with gradients, expert activations, hidden states");
    rh_strbuf_printf(&out, "  %-20s%16.4g PFLOP  2 x 3 x active weights x tokens x iterations\n",
                     "tuning", e->tuning_flop / 1e15);
    rh_strbuf_printf(&out, "  %-20s%16.4g PFLOP  2 x active weights x calibration tokens\n",
                     "forward passes", e->forward_flop / 1e15);
    rh_strbuf_printf(&out,
                     "  %-20s%16.4g h      at an assumed %g TFLOP/s, not measured; set the "
                     "machine's rate with --tflops\n",
                     "time", hours(r), r->tflops);
    return rh_strbuf_take(&out);
}

static void set_totals(struct rh_json *object, const char *key, uint64_t tensors, uint64_t bytes)
{
    struct rh_json *t = rh_json_new_object();
    rh_json_set_int(t, "tensors", (int64_t)tensors);
    rh_json_set_int(t, "bytes", (int64_t)bytes);
    rh_json_set(object, key, t);
}

static struct rh_json *units_json(const struct rh_model_plan *plan)
{
    struct rh_json *array = rh_json_new_array();
    for (size_t i = 0; i < plan->unit_count; i++) {
        struct rh_json *unit = rh_json_new_object();
        rh_json_set_string(unit, "name", plan->units[i].name);
        rh_json_set_string(unit, "kind", rh_unit_kind_name(plan->units[i].kind));
        rh_json_set_int(unit, "source_bytes", (int64_t)plan->units[i].source_bytes);
        rh_json_append(array, unit);
    }
    return array;
}

static struct rh_json *shards_json(const struct rh_model_plan *plan)
{
    struct rh_json *array = rh_json_new_array();
    for (size_t i = 0; i < plan->shard_count; i++) {
        struct rh_json *shard = rh_json_new_object();
        rh_json_set_string(shard, "name", plan->shards[i].name);
        rh_json_set_int(shard, "tensors", (int64_t)plan->shards[i].tensor_count);
        rh_json_set_int(shard, "bytes", (int64_t)plan->shards[i].bytes);
        rh_json_append(array, shard);
    }
    return array;
}

static struct rh_json *disk_json(const struct rh_estimate *e)
{
    struct rh_json *disk = rh_json_new_object();
    rh_json_set_int(disk, "files", (int64_t)e->disk_files);
    rh_json_set_int(disk, "source", (int64_t)e->disk_source);
    rh_json_set_int(disk, "tuned", (int64_t)e->disk_tuned);
    rh_json_set_int(disk, "chains", (int64_t)e->disk_chains);
    rh_json_set_int(disk, "packed", (int64_t)e->disk_packed);
    rh_json_set_int(disk, "shards", (int64_t)e->disk_shards);
    rh_json_set_int(disk, "all", (int64_t)e->disk_all);
    return disk;
}

struct rh_json *rh_plan_report_json(const struct rh_plan_report *r)
{
    const struct rh_model_plan *p = r->plan;
    const struct rh_estimate *e = &r->estimate;
    struct rh_json *root = rh_json_new_object(), *output = rh_json_new_object();
    struct rh_json *linears = rh_json_new_object();
    rh_json_set_string(root, "schema", SCHEMA);
    rh_json_set_string(root, "model", r->model);
    rh_json_set_string(root, "architecture", p->config.architecture);
    rh_json_set(root, "recipe", rh_json_copy(r->recipe->canonical));
    rh_json_set(root, "units", units_json(p));
    rh_json_set_int(root, "source_files", (int64_t)p->file_count);
    set_totals(root, "source", e->source_tensors, e->source_bytes);
    set_totals(output, "main", p->main.tensors, p->main.bytes);
    set_totals(output, "mtp", p->mtp.tensors, p->mtp.bytes);
    set_totals(output, "visual", p->visual.tensors, p->visual.bytes);
    set_totals(output, "all", p->all.tensors, p->all.bytes);
    rh_json_set(root, "output", output);
    rh_json_set_int(linears, "quantized", (int64_t)p->quantized_linears);
    rh_json_set_int(linears, "unquantized", (int64_t)p->unquantized_linears);
    rh_json_set_int(linears, "mtp_quantized", (int64_t)mtp_linears(p));
    rh_json_set_bool(linears, "mtp_tuned", tunes_mtp(p));
    rh_json_set(root, "linears", linears);
    rh_json_set(root, "shards", shards_json(p));
    rh_json_set(root, "disk_bytes", disk_json(e));
    rh_json_set_int(root, "memory_bytes_estimate", (int64_t)e->memory);
    rh_json_set_number(root, "tuning_flop_estimate", e->tuning_flop);
    rh_json_set_number(root, "forward_flop_estimate", e->forward_flop);
    rh_json_set_number(root, "tflops_assumed", r->tflops);
    rh_json_set_number(root, "hours_estimate", hours(r));
    return root;
}
