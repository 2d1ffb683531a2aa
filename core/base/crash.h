#ifndef RH_BASE_CRASH_H
#define RH_BASE_CRASH_H

/*
 * For fault tests: RH_CRASH_AT=<point>[:n[:file]] kills the process (SIGKILL) when it comes to the
 * point of that name for the n-th time (default: the first). With a file, only the process that is
 * able to create it dies, so that what is started again with the same environment lives. Several,
 * at most 32, are separated by commas. Thread safe. The points are named where they stand;
 * tests/fault/kills.py visits all of them.
 */
void rh_crash_point(const char *point);

#endif
