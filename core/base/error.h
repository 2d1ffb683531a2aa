#ifndef RH_BASE_ERROR_H
#define RH_BASE_ERROR_H

#include <stdbool.h>

/*
 * Errors travel by value: a function that can fail returns enum rh_rc and fills the caller's
 * struct rh_error, which may be NULL. The text is set once, where most is known; callers add
 * context in front of it with rh_error_prefix().
 *
 * Wording: path, offending value, remedy; lower case, no full stop. "could not" may work later,
 * "cannot" never will.
 */
enum rh_rc {
    RH_OK = 0,
    RH_ERR_ARGUMENT = -1,
    RH_ERR_NO_MEMORY = -2,
    RH_ERR_IO = -3,
    RH_ERR_FORMAT = -4,
    RH_ERR_UNSUPPORTED = -5,
    RH_ERR_NOT_FOUND = -6,
    RH_ERR_EXISTS = -7,
    RH_ERR_SHAPE = -8,
    RH_ERR_DTYPE = -9,
    RH_ERR_PROTOCOL = -10,
    RH_ERR_TIMEOUT = -11,
    RH_ERR_CANCELLED = -12,
    RH_ERR_REMOTE = -13,
    RH_ERR_AUTH = -14,
    RH_ERR_DEVICE = -15,
    RH_ERR_NUMERIC = -16,
    RH_ERR_INTERNAL = -17,
    RH_ERR_NO_SPACE = -18,
};

/* What the factory does about it. */
enum rh_failure {
    RH_FAILURE_PERMANENT = 0, /* fail the job, keep the evidence */
    RH_FAILURE_TRANSIENT = 1, /* retry with back-off */
    RH_FAILURE_RESOURCE = 2,  /* disk or memory: park the job, resume when there is room */
    RH_FAILURE_CANCELLED = 3,
};

struct rh_error {
    enum rh_rc rc;
    enum rh_failure failure;
    char message[1024];
    const char *file;
    int line;
};

#define RH_MUST_USE     __attribute__((warn_unused_result))
#define RH_PRINTF(f, a) __attribute__((format(printf, f, a)))

/* Sets *err (NULL allowed) and returns rc. The failure class follows from rc: NO_SPACE and
 * NO_MEMORY are RESOURCE; TIMEOUT, REMOTE and DEVICE are TRANSIENT; the rest is PERMANENT. */
#define rh_fail(err, rc, ...) rh_error_set((err), (rc), __FILE__, __LINE__, __VA_ARGS__)

/* As rh_fail(), but the class and code come from the C library's error number (ENOSPC and EDQUOT
 * become NO_SPACE) and ": <strerror>" is added to the text. */
#define rh_fail_errno(err, errnum, ...)                                                            \
    rh_error_set_errno((err), (errnum), __FILE__, __LINE__, __VA_ARGS__)

enum rh_rc rh_error_set(struct rh_error *err, enum rh_rc rc, const char *file, int line,
                        const char *format, ...) RH_PRINTF(5, 6);
enum rh_rc rh_error_set_errno(struct rh_error *err, int errnum, const char *file, int line,
                              const char *format, ...) RH_PRINTF(5, 6);

/* Puts "<text>: " in front of an error that is already set. Returns err->rc (RH_ERR_INTERNAL
 * when err is NULL). */
enum rh_rc rh_error_prefix(struct rh_error *err, const char *format, ...) RH_PRINTF(2, 3);

const char *rh_rc_name(enum rh_rc rc);          /* "FORMAT" */
const char *rh_failure_name(enum rh_failure f); /* "permanent" */

/* Always on; for our own mistakes only. Prints and aborts. */
#define RH_ASSERT(cond)                                                                            \
    do {                                                                                           \
        if (!(cond))                                                                               \
            rh_assert_failed(#cond, __FILE__, __LINE__);                                           \
    } while (0)

_Noreturn void rh_assert_failed(const char *condition, const char *file, int line);

#endif
