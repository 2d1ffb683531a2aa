/* One stack per thread of a block, and the switch between them. */
#include <sys/mman.h>
#include <unistd.h>

#include "emu_private.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define THREADS ((size_t)1024)
#define STACK   ((size_t)128 << 10)

static unsigned char *stacks; /* THREADS of them, each above a page that faults */
static void (*entry_of[THREADS])(int);
static int running = -1;

#if defined(__x86_64__)

struct context {
    void *stack;
};
static struct context fibres[THREADS], caller;

/* Keeps what a function must keep, exchanges the stack pointers, returns on the other stack. */
extern "C" void rh_emu_switch(void **save, void *load);
asm(".text\n"
    ".globl rh_emu_switch\n"
    ".hidden rh_emu_switch\n"
    ".type rh_emu_switch,@function\n"
    "rh_emu_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size rh_emu_switch,.-rh_emu_switch\n");

static void switch_to(struct context *from, struct context *to)
{
    rh_emu_switch(&from->stack, to->stack);
}

static void prepare(struct context *c, unsigned char *top, void (*start)())
{
    void **frame = (void **)top;
    *--frame = nullptr; /* start() finds the stack as after a call */
    *--frame = (void *)start;
    for (int i = 0; i < 6; i++)
        *--frame = nullptr;
    c->stack = frame;
}

#else

#include <ucontext.h>

struct context {
    ucontext_t u;
};
static struct context fibres[THREADS], caller;

static void switch_to(struct context *from, struct context *to)
{
    swapcontext(&from->u, &to->u);
}

static void prepare(struct context *c, unsigned char *top, void (*start)())
{
    getcontext(&c->u);
    c->u.uc_stack.ss_sp = top - STACK;
    c->u.uc_stack.ss_size = STACK;
    c->u.uc_link = nullptr;
    makecontext(&c->u, start, 0);
}

#endif

/* AddressSanitizer wants to know whose stack is whose. */
static const void *caller_bottom;
static size_t caller_size;

static void leaving(void **fake, const void *bottom, size_t size)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fake, bottom, size);
#else
    (void)fake, (void)bottom, (void)size;
#endif
}

static void arrived(void *fake, const void **bottom, size_t *size)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, bottom, size);
#else
    (void)fake, (void)bottom, (void)size;
#endif
}

static unsigned char *stack_of(int index)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (!stacks) {
        void *all = mmap(nullptr, THREADS * (STACK + page), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (all == MAP_FAILED)
            rh_emu_die("no memory for the stacks of a block");
        stacks = (unsigned char *)all;
        for (size_t i = 0; i < THREADS; i++) {
            if (mprotect(stacks + i * (STACK + page), page, PROT_NONE) != 0)
                rh_emu_die("no guard below a stack");
        }
    }
    return stacks + (size_t)index * (STACK + page) + page;
}

static void first_step()
{
    arrived(nullptr, &caller_bottom, &caller_size);
    entry_of[running](running);
    rh_emu_die("a fibre went on after its end");
}

static void enter(int index)
{
    void *fake = nullptr;
    running = index;
    leaving(&fake, stack_of(index), STACK);
    switch_to(&caller, &fibres[index]);
    arrived(fake, nullptr, nullptr);
    running = -1;
}

void rh_emu_fibre_start(int index, void (*entry)(int))
{
    entry_of[index] = entry;
    prepare(&fibres[index], stack_of(index) + STACK, first_step);
    enter(index);
}

void rh_emu_fibre_resume(int index)
{
    enter(index);
}

void rh_emu_fibre_pause(bool last)
{
    void *fake = nullptr;
    leaving(last ? nullptr : &fake, caller_bottom, caller_size);
    switch_to(&fibres[running], &caller);
    arrived(fake, &caller_bottom, &caller_size);
}
