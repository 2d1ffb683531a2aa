#include "tokenize_command.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/strbuf.h"
#include "daemon/daemon.h"
#include "document.h"
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

struct command {
    const char *json, *jsonl, *pattern; /* NULL: not given */
    struct rh_tokenizer *tokenizer;
    struct rh_ids ids;
};

static enum rh_rc tokenize_text(struct command *c, const char *text, size_t size,
                                struct rh_error *err)
{
    c->ids.count = 0;
    enum rh_rc rc = rh_tokenizer_encode(c->tokenizer, text, size, 0, &c->ids, err);
    if (rc == RH_OK)
        print_ids(&c->ids, c->json != NULL);
    return rc;
}

/* A line of ids for every document. */
static enum rh_rc tokenize_lines(struct command *c, const char *text, size_t size,
                                 struct rh_error *err)
{
    enum rh_rc rc = RH_OK;
    const char *end = text + size;
    for (int64_t number = 1; rc == RH_OK && text < end; number++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        char *what = rh_format("line %" PRId64 " of standard input", number);
        char *document = NULL;
        stop = stop ? stop : end;
        rc = rh_document_from_json(text, (size_t)(stop - text), NULL, what, &document, err);
        if (rc == RH_OK)
            rc = tokenize_text(c, document, strlen(document), err);
        rh_free(document);
        rh_free(what);
        text = stop + 1;
    }
    return rc;
}

static enum rh_rc tokenize(struct command *c, const char *path, struct rh_error *err)
{
    struct rh_strbuf text = {0};
    enum rh_rc rc = rh_tokenizer_load(path, c->pattern, &c->tokenizer, err);
    if (rc == RH_OK)
        rc = read_input(&text, err);
    if (rc == RH_OK)
        rc = (c->jsonl ? tokenize_lines : tokenize_text)(c, text.text ? text.text : "", text.size,
                                                         err);
    rh_strbuf_done(&text);
    rh_ids_done(&c->ids);
    rh_tokenizer_free(c->tokenizer);
    return rc;
}

int rh_tokenize_command(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "tokenize") != 0)
        return -1;
    struct command command = {0};
    const char *path = NULL;
    const char *help = NULL;
    const char *program = rh_program_name(argv);
    int count = 0;
    const struct rh_option options[] = {
        {.name = "json", .help = "print a JSON list", .value = &command.json},
        {.name = "jsonl",
         .help = "the input is JSON Lines: a line of ids for each document",
         .value = &command.jsonl},
        {.name = "pattern",
         .argument = "REGEX",
         .help = "split by this regex instead of the file's",
         .value = &command.pattern},
        {.name = "help", .help = "show this text", .value = &help},
        {0},
    };
    struct rh_error err;
    enum rh_rc rc = rh_options_parse(argc - 1, argv + 1, options, &path, 1, &count, &err);
    if (rc == RH_OK && help) {
        char *table = rh_options_help(options);
        printf("%s tokenize TOKENIZER_JSON < TEXT\n\nPrints the token ids of the text.\n\n%s",
               program, table);
        rh_free(table);
        return RH_EXIT_OK;
    }
    if (rc == RH_OK && count != 1)
        rc = rh_fail(&err, RH_ERR_ARGUMENT, "tokenize: no TOKENIZER_JSON given; --help says more");
    if (rc == RH_OK)
        rc = tokenize(&command, path, &err);
    if (rc == RH_OK)
        return RH_EXIT_OK;
    fprintf(stderr, "%s: %s\n", program, err.message);
    return rh_exit_code(&err);
}
