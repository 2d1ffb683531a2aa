#ifndef RH_CTL_INTERRUPT_H
#define RH_CTL_INTERRUPT_H

/* From now on SIGINT, SIGTERM and SIGHUP are counted instead of ending the program, and waiting
 * calls return early. */
void rh_interrupt_catch(void);
int rh_interrupt_count(void);

#endif
