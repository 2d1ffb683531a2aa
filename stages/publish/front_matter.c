#include "front_matter.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

#define TAG_MAX  64
#define TAGS_MAX 64
#define KEPT_MAX 8192

static const char *const kept_keys[] = {"license",  "license_name", "license_link",
                                        "language", "pipeline_tag", NULL};

/* Length without the line's end. */
static size_t line_size(const char *line)
{
    size_t size = strcspn(line, "\n");
    return size > 0 && line[size - 1] == '\r' ? size - 1 : size;
}

static const char *next_line(const char *line)
{
    const char *end = strchr(line, '\n');
    return end ? end + 1 : NULL;
}

static bool is_fence(const char *line)
{
    return line_size(line) == 3 && strncmp(line, "---", 3) == 0;
}

static bool is_plain(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (iscntrl((unsigned char)text[i]))
            return false;
    }
    return true;
}

static bool has_key(const char *line, const char *key)
{
    size_t size = strlen(key);
    return strncmp(line, key, size) == 0 && line[size] == ':';
}

static bool is_kept(const char *line)
{
    for (size_t i = 0; kept_keys[i]; i++) {
        if (has_key(line, kept_keys[i]))
            return true;
    }
    return false;
}

/* An entry goes on while lines are indented or are items of its list. */
static bool goes_on(const char *line)
{
    return line[0] == ' ' || line[0] == '-' || line[0] == '#';
}

/* One tag as a list item; quotes go, and with them everything that would need them. */
static void add_tag(struct rh_strbuf *tags, const char *text, size_t size)
{
    while (size > 0 && strchr(" \"'", text[0])) {
        text++;
        size--;
    }
    while (size > 0 && strchr(" \"'", text[size - 1]))
        size--;
    if (size == 0 || size > TAG_MAX || tags->size > (size_t)TAG_MAX * TAGS_MAX)
        return;
    for (size_t i = 0; i < size; i++) {
        if (!isalnum((unsigned char)text[i]) && !strchr("-_.:/", text[i]))
            return;
    }
    rh_strbuf_puts(tags, "- ");
    rh_strbuf_append(tags, text, size);
    rh_strbuf_puts(tags, "\n");
}

/* "tags: [a, b]" */
static void add_inline_tags(struct rh_strbuf *tags, const char *line, size_t size)
{
    const char *text = memchr(line, '[', size);
    const char *end = line + size;
    if (!text)
        return;
    for (text++; text < end && *text != ']';) {
        size_t length = 0;
        while (text + length < end && text[length] != ',' && text[length] != ']')
            length++;
        add_tag(tags, text, length);
        text += length;
        if (text < end && *text == ',')
            text++;
    }
}

static void add_item(struct rh_strbuf *tags, const char *line, size_t size)
{
    size_t dash = 0;
    while (dash < size && line[dash] == ' ')
        dash++;
    if (dash + 1 < size && line[dash] == '-')
        add_tag(tags, line + dash + 1, size - dash - 1);
}

void front_matter_keep(const char *card, struct rh_strbuf *kept, struct rh_strbuf *tags)
{
    enum { OTHER, KEPT, TAGS } entry = OTHER;
    if (!card || !is_fence(card))
        return;
    const char *end = next_line(card);
    while (end && !is_fence(end))
        end = next_line(end);
    if (!end)
        return;
    for (const char *line = next_line(card); line < end; line = next_line(line)) {
        size_t size = line_size(line);
        if (!goes_on(line)) {
            entry = is_kept(line) ? KEPT : has_key(line, "tags") ? TAGS : OTHER;
            if (entry == TAGS)
                add_inline_tags(tags, line, size);
        } else if (entry == TAGS) {
            add_item(tags, line, size);
        }
        if (entry == KEPT && is_plain(line, size) && kept->size + size < KEPT_MAX) {
            rh_strbuf_append(kept, line, size);
            rh_strbuf_puts(kept, "\n");
        }
    }
}
