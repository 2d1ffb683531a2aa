#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum rh_failure class_of(enum rh_rc rc)
{
    switch (rc) {
    case RH_ERR_NO_SPACE:
    case RH_ERR_NO_MEMORY:
        return RH_FAILURE_RESOURCE;
    case RH_ERR_TIMEOUT:
    case RH_ERR_REMOTE:
    case RH_ERR_DEVICE:
        return RH_FAILURE_TRANSIENT;
    case RH_ERR_CANCELLED:
        return RH_FAILURE_CANCELLED;
    default:
        return RH_FAILURE_PERMANENT;
    }
}

static void fill(struct rh_error *err, enum rh_rc rc, const char *file, int line,
                 const char *format, va_list args)
{
    err->rc = rc;
    err->failure = class_of(rc);
    err->file = file;
    err->line = line;
    vsnprintf(err->message, sizeof(err->message), format, args);
}

enum rh_rc rh_error_set(struct rh_error *err, enum rh_rc rc, const char *file, int line,
                        const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        fill(err, rc, file, line, format, args);
        va_end(args);
    }
    return rc;
}

static enum rh_rc rc_of_errno(int errnum)
{
    switch (errnum) {
    case ENOSPC:
    case EDQUOT:
        return RH_ERR_NO_SPACE;
    case ENOENT:
        return RH_ERR_NOT_FOUND;
    case EEXIST:
        return RH_ERR_EXISTS;
    case ENOMEM:
        return RH_ERR_NO_MEMORY;
    case EACCES:
    case EPERM:
        return RH_ERR_AUTH;
    default:
        return RH_ERR_IO;
    }
}

enum rh_rc rh_error_set_errno(struct rh_error *err, int errnum, const char *file, int line,
                              const char *format, ...)
{
    enum rh_rc rc = rc_of_errno(errnum);
    if (err) {
        va_list args;
        va_start(args, format);
        fill(err, rc, file, line, format, args);
        va_end(args);
        size_t used = strlen(err->message);
        char text[128];
        if (strerror_r(errnum, text, sizeof(text)) != 0)
            snprintf(text, sizeof(text), "error %d", errnum);
        snprintf(err->message + used, sizeof(err->message) - used, ": %s", text);
    }
    return rc;
}

enum rh_rc rh_error_prefix(struct rh_error *err, const char *format, ...)
{
    if (!err)
        return RH_ERR_INTERNAL;
    char old[sizeof(err->message)];
    memcpy(old, err->message, sizeof(old));
    va_list args;
    va_start(args, format);
    vsnprintf(err->message, sizeof(err->message), format, args);
    va_end(args);
    size_t used = strlen(err->message);
    snprintf(err->message + used, sizeof(err->message) - used, ": %s", old);
    return err->rc;
}

const char *rh_rc_name(enum rh_rc rc)
{
    switch (rc) {
    case RH_OK:
        return "OK";
    case RH_ERR_ARGUMENT:
        return "ARGUMENT";
    case RH_ERR_NO_MEMORY:
        return "NO_MEMORY";
    case RH_ERR_IO:
        return "IO";
    case RH_ERR_FORMAT:
        return "FORMAT";
    case RH_ERR_UNSUPPORTED:
        return "UNSUPPORTED";
    case RH_ERR_NOT_FOUND:
        return "NOT_FOUND";
    case RH_ERR_EXISTS:
        return "EXISTS";
    case RH_ERR_SHAPE:
        return "SHAPE";
    case RH_ERR_DTYPE:
        return "DTYPE";
    case RH_ERR_PROTOCOL:
        return "PROTOCOL";
    case RH_ERR_TIMEOUT:
        return "TIMEOUT";
    case RH_ERR_CANCELLED:
        return "CANCELLED";
    case RH_ERR_REMOTE:
        return "REMOTE";
    case RH_ERR_AUTH:
        return "AUTH";
    case RH_ERR_DEVICE:
        return "DEVICE";
    case RH_ERR_NUMERIC:
        return "NUMERIC";
    case RH_ERR_INTERNAL:
        return "INTERNAL";
    case RH_ERR_NO_SPACE:
        return "NO_SPACE";
    }
    return "UNKNOWN";
}

const char *rh_failure_name(enum rh_failure f)
{
    switch (f) {
    case RH_FAILURE_PERMANENT:
        return "permanent";
    case RH_FAILURE_TRANSIENT:
        return "transient";
    case RH_FAILURE_RESOURCE:
        return "resource";
    case RH_FAILURE_CANCELLED:
        return "cancelled";
    }
    return "unknown";
}

void rh_assert_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, condition);
    abort();
}
