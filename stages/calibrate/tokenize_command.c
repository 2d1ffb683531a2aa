#include "tokenize_command.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/strbuf.h"
#include "daemon/daemon.h"
#include "text/tokenizer.h"

#define CHUNK ((size_t)1 << 20)

static enum rh_rc read_input(struct rh_strbuf *text, struct rh_error *err)
{
    char *chunk = rh_alloc(CHUNK);
    size_t n = 0;
    while ((n = fread(chunk, 1, CHUNK, stdin)) > 0)
        rh_strbuf_append(text, chunk, n);
    rh_free(chunk);
    return ferror(stdin) ? rh_fail(err, RH_ERR_IO, "could not read standard input") : RH_OK;
}

static void print_ids(const struct rh_ids *ids, bool json)
{
    fputs(json ? "[" : "", stdout);
    for (size_t i = 0; i < ids->count; i++)
        printf("%s%" PRId32, i == 0 ? "" : json ? ", " : " ", ids->ids[i]);
    puts(json ? "]" : "");
}

static enum rh_rc tokenize(const char *path, const char *pattern, bool json, struct rh_error *err)
{
    struct rh_strbuf text = {0};
    struct rh_ids ids = {0};
    struct rh_tokenizer *tokenizer = NULL;
    enum rh_rc rc = rh_tokenizer_load(path, pattern, &tokenizer, err);
    if (rc == RH_OK)
        rc = read_input(&text, err);
    if (rc == RH_OK)
        rc = rh_tokenizer_encode(tokenizer, text.text ? text.text : "", text.size, 0, &ids, err);
    if (rc == RH_OK)
        print_ids(&ids, json);
    rh_ids_done(&ids);
    rh_strbuf_done(&text);
    rh_tokenizer_free(tokenizer);
    return rc;
}

int rh_tokenize_command(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "tokenize") != 0)
        return -1;
    const char *json = NULL;
    const char *pattern = NULL;
    const char *path = NULL;
    int count = 0;
    const struct rh_option options[] = {
        {.name = "json", .help = "print a JSON list", .value = &json},
        {.name = "pattern",
         .argument = "REGEX",
         .help = "split by this regex instead of the file's",
         .value = &pattern},
        {0},
    };
    struct rh_error err;
    enum rh_rc rc = rh_options_parse(argc - 1, argv + 1, options, &path, 1, &count, &err);
    if (rc == RH_OK && count != 1)
        rc = rh_fail(
            &err, RH_ERR_ARGUMENT,
            "usage: rh-calibrate tokenize TOKENIZER_JSON [--json] [--pattern REGEX] < TEXT");
    if (rc == RH_OK)
        rc = tokenize(path, pattern, json != NULL, &err);
    if (rc == RH_OK)
        return RH_EXIT_OK;
    fprintf(stderr, "roundhouse: %s\n", err.message);
    return rh_exit_code(&err);
}
