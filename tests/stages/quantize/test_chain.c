/* Activations and codes on disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "nano.h"
#include "quant/pack.h"
#include "tuning/block_file.h"
#include "tuning/chain.h"
#include "tuning/forward.h"
#include "tuning/report.h"

static int make_dir(void **state)
{
    char *dir = rh_strdup("/tmp/rh-test-chain-XXXXXX");
    *state = dir;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    enum rh_rc rc = rh_fs_remove_tree(*state, NULL);
    rh_free(*state);
    return rc == RH_OK ? 0 : -1;
}

static char *write_tensor(const char *dir, const char *name, enum rh_dtype dtype, int rank,
                          const int64_t *shape, const void *data, size_t size)
{
    struct rh_error err;
    char *path = rh_fs_join(dir, "one.safetensors");
    struct rh_safetensors_writer *w = rh_safetensors_writer_new(path);
    size_t index = rh_safetensors_writer_add(w, name, dtype, rank, shape);
    nano_check(rh_safetensors_writer_begin(w, &err), &err);
    nano_check(rh_safetensors_writer_put(w, index, 0, data, size, &err), &err);
    nano_check(rh_safetensors_writer_finish(w, &err), &err);
    rh_safetensors_writer_free(w);
    return path;
}

static enum rh_rc read_ids(const char *dir, const char *name, enum rh_dtype dtype, int rank,
                           const int32_t ids[6], struct rh_token_rows *rows, struct rh_error *err)
{
    static const int64_t shape[] = {2, 3};
    char *path = write_tensor(dir, name, dtype, rank, shape, ids, rank == 2 ? 24 : 8);
    enum rh_rc rc = rh_token_rows_read(path, 100, rows, err);
    rh_free(path);
    return rc;
}

static void token_rows_are_checked_against_the_vocabulary(void **state)
{
    const char *dir = *state;
    struct rh_error err;
    struct rh_token_rows rows;
    static const int32_t good[6] = {0, 99, 5, 7, 7, 1};
    static const int32_t high[6] = {0, 99, 5, 7, 100, 1};
    static const int32_t low[6] = {0, 99, -1, 7, 7, 1};
    nano_check(read_ids(dir, "input_ids", RH_I32, 2, good, &rows, &err), &err);
    assert_true(rows.samples == 2 && rows.seq == 3);
    assert_memory_equal(rows.ids, good, sizeof good);
    rh_token_rows_done(&rows);
    assert_int_equal(read_ids(dir, "input_ids", RH_I32, 2, high, &rows, &err), RH_ERR_FORMAT);
    assert_non_null(strstr(err.message, "row 1 holds token 100"));
    assert_int_equal(read_ids(dir, "input_ids", RH_I32, 2, low, &rows, &err), RH_ERR_FORMAT);
    assert_int_equal(read_ids(dir, "input_ids", RH_F32, 2, good, &rows, &err), RH_ERR_FORMAT);
    assert_int_equal(read_ids(dir, "input_ids", RH_I32, 1, good, &rows, &err), RH_ERR_FORMAT);
    assert_int_equal(read_ids(dir, "ids", RH_I32, 2, good, &rows, &err), RH_ERR_FORMAT);
    assert_null(rows.ids);
}

static void token_rows_come_back(void **state)
{
    struct rh_error err;
    int32_t ids[6] = {0, 99, 5, 7, 7, 1};
    struct rh_token_rows rows = {3, 2, ids}, back;
    char *path = rh_fs_join(*state, "written.safetensors");
    nano_check(rh_token_rows_write(path, &rows, &err), &err);
    nano_check(rh_token_rows_read(path, 100, &back, &err), &err);
    assert_true(back.samples == 3 && back.seq == 2);
    assert_memory_equal(back.ids, ids, sizeof ids);
    rh_token_rows_done(&back);
    rh_free(path);
}

/* A row at a time the source model gives what it gives in batches, and counts the same tokens. */
static void rows_one_by_one_are_the_rows_of_a_batch(void **state)
{
    enum { ROWS = 3, TOKENS = 20 };
    (void)state;
    struct rh_error err;
    struct nano nano;
    struct rh_backend *backend = NULL;
    struct rh_chain batch, one_by_one;
    nano_open(NULL, &nano);
    nano_check(rh_backend_new("cpu", 2, &backend, &err), &err);
    int64_t experts = nano.plan->config.num_experts;
    int64_t *all = rh_alloc_array((size_t)experts, sizeof *all);
    int64_t *each = rh_alloc_array((size_t)(ROWS * experts), sizeof *each);
    nano_embed_made(&nano, backend, false, ROWS, TOKENS, &batch);
    nano_check(rh_chain_new_source(backend, true, ROWS, TOKENS, batch.hidden, &one_by_one, &err),
               &err);
    assert_null(one_by_one.quant);
    rh_backend_copy(backend, one_by_one.fp, batch.fp, rh_chain_bytes(&batch));
    struct rh_block *block = nano_block(&nano, backend, 0, ROWS, TOKENS, false);
    nano_check(rh_forward_source(backend, block, ROWS, &batch, all, NULL, &err), &err);
    nano_check(rh_forward_rows(backend, block, &one_by_one, each, NULL, &err), &err);
    assert_memory_equal(batch.fp, one_by_one.fp, rh_chain_bytes(&batch));
    for (int64_t r = 0; r < ROWS; r++) {
        int64_t routed = 0;
        for (int64_t e = 0; e < experts; e++) {
            routed += each[r * experts + e];
            all[e] -= each[r * experts + e];
        }
        assert_int_equal(routed, TOKENS * nano.plan->config.num_experts_per_tok);
    }
    for (int64_t e = 0; e < experts; e++)
        assert_int_equal(all[e], 0);
    rh_block_free(block);
    rh_chain_done(&batch);
    rh_chain_done(&one_by_one);
    rh_free(all);
    rh_free(each);
    rh_backend_free(backend);
    nano_close(&nano);
}

static void embedding_rows_are_those_of_the_matrix(void **state)
{
    const char *dir = *state;
    struct rh_error err;
    const int64_t shape[] = {4, 2};
    uint16_t matrix[8];
    for (int i = 0; i < 8; i++)
        matrix[i] = rh_f32_to_bf16((float)i * 0.5F);
    char *path = write_tensor(dir, "embed", RH_BF16, 2, shape, matrix, sizeof matrix);
    struct rh_safetensors *head = NULL;
    nano_check(rh_safetensors_open(path, &head, &err), &err);
    int32_t ids[] = {3, 0, 1};
    struct rh_token_rows rows = {1, 3, ids};
    struct rh_chain chain;
    struct rh_backend *backend = NULL;
    nano_check(rh_backend_new("cpu", 1, &backend, &err), &err);
    nano_check(rh_chain_new(backend, false, 1, 3, 2, &chain, &err), &err);
    nano_check(rh_chain_embed(&chain, &rows, head, "embed", &err), &err);
    static const float expected[] = {3.0F, 3.5F, 0.0F, 0.5F, 1.0F, 1.5F};
    assert_memory_equal(chain.fp, expected, sizeof expected);
    assert_memory_equal(chain.quant, expected, sizeof expected);
    ids[2] = 4;
    assert_int_equal(rh_chain_embed(&chain, &rows, head, "embed", &err), RH_ERR_SHAPE);
    assert_int_equal(rh_chain_embed(&chain, &rows, head, "other", &err), RH_ERR_SHAPE);
    rh_chain_done(&chain);
    nano_check(rh_chain_new(backend, false, 1, 3, 4, &chain, &err), &err);
    assert_int_equal(rh_chain_embed(&chain, &rows, head, "embed", &err), RH_ERR_SHAPE);
    rh_chain_done(&chain);
    rh_backend_free(backend);
    rh_safetensors_close(head);
    rh_free(path);
}

static void chains_come_back_verbatim_and_only_for_their_rows(void **state)
{
    struct rh_error err;
    struct rh_chain a;
    struct rh_chain b;
    struct rh_backend *backend = NULL;
    char *path = rh_fs_join(*state, "chain.safetensors");
    nano_check(rh_backend_new("cpu", 1, &backend, &err), &err);
    nano_check(rh_chain_new(backend, false, 3, 2, 4, &a, &err), &err);
    nano_check(rh_chain_new(backend, true, 3, 2, 4, &b, &err), &err);
    for (int i = 0; i < 24; i++) {
        ((float *)a.fp)[i] = (float)i / 7.0F;
        ((float *)a.quant)[i] = -(float)i / 3.0F;
    }
    nano_check(rh_chain_write(&a, path, &err), &err);
    nano_check(rh_chain_read(&b, path, &err), &err);
    assert_memory_equal(a.fp, b.fp, 96);
    assert_memory_equal(a.quant, b.quant, 96);
    rh_chain_done(&b);
    nano_check(rh_chain_new(backend, false, 2, 3, 4, &b, &err), &err);
    assert_int_equal(rh_chain_read(&b, path, &err), RH_ERR_FORMAT);
    assert_int_equal(rh_chain_new(backend, false, INT64_C(1) << 40, INT64_C(1) << 40, 4,
                                  &(struct rh_chain){0}, &err),
                     RH_ERR_NO_MEMORY);
    rh_chain_done(&a);
    rh_chain_done(&b);
    rh_backend_free(backend);
    rh_free(path);
}

/* Reads a linear back and makes weights of it; they are the ones the block runs on. */
static void check_linear(const struct rh_safetensors *file, const struct rh_block *block, size_t i,
                         const struct rh_tuned_linear *q)
{
    static const char *const parts[] = {"codes", "scales", "zeros"};
    struct rh_error err;
    void *data[3] = {NULL, NULL, NULL};
    for (int k = 0; k < (q->scheme.sym ? 2 : 3); k++) {
        char *name = rh_format("%s.%s", q->linear->name, parts[k]);
        const struct rh_tensor_info *info = rh_safetensors_find(file, name);
        if (!info)
            fail_msg("no %s", name);
        assert_int_equal(info->dtype, k == 1 ? RH_F16 : RH_U8);
        assert_int_equal(info->shape[0], q->out_features);
        assert_int_equal(info->shape[1],
                         k == 0 ? rh_codes_row_bytes(q->in_features, q->scheme.bits)
                                : rh_scheme_groups(&q->scheme, q->in_features));
        data[k] = rh_alloc(info->bytes);
        nano_check(rh_safetensors_read(file, info, 0, info->bytes, data[k], &err), &err);
        rh_free(name);
    }
    size_t n = (size_t)(q->out_features * q->in_features);
    uint8_t *codes = rh_alloc(n);
    float *weights = rh_alloc_array(n, sizeof *weights);
    rh_codes_load(data[0], q->out_features, q->in_features, q->scheme.bits, codes);
    rh_dequantize(codes, data[1], data[2], q->out_features, q->in_features,
                  rh_scheme_group(&q->scheme, q->in_features), q->scheme.bits, weights);
    const float *runs_on = rh_block_arenas(block)->weights_q;
    assert_memory_equal(weights, runs_on + rh_block_linear_at(block, i)->at, n * sizeof *weights);
    rh_free(codes);
    rh_free(weights);
    for (int k = 0; k < 3; k++)
        rh_free(data[k]);
}

static void check_block_file(const char *dir, const char *const *recipe)
{
    struct rh_error err;
    struct nano nano;
    struct rh_backend *backend = NULL;
    struct rh_block *block = NULL;
    struct rh_tuner *tuner = NULL;
    struct rh_safetensors *file = NULL;
    struct rh_tune_options options = {.rows = 1, .batch_size = 1};
    struct rh_tune_data data = {0};
    struct rh_tune_result result;
    char *path = rh_fs_join(dir, "block.safetensors");
    nano_open(recipe, &nano);
    const struct rh_unit *unit = rh_model_plan_block(nano.plan, 3);
    nano_check(rh_backend_new("cpu", 1, &backend, &err), &err);
    nano_check(rh_block_new(backend, &nano.plan->config, unit, nano.weights, &block, &err), &err);
    nano_check(rh_block_reserve(block, 1, 1, false, &err), &err);
    nano_check(rh_tuner_new(backend, block, &options, 1, 128, &tuner, &err), &err);
    nano_check(rh_tune_block(tuner, &data, NULL, NULL, &result, &err), &err);
    struct rh_tuned tuned;
    nano_check(rh_tuned_take(tuner, &tuned, &err), &err);
    nano_check(rh_block_file_write(path, &tuned, &err), &err);
    nano_check(rh_safetensors_open(path, &file, &err), &err);
    assert_true(tuned.count > 24 && tuned.count == rh_block_linear_count(block));
    assert_int_equal(rh_safetensors_count(file),
                     tuned.count * (tuned.linears[0].scheme.sym ? 2U : 3U));
    for (size_t i = 0; i < tuned.count; i++)
        check_linear(file, block, i, &tuned.linears[i]);
    rh_tuned_done(&tuned);
    rh_safetensors_close(file);
    rh_tuner_free(tuner);
    rh_block_free(block);
    rh_backend_free(backend);
    nano_close(&nano);
    rh_free(path);
}

static void a_block_file_holds_the_weights_that_the_block_runs_on(void **state)
{
    static const char *const asym[] = {"quant.sym=false", "quant.group_size=32", NULL};
    static const char *const wide[] = {"quant.bits=8", "quant.group_size=-1", NULL};
    static const char *const narrow[] = {"quant.bits=3", "quant.ignore_layers=[\"q_proj\"]", NULL};
    check_block_file(*state, NULL);
    check_block_file(*state, asym);
    check_block_file(*state, wide);
    check_block_file(*state, narrow);
}

static void a_report_counts_experts_and_names_the_untuned(void **state)
{
    (void)state;
    const int64_t tokens[4] = {5, 0, 2, 1};
    const int64_t reached[4] = {9, 0, 0, 3};
    struct rh_block_report report = {.block = 2, .iters = 7, .result = {0.5, 0.25, 6},
                                     .final_loss = 0.375, .linears = 12, .experts = 4,
                                     .expert_floor = 2, .backend = "cuda", .device = "a GPU",
                                     .batch_size = 4, .tokens = tokens, .reached = reached};
    struct rh_json *json = rh_block_report_json(&report);
    char *text = rh_json_canonical(json);
    assert_string_equal(text, "{\"backend\":\"cuda\",\"batch_size\":4,\"best_iter\":6,"
                              "\"best_loss\":0.25,\"block\":2,\"device\":\"a GPU\",\"experts\":"
                              "{\"below_floor\":[1,3],\"floor\":2,\"tokens\":[5,0,2,1],"
                              "\"untuned\":[1,2],\"without_tokens\":1},"
                              "\"final_loss\":0.375,\"init_loss\":0.5,\"iters\":7,\"linears\":12}");
    rh_free(text);
    rh_json_free(json);
    json = rh_block_report_metrics(&report, 1.5);
    assert_true(rh_json_number(rh_json_get(json, "seconds"), 0.0) == 1.5);
    text = rh_json_canonical(rh_json_get(json, "experts"));
    assert_string_equal(text, "{\"below_floor\":2,\"count\":4,\"floor\":2,\"tokens_median\":1,"
                              "\"tokens_min\":0,\"without_tokens\":1}");
    rh_free(text);
    rh_json_free(json);
    report.iters = 0;
    report.device = NULL;
    json = rh_block_report_json(&report);
    assert_null(rh_json_get(json, "device"));
    assert_true(rh_json_number(rh_json_get(json, "best_loss"), 0.0) == 0.375);
    rh_json_free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(token_rows_are_checked_against_the_vocabulary),
        cmocka_unit_test(token_rows_come_back),
        cmocka_unit_test(rows_one_by_one_are_the_rows_of_a_batch),
        cmocka_unit_test(embedding_rows_are_those_of_the_matrix),
        cmocka_unit_test(chains_come_back_verbatim_and_only_for_their_rows),
        cmocka_unit_test(a_block_file_holds_the_weights_that_the_block_runs_on),
        cmocka_unit_test(a_report_counts_experts_and_names_the_untuned),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
