#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "json_cjson.h"

struct style {
    bool indented;
    bool sorted;
};

static void print_node(struct rh_strbuf *b, const struct style *style, const cJSON *node,
                       int depth);

static void print_string(struct rh_strbuf *b, const char *text)
{
    static const char *const names[] = {
        ['\b'] = "\\b", ['\f'] = "\\f", ['\n'] = "\\n", ['\r'] = "\\r",
        ['\t'] = "\\t", ['"'] = "\\\"", ['\\'] = "\\\\"};
    rh_strbuf_puts(b, "\"");
    const char *from = text;
    for (const char *p = text; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        rh_strbuf_append(b, from, (size_t)(p - from));
        if (c < sizeof names / sizeof names[0] && names[c])
            rh_strbuf_puts(b, names[c]);
        else
            rh_strbuf_printf(b, "\\u%04x", (unsigned)c);
        from = p + 1;
    }
    rh_strbuf_puts(b, from);
    rh_strbuf_puts(b, "\"");
}

/* The fewest digits that read back as the same number. */
static void print_number(struct rh_strbuf *b, double value)
{
    if (!isfinite(value)) {
        rh_strbuf_puts(b, "null"); /* JSON has no other word for it */
        return;
    }
    if (fabs(value) < 1e15 && value == floor(value)) {
        rh_strbuf_printf(b, "%lld", (long long)value);
        return;
    }
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    rh_strbuf_puts(b, text);
}

static void new_line(struct rh_strbuf *b, const struct style *style, int depth)
{
    if (style->indented)
        rh_strbuf_printf(b, "\n%*s", 2 * depth, "");
}

static int by_key(const void *a, const void *b)
{
    return strcmp((*(const cJSON *const *)a)->string, (*(const cJSON *const *)b)->string);
}

static void print_children(struct rh_strbuf *b, const struct style *style, const cJSON *node,
                           int depth)
{
    bool object = cJSON_IsObject(node);
    size_t count = (size_t)cJSON_GetArraySize(node);
    const cJSON **children = rh_alloc_array(count, sizeof *children);
    size_t filled = 0;
    for (const cJSON *c = node->child; c; c = c->next)
        children[filled++] = c;
    if (object && style->sorted && count > 1)
        qsort(children, count, sizeof *children, by_key);
    for (size_t i = 0; i < count; i++) {
        if (i > 0)
            rh_strbuf_puts(b, ",");
        new_line(b, style, depth + 1);
        if (object) {
            print_string(b, children[i]->string);
            rh_strbuf_puts(b, style->indented ? ": " : ":");
        }
        print_node(b, style, children[i], depth + 1);
    }
    rh_free(children);
    if (count > 0)
        new_line(b, style, depth);
}

static void print_node(struct rh_strbuf *b, const struct style *style, const cJSON *node, int depth)
{
    if (cJSON_IsString(node)) {
        print_string(b, node->valuestring);
    } else if (cJSON_IsNumber(node)) {
        print_number(b, node->valuedouble);
    } else if (cJSON_IsBool(node)) {
        rh_strbuf_puts(b, cJSON_IsTrue(node) ? "true" : "false");
    } else if (cJSON_IsArray(node) || cJSON_IsObject(node)) {
        bool object = cJSON_IsObject(node);
        rh_strbuf_puts(b, object ? "{" : "[");
        print_children(b, style, node, depth);
        rh_strbuf_puts(b, object ? "}" : "]");
    } else {
        rh_strbuf_puts(b, "null");
    }
}

static char *print(const struct rh_json *node, const struct style *style)
{
    struct rh_strbuf b = {0};
    print_node(&b, style, cjson_of_const(node), 0);
    return rh_strbuf_take(&b);
}

char *rh_json_text(const struct rh_json *node, bool indented)
{
    return print(node, &(struct style){indented, false});
}

char *rh_json_canonical(const struct rh_json *node)
{
    return print(node, &(struct style){false, true});
}

enum rh_rc rh_json_write(const char *path, const struct rh_json *node, struct rh_error *err)
{
    struct rh_strbuf b = {0};
    print_node(&b, &(struct style){true, false}, cjson_of_const(node), 0);
    rh_strbuf_puts(&b, "\n");
    enum rh_rc rc = rh_fs_write(path, b.text, b.size, err);
    rh_strbuf_done(&b);
    return rc;
}
