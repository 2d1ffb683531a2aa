#ifndef RH_TESTS_PROC_H
#define RH_TESTS_PROC_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Runs programs as an operator would. A finished run keeps its output; free with proc_done(). */
struct proc {
    pid_t pid;
    int status; /* exit code; 128 + signal when it was killed */
    char *out;  /* standard output */
    char *err;  /* standard error */
    char *base; /* where the two are spooled */
};

/* argv[0] is a program of build/bin ("roundhouse") or a path; the list ends with NULL. Output is
 * spooled to files, so nothing can block. */
void proc_start(struct proc *p, const char *const argv[]);
/* Waits; kills and fails the test after `seconds`. */
void proc_wait(struct proc *p, int seconds);
/* Both. Returns the exit code. */
int proc_run(struct proc *p, int seconds, const char *const argv[]);
void proc_done(struct proc *p);

/* True when the text becomes true within `seconds`; polls every 20 ms. */
bool wait_until(bool (*condition)(void *), void *arg, int seconds);
void sleep_ms(int ms);

/* The pid of the first live process whose command line holds both texts, 0 when there is none. */
pid_t find_process(const char *a, const char *b);

#endif
