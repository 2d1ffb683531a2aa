#ifndef RH_BASE_LOG_H
#define RH_BASE_LOG_H

#include "error.h"

/*
 * One line per event on stderr: time, level, program, fixed event name, then key=value pairs.
 * Libraries do not log above debug; daemons do. RH_LOG = error|warn|info|debug (default info).
 * Anything that looks like a hub token (hf_...) is masked.
 */
enum rh_log_level { RH_LOG_ERROR, RH_LOG_WARN, RH_LOG_INFO, RH_LOG_DEBUG };

void rh_log_init(const char *program); /* copied; call once from main */
void rh_log_set_level(enum rh_log_level level);
/* event: fixed name such as "task.done"; format: the key=value part, "" for none. */
void rh_log(enum rh_log_level level, const char *event, const char *format, ...) RH_PRINTF(3, 4);

#endif
