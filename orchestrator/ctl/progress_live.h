#ifndef RH_CTL_PROGRESS_LIVE_H
#define RH_CTL_PROGRESS_LIVE_H

#include <stdint.h>
#include <stdio.h>

#include "base/json.h"
#include "base/strbuf.h"

/* The status block of a terminal. Zero-initialise and set width. */
struct rh_live {
    int width;
    int lines; /* on the screen now */
    struct rh_live_rate {
        char *key; /* "fetch 3" */
        double done;
        double rate; /* a second, smoothed */
        int64_t at_ns;
    } rates[8];
};

void rh_live_draw(struct rh_live *live, FILE *out, const struct rh_json *job, int64_t now_ns);
void rh_live_wipe(struct rh_live *live, FILE *out);
void rh_live_done(struct rh_live *live);
/* "block 3/40  iteration 231/400  loss 1.190e-02 -> 5.900e-03  58 %  ETA 28m 3s" */
void rh_live_summary(struct rh_strbuf *out, const struct rh_json *job);

#endif
