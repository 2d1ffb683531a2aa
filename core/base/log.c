#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

static char program_name[32] = "roundhouse";
static enum rh_log_level threshold = RH_LOG_INFO;

static const char *const level_names[] = {"error", "warn", "info", "debug"};

void rh_log_init(const char *program)
{
    snprintf(program_name, sizeof(program_name), "%s", program);
    const char *wanted = getenv("RH_LOG");
    for (int i = 0; wanted && i < 4; i++)
        if (strcmp(wanted, level_names[i]) == 0)
            threshold = (enum rh_log_level)i;
}

void rh_log_set_level(enum rh_log_level level)
{
    threshold = level;
}

/* A hub token is "hf_" and at least eight letters or digits; its tail becomes asterisks. */
static void mask_tokens(char *text)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    for (char *p = text; (p = strstr(p, "hf_"));) {
        p += 3;
        size_t n = strspn(p, alphabet);
        if (n >= 8)
            memset(p, '*', n);
        p += n;
    }
}

void rh_log(enum rh_log_level level, const char *event, const char *format, ...)
{
    if (level > threshold)
        return;
    char line[4096], when[32];
    rh_clock_format(rh_clock_unix_ns(), when);
    int n =
        snprintf(line, sizeof(line), "%s %s %s %s ", when, level_names[level], program_name, event);
    size_t used = n > 0 ? (size_t)n : 0;
    va_list args;
    va_start(args, format);
    vsnprintf(line + used, sizeof(line) - used - 1, format, args);
    va_end(args);
    mask_tokens(line);
    used = strlen(line);
    while (used > 0 && line[used - 1] == ' ')
        used--;
    for (size_t i = 0; i < used; i++)
        if (line[i] == '\n')
            line[i] = ' ';
    line[used] = '\n';
    /* One write, so that lines of several threads and processes do not mix. */
    ssize_t ignored = write(STDERR_FILENO, line, used + 1);
    (void)ignored;
}
