/* Speed of the tokenizer on the documents of a JSON Lines file:
 *   bench_tokenizer TOKENIZER_JSON FILE [ROUNDS]
 * Prints bytes, tokens and the processor seconds of each round; loading is not part of it.
 * tests/bench/tokenizer.py runs it against the `tokenizers` library. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "calibrate/dataset.h"
#include "text/tokenizer.h"

static void check(enum rh_rc rc, const struct rh_error *err)
{
    if (rc != RH_OK) {
        fprintf(stderr, "bench_tokenizer: %s\n", err->message);
        exit(1);
    }
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    struct rh_error err;
    struct rh_tokenizer *tokenizer = NULL;
    struct rh_dataset *d = NULL;
    if (argc < 3) {
        fprintf(stderr, "usage: bench_tokenizer TOKENIZER_JSON FILE [ROUNDS]\n");
        return 2;
    }
    check(rh_tokenizer_load(argv[1], NULL, &tokenizer, &err), &err);
    check(rh_dataset_open(argv[2], NULL, &d, &err), &err);
    size_t count = (size_t)rh_dataset_count(d);
    char **texts = rh_alloc_array(count + 1, sizeof *texts);
    size_t *sizes = rh_alloc_array(count + 1, sizeof *sizes);
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        check(rh_dataset_text(d, (int64_t)i, &texts[i], &sizes[i], &err), &err);
        bytes += sizes[i];
    }
    struct rh_ids ids = {0};
    for (int round = argc > 3 ? atoi(argv[3]) : 1; round > 0; round--) {
        size_t tokens = 0;
        double begin = cpu_seconds();
        for (size_t i = 0; i < count; i++) {
            ids.count = 0;
            check(rh_tokenizer_encode(tokenizer, texts[i], sizes[i], 0, &ids, &err), &err);
            tokens += ids.count;
        }
        printf("%zu bytes, %zu tokens, %.6f s\n", bytes, tokens, cpu_seconds() - begin);
    }
    rh_ids_done(&ids);
    for (size_t i = 0; i < count; i++)
        rh_free(texts[i]);
    rh_free(sizes);
    rh_free(texts);
    rh_dataset_close(d);
    rh_tokenizer_free(tokenizer);
    return 0;
}
