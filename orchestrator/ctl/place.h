#ifndef RH_CTL_PLACE_H
#define RH_CTL_PLACE_H

#include <stdbool.h>

#include "base/error.h"

/* Where things are. Every path returned is absolute and owned by the caller. */

/* Absolute and without ".", ".." and double slashes, by name only: nothing need exist. */
char *rh_place_absolute(const char *path);
/* `given` (--state), else $ROUNDHOUSE_STATE, else $XDG_STATE_HOME/roundhouse, else
 * ~/.local/state/roundhouse. */
char *rh_place_state(const char *given);
/* "/out/.name.roundhouse" for the output "/out/name". */
char *rh_place_hidden_state(const char *output);
/*
 * Where the sockets of a state directory are: <state>/run, or, where that is too long for a socket
 * address, a short directory whose name is kept in <state>/run-dir. With `make` the directories
 * come into being; without it a short one that is not there is RH_ERR_REMOTE.
 */
RH_MUST_USE enum rh_rc rh_place_run_dir(const char *state, bool make, char **out,
                                        struct rh_error *err);
/* Removes a short run directory of this state directory, when there is one. */
void rh_place_forget_run_dir(const char *state);
/* Is there anything in the directory? An absent one is empty. */
RH_MUST_USE enum rh_rc rh_place_is_empty(const char *dir, bool *out, struct rh_error *err);

#endif
