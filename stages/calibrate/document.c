#include "document.h"

#include <string.h>

#include "base/json.h"
#include "base/mem.h"

/* Python's str.isspace(), as UTF-8 that ends at `end`; 0: the last character is none. */
static size_t white_at_end(const char *text, size_t end)
{
    static const char *const wide[] = {
        "\xC2\x85",     "\xC2\xA0",     "\xE1\x9A\x80", "\xE2\x80\x80", "\xE2\x80\x81",
        "\xE2\x80\x82", "\xE2\x80\x83", "\xE2\x80\x84", "\xE2\x80\x85", "\xE2\x80\x86",
        "\xE2\x80\x87", "\xE2\x80\x88", "\xE2\x80\x89", "\xE2\x80\x8A", "\xE2\x80\xA8",
        "\xE2\x80\xA9", "\xE2\x80\xAF", "\xE2\x81\x9F", "\xE3\x80\x80"};
    unsigned char last = end > 0 ? (unsigned char)text[end - 1] : 'x';
    if ((last >= 9 && last <= 13) || (last >= 28 && last <= 32))
        return 1;
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) {
        size_t n = strlen(wide[i]);
        if (n <= end && memcmp(text + end - n, wide[i], n) == 0)
            return n;
    }
    return 0;
}

size_t rh_document_stripped(const char *text, size_t size)
{
    for (size_t n = white_at_end(text, size); n > 0; n = white_at_end(text, size))
        size -= n;
    return size;
}

static const struct rh_json *member_of(const struct rh_json *document, const char *column)
{
    if (rh_json_type(document) != RH_JSON_OBJECT)
        return document;
    if (!column && rh_json_count(document) == 1)
        return rh_json_first(document);
    return rh_json_get(document, column ? column : "text");
}

enum rh_rc rh_document_text(const struct rh_json *document, const char *column, const char *what,
                            const char **out, struct rh_error *err)
{
    *out = rh_json_string(member_of(document, column));
    if (*out)
        return RH_OK;
    if (rh_json_get(document, "messages"))
        return rh_fail(err, RH_ERR_UNSUPPORTED,
                       "%s: \"messages\" is a conversation, which only the model's chat template "
                       "turns into text; render it first (tokenizer.apply_chat_template(messages, "
                       "tokenize=False)) and store the result as \"text\"",
                       what);
    return rh_fail(err, RH_ERR_FORMAT,
                   "%s: no text; a document must be a string or an object with the member \"%s\"",
                   what, column ? column : "text");
}

enum rh_rc rh_document_from_json(const char *line, size_t size, const char *column,
                                 const char *what, char **out, struct rh_error *err)
{
    struct rh_json *document = NULL;
    const char *text = NULL;
    enum rh_rc rc = rh_json_parse(line, size, what, &document, err);
    *out = NULL;
    if (rc != RH_OK)
        return rh_error_prefix(err, "a data set must be JSON Lines");
    rc = rh_document_text(document, column, what, &text, err);
    if (rc == RH_OK)
        *out = rh_strdup(text);
    rh_json_free(document);
    return rc;
}
