#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "ctl/client.h"

/* A server that gives every connection the same bytes, whatever it asks. */
struct server {
    char dir[32];
    char path[64];
    const char *answer;
    int fd;
    pthread_t thread;
};

static void *serve(void *arg)
{
    struct server *s = arg;
    for (;;) {
        char request[8192];
        int fd = accept(s->fd, NULL, NULL);
        if (fd < 0)
            return NULL;
        size_t size = 0;
        request[0] = '\0';
        while (size < sizeof request - 1 && !strstr(request, "\r\n\r\n")) {
            ssize_t n = read(fd, request + size, sizeof request - 1 - size);
            if (n <= 0)
                break;
            size += (size_t)n;
            request[size] = '\0';
        }
        ssize_t sent = write(fd, s->answer, strlen(s->answer));
        (void)sent;
        close(fd);
    }
}

static void start(struct server *s, const char *answer)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    *s = (struct server){.answer = answer};
    snprintf(s->dir, sizeof s->dir, "/tmp/rh-client-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    snprintf(s->path, sizeof s->path, "%s/api.sock", s->dir);
    snprintf(at.sun_path, sizeof at.sun_path, "%s", s->path);
    s->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(s->fd, (const struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(s->fd, 8), 0);
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void stop(struct server *s)
{
    shutdown(s->fd, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->fd);
    struct rh_error err;
    assert_int_equal(rh_fs_remove_tree(s->dir, &err), RH_OK);
}

static enum rh_rc ask(const char *answer, struct rh_json **out, struct rh_error *err)
{
    struct server s;
    start(&s, answer);
    struct rh_client *client = rh_client_new(s.path);
    enum rh_rc rc = rh_client_call(client, "GET", "/v1/jobs", NULL, out, err);
    rh_client_free(client);
    stop(&s);
    return rc;
}

static void an_answer_is_a_document(void **state)
{
    (void)state;
    struct rh_json *json = NULL;
    struct rh_error err;
    assert_int_equal(ask("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"a\": 1}", &json, &err),
                     RH_OK);
    assert_true(rh_json_number(rh_json_get(json, "a"), 0) == 1);
    rh_json_free(json);
}

static void problems_keep_their_words_and_get_the_code_of_their_status(void **state)
{
    (void)state;
    static const struct {
        int status;
        enum rh_rc rc;
    } cases[] = {{400, RH_ERR_ARGUMENT},  {401, RH_ERR_AUTH},    {403, RH_ERR_AUTH},
                 {404, RH_ERR_NOT_FOUND}, {409, RH_ERR_EXISTS},  {413, RH_ERR_ARGUMENT},
                 {500, RH_ERR_INTERNAL},  {503, RH_ERR_TIMEOUT}, {507, RH_ERR_NO_SPACE}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rh_json *json = NULL;
        struct rh_error err;
        static const char body[] = "{\"detail\":\"no such job\",\"hint\":\"list them\"}";
        char *answer = rh_format("HTTP/1.1 %d X\r\nContent-Length: %zu\r\n\r\n%s", cases[i].status,
                                 sizeof body - 1, body);
        assert_int_equal(ask(answer, &json, &err), cases[i].rc);
        assert_string_equal(err.message, "no such job; list them");
        assert_null(json);
        rh_free(answer);
    }
}

static void nonsense_is_refused(void **state)
{
    (void)state;
    struct rh_json *json = NULL;
    struct rh_error err;
    assert_int_equal(ask("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", &json, &err),
                     RH_ERR_PROTOCOL);
    assert_int_equal(ask("HTTP/1.1 404 X\r\nContent-Length: 3\r\n\r\nabc", &json, &err),
                     RH_ERR_NOT_FOUND);
    assert_non_null(strstr(err.message, "404"));
    assert_int_equal(ask("HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n{}", &json, &err),
                     RH_ERR_REMOTE);
    assert_int_equal(ask("", &json, &err), RH_ERR_REMOTE);
    assert_null(json);
}

static void nobody_there_says_what_to_do(void **state)
{
    (void)state;
    struct rh_json *json = NULL;
    struct rh_error err;
    struct rh_client *client = rh_client_new("/tmp/no/such/api.sock");
    assert_int_equal(rh_client_call(client, "GET", "/healthz", NULL, &json, &err), RH_ERR_REMOTE);
    assert_non_null(strstr(err.message, "/tmp/no/such/api.sock"));
    assert_non_null(strstr(err.message, "roundhoused --spawn"));
    rh_client_free(client);
}

static void collect(void *arg, const char *name, const char *data)
{
    rh_strbuf_printf(arg, "%s=%s;", name, data);
}

static void a_stream_hands_over_what_came_and_says_when_it_ended(void **state)
{
    (void)state;
    struct server s;
    struct rh_strbuf got = {0};
    struct rh_sse sse = {.on_event = collect, .arg = &got};
    start(&s, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
              "id: 1-1\nevent: job\ndata: a\n\nid: 1-2\ndata: b\n\n");
    struct rh_client *client = rh_client_new(s.path);
    rh_client_stream(client, "/v1/stream", &sse);
    for (int i = 0; i < 100 && rh_client_stream_turn(client, 100); i++)
        ;
    assert_string_equal(got.text, "job=a;message=b;");
    assert_string_equal(sse.id.text, "1-2");
    assert_false(rh_client_stream_turn(client, 1));
    rh_client_free(client);
    stop(&s);
    rh_sse_done(&sse);
    rh_strbuf_done(&got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_is_a_document),
        cmocka_unit_test(problems_keep_their_words_and_get_the_code_of_their_status),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(nobody_there_says_what_to_do),
        cmocka_unit_test(a_stream_hands_over_what_came_and_says_when_it_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
