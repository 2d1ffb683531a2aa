#include "ctl/bundle.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/fs.h"
#include "base/mem.h"

enum { RECORD = 512, NAME_MAX_ = 99 };

struct rh_bundle {
    struct rh_out *file;
};

enum rh_rc rh_bundle_open(const char *path, struct rh_bundle **out, struct rh_error *err)
{
    struct rh_bundle *b = rh_alloc(sizeof *b);
    *out = NULL;
    enum rh_rc rc = rh_fs_exists(path) ? rh_fail(err, RH_ERR_EXISTS,
                                                 "%s is there already; name another file", path)
                                       : rh_out_open(path, 0, &b->file, err);
    if (rc != RH_OK) {
        rh_free(b);
        return rc;
    }
    *out = b;
    return RH_OK;
}

/* "hf_" and eight characters or more of a token. */
static void blot_out(char *text, size_t size)
{
    for (size_t i = 0; i + 3 < size; i++) {
        size_t end = i + 3;
        if (memcmp(text + i, "hf_", 3) != 0 ||
            (i > 0 && (isalnum((unsigned char)text[i - 1]) || text[i - 1] == '_')))
            continue;
        while (end < size && isalnum((unsigned char)text[end]))
            end++;
        if (end - i >= 11)
            memset(text + i + 3, '*', end - i - 3);
        i = end - 1;
    }
}

/* POSIX.1-1988: octal numbers, and a sum over the header in which the sum itself is blank. */
static void fill_header(char header[RECORD], const char *name, size_t size)
{
    unsigned sum = 0;
    memset(header, 0, RECORD);
    snprintf(header, 100, "%s", name);
    snprintf(header + 100, 8, "%07o", 0644);
    snprintf(header + 108, 8, "%07o", 0);
    snprintf(header + 116, 8, "%07o", 0);
    snprintf(header + 124, 12, "%011llo", (unsigned long long)size);
    snprintf(header + 136, 12, "%011o", 0);
    memset(header + 148, ' ', 8);
    header[156] = '0';
    memcpy(header + 257, "ustar\00000", 8);
    for (int i = 0; i < RECORD; i++)
        sum += (unsigned char)header[i];
    snprintf(header + 148, 8, "%06o", sum);
}

enum rh_rc rh_bundle_add(struct rh_bundle *b, const char *name, const char *text, size_t size,
                         struct rh_error *err)
{
    static const char zeros[RECORD];
    char header[RECORD];
    if (strlen(name) > NAME_MAX_)
        return rh_fail(err, RH_ERR_ARGUMENT, "%.120s: too long a name for a tar file", name);
    char *copy = rh_alloc(size + 1);
    memcpy(copy, text, size);
    blot_out(copy, size);
    fill_header(header, name, size);
    enum rh_rc rc = rh_out_write(b->file, header, RECORD, err);
    if (rc == RH_OK)
        rc = rh_out_write(b->file, copy, size, err);
    if (rc == RH_OK && size % RECORD != 0)
        rc = rh_out_write(b->file, zeros, RECORD - size % RECORD, err);
    rh_free(copy);
    return rc;
}

enum rh_rc rh_bundle_add_file(struct rh_bundle *b, const char *name, const char *path,
                              size_t max_bytes, struct rh_error *err)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return RH_OK;
    char *text = rh_alloc(max_bytes + 1);
    if (fseek(file, -(long)max_bytes, SEEK_END) != 0)
        rewind(file);
    size_t size = fread(text, 1, max_bytes, file);
    fclose(file);
    enum rh_rc rc = rh_bundle_add(b, name, text, size, err);
    rh_free(text);
    return rc;
}

enum rh_rc rh_bundle_close(struct rh_bundle *b, struct rh_error *err)
{
    static const char end[2 * RECORD];
    enum rh_rc rc = rh_out_write(b->file, end, sizeof end, err);
    if (rc == RH_OK)
        rc = rh_out_commit(b->file, NULL, err);
    else
        rh_out_abort(b->file);
    rh_free(b);
    return rc;
}

void rh_bundle_abort(struct rh_bundle *b)
{
    if (!b)
        return;
    rh_out_abort(b->file);
    rh_free(b);
}
