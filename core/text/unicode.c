#include "unicode.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

static bool is_ascii(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if ((unsigned char)text[i] >= 0x80)
            return false;
    }
    return true;
}

enum rh_rc rh_unicode_nfc(const char *text, size_t size, char **out, size_t *out_size,
                          struct rh_error *err)
{
    *out = NULL;
    *out_size = size;
    if (is_ascii(text, size))
        return RH_OK;
    utf8proc_uint8_t *nfc = NULL;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)size, &nfc,
                                      UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (n < 0)
        return rh_fail(err, n == UTF8PROC_ERROR_NOMEM ? RH_ERR_NO_MEMORY : RH_ERR_FORMAT,
                       "normalizing %zu bytes of text: %s", size, utf8proc_errmsg(n));
    *out = (char *)nfc;
    *out_size = (size_t)n;
    return RH_OK;
}

void rh_unicode_free(char *text)
{
    free(text);
}

size_t rh_unicode_white_at_start(const char *text, size_t size)
{
    static const char *const white[] = {" ",
                                        "\t",
                                        "\n",
                                        "\v",
                                        "\f",
                                        "\r",
                                        "\xC2\x85",
                                        "\xC2\xA0",
                                        "\xE1\x9A\x80",
                                        "\xE2\x80\x80",
                                        "\xE2\x80\x81",
                                        "\xE2\x80\x82",
                                        "\xE2\x80\x83",
                                        "\xE2\x80\x84",
                                        "\xE2\x80\x85",
                                        "\xE2\x80\x86",
                                        "\xE2\x80\x87",
                                        "\xE2\x80\x88",
                                        "\xE2\x80\x89",
                                        "\xE2\x80\x8A",
                                        "\xE2\x80\xA8",
                                        "\xE2\x80\xA9",
                                        "\xE2\x80\xAF",
                                        "\xE2\x81\x9F",
                                        "\xE3\x80\x80"};
    for (size_t i = 0; i < sizeof white / sizeof white[0]; i++) {
        size_t n = strlen(white[i]);
        if (n <= size && memcmp(text, white[i], n) == 0)
            return n;
    }
    return 0;
}

static size_t last_character(const char *text, size_t size)
{
    size_t at = size - 1;
    while (at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80)
        at--;
    return at;
}

size_t rh_unicode_white_at_end(const char *text, size_t size)
{
    if (size == 0)
        return 0;
    size_t at = last_character(text, size);
    return rh_unicode_white_at_start(text + at, size - at);
}

/* Other_Alphabetic outside the marks: circled and squared Latin letters. */
static bool is_enclosed_letter(utf8proc_int32_t c)
{
    return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
           (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

bool rh_unicode_word_at_start(const char *text, size_t size)
{
    utf8proc_int32_t c = 0;
    if (size == 0 ||
        utf8proc_iterate((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)size, &c) <= 0)
        return false;
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return c == 0x200C || c == 0x200D || is_enclosed_letter(c);
    }
}

bool rh_unicode_word_at_end(const char *text, size_t size)
{
    if (size == 0)
        return false;
    size_t at = last_character(text, size);
    return rh_unicode_word_at_start(text + at, size - at);
}
