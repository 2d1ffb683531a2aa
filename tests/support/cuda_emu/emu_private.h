#ifndef RH_CUDA_EMU_PRIVATE_H
#define RH_CUDA_EMU_PRIVATE_H

#include <mutex>
#include <vector>

#include "cuda_runtime.h"

/* A mistake in the tested code that no error code could express: prints it and aborts. */
[[noreturn]] __attribute__((format(printf, 1, 2))) void rh_emu_die(const char *format, ...);

/* One device, one thing at a time. */
extern std::recursive_mutex rh_emu_lock;

/* Device memory is readable while one of these lives. */
struct rh_emu_access {
    std::lock_guard<std::recursive_mutex> hold{rh_emu_lock};
    rh_emu_access();
    ~rh_emu_access();
    rh_emu_access(const rh_emu_access &) = delete;
    rh_emu_access &operator=(const rh_emu_access &) = delete;
};

/* Whether all of the bytes belong to one live allocation. */
bool rh_emu_is_device(const void *memory, size_t bytes);
/* Dies when something was written beyond an allocation; `after` says what ran last. */
void rh_emu_check_canaries(const char *after);
/* The device was lost: counts down, and from then on is true. */
bool rh_emu_lost();
void rh_emu_note_error(cudaError_t error);

/* ---- fibres ---- */

/* Runs entry(index) on the stack of that index until it pauses or ends. */
void rh_emu_fibre_start(int index, void (*entry)(int));
void rh_emu_fibre_resume(int index);
/* In a fibre: back to whoever started or resumed it. `last`: the fibre never comes back. */
void rh_emu_fibre_pause(bool last);

/* ---- the running block, for tile_emu.cc ---- */

struct rh_emu_copy {
    void *to;
    const void *from;
    bool valid;
    int group;
};

/* Of the running thread. */
std::vector<rh_emu_copy> *rh_emu_own_copies();

#endif
