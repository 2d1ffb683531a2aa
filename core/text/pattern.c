#include "pattern.h"

#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/mem.h"
#include "base/strbuf.h"

#define JIT_STACK_MIN (64 * 1024)
#define JIT_STACK_MAX (16 * 1024 * 1024)
#define MATCH_LIMIT   100000000U

/* What \s means to the tokenizers library; PCRE2 adds U+180E. */
#define WHITE                                                                                      \
    "\\x{09}-\\x{0D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}"  \
    "\\x{205F}\\x{3000}"

struct rh_pattern {
    pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

/* Oniguruma, which the tokenizers library uses, reads these differently. */
static bool differs(const char *p, bool in_class)
{
    if (*p == '\\')
        return p[1] && strchr(in_class ? "hHRXS" : "hHRX", p[1]);
    if (in_class)
        return *p == '[' || (p[0] == '&' && p[1] == '&');
    return *p == '^' || *p == '$';
}

/* Spells \s and \S out. */
static enum rh_rc translate(const char *regex, const char *what, struct rh_strbuf *out,
                            struct rh_error *err)
{
    bool in_class = false;
    for (const char *p = regex; *p; p++) {
        if (differs(p, in_class))
            return rh_fail(err, RH_ERR_UNSUPPORTED,
                           "%s: \"%.2s\" %sin the regex %s has no equal in PCRE2", what, p,
                           in_class ? "in a class " : "", regex);
        if (*p == '\\' && (p[1] == 's' || p[1] == 'S')) {
            rh_strbuf_puts(out, in_class ? WHITE : p[1] == 's' ? "[" WHITE "]" : "[^" WHITE "]");
            p++;
        } else if (*p == '\\' && p[1]) {
            rh_strbuf_append(out, p, 2);
            p++;
        } else if (*p == '[') {
            /* A negation sign, and a bracket that comes first, belong to the class. */
            size_t n = 1;
            n += p[n] == '^';
            n += p[n] == ']';
            in_class = true;
            rh_strbuf_append(out, p, n);
            p += n - 1;
        } else {
            in_class = in_class && *p != ']';
            rh_strbuf_append(out, p, 1);
        }
    }
    return RH_OK;
}

static enum rh_rc compile(const char *regex, const char *translated, const char *what,
                          struct rh_pattern *p, struct rh_error *err)
{
    int code = 0;
    PCRE2_SIZE at = 0;
    p->code = pcre2_compile((PCRE2_SPTR)translated, PCRE2_ZERO_TERMINATED,
                            PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);
    if (!p->code) {
        PCRE2_UCHAR text[128];
        pcre2_get_error_message(code, text, sizeof text);
        return rh_fail(err, RH_ERR_UNSUPPORTED, "%s: the regex %s: %s", what, regex,
                       (const char *)text);
    }
    (void)pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE); /* without it, slower and the same */
    p->match = pcre2_match_data_create_from_pattern(p->code, NULL);
    p->context = pcre2_match_context_create(NULL);
    p->stack = pcre2_jit_stack_create(JIT_STACK_MIN, JIT_STACK_MAX, NULL);
    RH_ASSERT(p->match && p->context && p->stack);
    pcre2_set_match_limit(p->context, MATCH_LIMIT);
    pcre2_jit_stack_assign(p->context, NULL, p->stack);
    return RH_OK;
}

enum rh_rc rh_pattern_new(const char *regex, const char *what, struct rh_pattern **out,
                          struct rh_error *err)
{
    struct rh_pattern *p = rh_alloc(sizeof *p);
    struct rh_strbuf translated = {0};
    enum rh_rc rc = translate(regex, what, &translated, err);
    if (rc == RH_OK)
        rc = compile(regex, translated.text ? translated.text : "", what, p, err);
    rh_strbuf_done(&translated);
    *out = rc == RH_OK ? p : NULL;
    if (rc != RH_OK)
        rh_pattern_free(p);
    return rc;
}

void rh_pattern_free(struct rh_pattern *p)
{
    if (!p)
        return;
    pcre2_jit_stack_free(p->stack);
    pcre2_match_context_free(p->context);
    pcre2_match_data_free(p->match);
    pcre2_code_free(p->code);
    rh_free(p);
}

/* The first match from `from` on; begin = end = size when there is none. */
static enum rh_rc next_match(struct rh_pattern *p, const char *text, size_t size, size_t from,
                             size_t *begin, size_t *end, struct rh_error *err)
{
    int rc = pcre2_match(p->code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK, p->match,
                         p->context);
    *begin = *end = size;
    if (rc == PCRE2_ERROR_NOMATCH)
        return RH_OK;
    if (rc < 0) {
        PCRE2_UCHAR why[128];
        pcre2_get_error_message(rc, why, sizeof why);
        return rh_fail(
            err, RH_ERR_FORMAT,
            "splitting the text at byte %zu: %s; the tokenizer's regex cannot cope with it", from,
            (const char *)why);
    }
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(p->match);
    *begin = at[0];
    *end = at[1];
    return RH_OK;
}

static size_t next_character(const char *text, size_t size, size_t at)
{
    do
        at++;
    while (at < size && ((unsigned char)text[at] & 0xC0) == 0x80);
    return at;
}

enum rh_rc rh_pattern_split(struct rh_pattern *p, const char *text, size_t size, rh_piece_fn fn,
                            void *arg, struct rh_error *err)
{
    size_t done = 0;
    size_t from = 0;
    bool stop = false;
    enum rh_rc rc = RH_OK;
    while (done < size && !stop && rc == RH_OK) {
        size_t begin = size;
        size_t end = size;
        if (from < size)
            rc = next_match(p, text, size, from, &begin, &end, err);
        if (rc == RH_OK && begin > done)
            rc = fn(arg, text + done, begin - done, &stop, err);
        if (rc == RH_OK && end > begin && !stop)
            rc = fn(arg, text + begin, end - begin, &stop, err);
        done = end;
        from = end > begin || end == size ? end : next_character(text, size, end);
    }
    return rc;
}
