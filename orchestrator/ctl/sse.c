#include <string.h>

#include "ctl/sse.h"

static void empty(struct rh_strbuf *b)
{
    b->size = 0;
    if (b->text)
        b->text[0] = '\0';
}

static const char *text_of(const struct rh_strbuf *b)
{
    return b->text ? b->text : "";
}

static void dispatch(struct rh_sse *sse)
{
    if (sse->data.size > 0) {
        sse->data.text[--sse->data.size] = '\0'; /* the line feed after the last line */
        sse->on_event(sse->arg, sse->name.size ? sse->name.text : "message", text_of(&sse->data));
    }
    empty(&sse->data);
    empty(&sse->name);
}

static void take_line(struct rh_sse *sse)
{
    const char *line = text_of(&sse->line);
    size_t name_size = strcspn(line, ":");
    if (!*line) {
        dispatch(sse);
        return;
    }
    const char *value = line + name_size;
    if (*value == ':')
        value++;
    if (*value == ' ')
        value++;
    if (name_size == 4 && memcmp(line, "data", 4) == 0) {
        rh_strbuf_puts(&sse->data, value);
        rh_strbuf_append(&sse->data, "\n", 1);
    } else if (name_size == 5 && memcmp(line, "event", 5) == 0) {
        empty(&sse->name);
        rh_strbuf_puts(&sse->name, value);
    } else if (name_size == 2 && memcmp(line, "id", 2) == 0) {
        empty(&sse->id);
        rh_strbuf_puts(&sse->id, value);
    }
    /* A comment has an empty field name; other fields mean nothing here. */
}

bool rh_sse_feed(struct rh_sse *sse, const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        bool line_feed = bytes[i] == '\n';
        bool carriage = bytes[i] == '\r';
        bool second_half = line_feed && sse->carriage;
        sse->carriage = carriage;
        if (second_half)
            continue;
        if (line_feed || carriage) {
            take_line(sse);
            empty(&sse->line);
            continue;
        }
        if (bytes[i] == '\0' || sse->line.size + sse->data.size >= RH_SSE_MAX)
            return false;
        rh_strbuf_append(&sse->line, &bytes[i], 1);
    }
    return true;
}

void rh_sse_restart(struct rh_sse *sse)
{
    empty(&sse->line);
    empty(&sse->data);
    empty(&sse->name);
    sse->carriage = false;
}

void rh_sse_done(struct rh_sse *sse)
{
    rh_strbuf_done(&sse->line);
    rh_strbuf_done(&sse->data);
    rh_strbuf_done(&sse->name);
    rh_strbuf_done(&sse->id);
}
