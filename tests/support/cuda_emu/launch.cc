/* Runs the blocks of a grid one after the other, their threads as fibres in a seeded order. */
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <vector>

#include "emu_private.h"

#define WARP 32
/* What a thread block of sm_80 and sm_90 may have. */
#define MOST_THREADS       1024
#define SHARED_WITHOUT_ASK (48U << 10)
#define MOST_SHARED        (227U << 10)

enum state { NEW, READY, AT_WARP, AT_BLOCK, DONE };

struct lane {
    rh_emu_thread self;
    enum state state;
    rh_emu_collective kind;
    void *posted;
    std::vector<rh_emu_copy> copies;
};

static struct {
    const char *kernel;
    void (*call)(void *);
    void *arg;
    int threads, alive;
    int at_barrier, sum, result;
    int in_warp[MOST_THREADS / WARP];
    bool deep; /* a warp runs on until it is stuck */
} block;

static lane lanes[MOST_THREADS];
static lane *self;
static unsigned char *shared_end;
static unsigned char *shared_memory;
static uint64_t order, launches;
static size_t shared_limit = MOST_SHARED;

rh_emu_thread rh_emu_self;
dim3 rh_emu_grid_dim, rh_emu_block_dim;

static std::map<const void *, size_t> &allowed_shared()
{
    static std::map<const void *, size_t> map;
    return map;
}

void rh_emu_set_order(uint64_t seed)
{
    order = seed;
}

uint64_t rh_emu_launches(void)
{
    return launches;
}

void rh_emu_set_shared(size_t bytes)
{
    shared_limit = bytes < MOST_SHARED ? bytes : MOST_SHARED;
}

size_t rh_emu_shared_limit(void)
{
    return shared_limit;
}

unsigned char *rh_emu_shared()
{
    return shared_memory;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value)
{
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return cudaSuccess;
    if (value < 0 || (size_t)value > shared_limit)
        return cudaErrorInvalidValue;
    allowed_shared()[kernel] = (size_t)value;
    return cudaSuccess;
}

/* ---- what a thread does ---- */

static void wait_turn()
{
    lane *me = self;
    rh_emu_fibre_pause(false);
    self = me;
    rh_emu_self = me->self;
}

static void release_block()
{
    block.result = block.sum;
    block.sum = 0;
    block.at_barrier = 0;
    for (int i = 0; i < block.threads; i++) {
        if (lanes[i].state == AT_BLOCK)
            lanes[i].state = READY;
    }
}

int rh_emu_block_sum(int value)
{
    block.sum += value;
    self->state = AT_BLOCK;
    if (++block.at_barrier == block.alive)
        release_block();
    wait_turn();
    return block.result;
}

void rh_emu_check_mask(unsigned mask)
{
    if (mask != 0xffffffffU)
        rh_emu_die("%s: a collective with mask %#x; the dialect has full masks only", block.kernel,
                   mask);
}

static void check_kinds(const lane *warp)
{
    for (int i = 1; i < WARP; i++) {
        if (warp[i].kind != warp[0].kind)
            rh_emu_die("%s: lanes 0 and %d of a warp meet in different collectives (%d and %d)",
                       block.kernel, i, warp[0].kind, warp[i].kind);
    }
}

void rh_emu_warp(rh_emu_collective kind, void *posted, void (*work)(void *const posted[32]))
{
    int index = (int)(self - lanes) / WARP;
    lane *warp = lanes + index * WARP;
    self->kind = kind;
    self->posted = posted;
    self->state = AT_WARP;
    if (++block.in_warp[index] < WARP) {
        wait_turn();
        return;
    }
    block.in_warp[index] = 0;
    check_kinds(warp);
    void *all[WARP];
    for (int i = 0; i < WARP; i++) {
        all[i] = warp[i].posted;
        warp[i].state = READY;
    }
    work(all);
    wait_turn(); /* so that the seed decides who goes first */
}

struct vote {
    unsigned value, result;
};

unsigned __ballot_sync(unsigned mask, int predicate)
{
    rh_emu_check_mask(mask);
    vote v = {predicate != 0, 0};
    rh_emu_warp(RH_EMU_VOTE, &v, [](void *const posted[32]) {
        unsigned bits = 0;
        for (int i = 0; i < WARP; i++)
            bits |= ((vote *)posted[i])->value << i;
        for (int i = 0; i < WARP; i++)
            ((vote *)posted[i])->result = bits;
    });
    return v.result;
}

unsigned __match_any_sync(unsigned mask, unsigned value)
{
    rh_emu_check_mask(mask);
    vote v = {value, 0};
    rh_emu_warp(RH_EMU_MATCH, &v, [](void *const posted[32]) {
        for (int i = 0; i < WARP; i++) {
            vote *to = (vote *)posted[i];
            for (int j = 0; j < WARP; j++)
                to->result |= (unsigned)(((vote *)posted[j])->value == to->value) << j;
        }
    });
    return v.result;
}

std::vector<rh_emu_copy> *rh_emu_own_copies()
{
    return &self->copies;
}

void __trap()
{
    rh_emu_die("%s: trap in block %u, thread %u", block.kernel, blockIdx.x, threadIdx.x);
}

static void live(int index)
{
    (void)index;
    block.call(block.arg);
    self->state = DONE;
    block.alive--;
    if (block.at_barrier > 0 && block.at_barrier == block.alive)
        release_block();
    rh_emu_fibre_pause(true);
}

/* ---- the order ---- */

static uint64_t next_random(uint64_t *state)
{
    /* splitmix64 */
    uint64_t z = *state += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

static void permute(std::vector<unsigned> *list, unsigned count, uint64_t *random)
{
    list->resize(count);
    for (unsigned i = 0; i < count; i++)
        (*list)[i] = i;
    for (unsigned i = count; order != 0 && i > 1; i--)
        std::swap((*list)[i - 1], (*list)[next_random(random) % i]);
}

/* ---- a block ---- */

static void step(int index)
{
    self = &lanes[index];
    rh_emu_self = self->self;
    if (self->state == NEW) {
        self->state = READY;
        rh_emu_fibre_start(index, live);
    } else {
        rh_emu_fibre_resume(index);
    }
}

static bool run_warp(unsigned warp, const std::vector<unsigned> &lane_order)
{
    bool moved = false, again;
    do {
        again = false;
        for (unsigned l : lane_order) {
            int index = (int)(warp * WARP + l);
            if (lanes[index].state > READY)
                continue;
            step(index);
            again = moved = true;
        }
    } while (again && block.deep);
    return moved;
}

static void stuck()
{
    int counts[DONE + 1] = {0};
    for (int i = 0; i < block.threads; i++)
        counts[lanes[i].state]++;
    rh_emu_die("%s: block (%u, %u, %u) is stuck: of %d threads %d wait for their warp, %d at a barrier of "
               "the block, %d have returned",
               block.kernel, lanes[0].self.block.x, lanes[0].self.block.y, lanes[0].self.block.z,
               block.threads, counts[AT_WARP], counts[AT_BLOCK], counts[DONE]);
}

static void run_block(uint3 at, dim3 size, size_t shared_bytes, uint64_t *random)
{
    static std::vector<unsigned> warps, lane_order;
    memset(shared_memory, 0xff, shared_bytes); /* NaN, so that what was never written shows */
    block.alive = block.threads;
    block.at_barrier = block.sum = 0;
    memset(block.in_warp, 0, sizeof block.in_warp);
    for (int i = 0; i < block.threads; i++) {
        unsigned u = (unsigned)i;
        lanes[i].self.thread = {u % size.x, u / size.x % size.y, u / size.x / size.y};
        lanes[i].self.block = at;
        lanes[i].state = NEW;
        lanes[i].copies.clear();
    }
    while (block.alive > 0) {
        bool moved = false;
        permute(&warps, (unsigned)block.threads / WARP, random);
        permute(&lane_order, WARP, random);
        block.deep = order == 0 || next_random(random) % 2 == 0;
        for (unsigned w : warps)
            moved = run_warp(w, lane_order) || moved;
        if (!moved)
            stuck();
    }
}

static void take_shared(const char *name, const void *kernel, size_t bytes)
{
    if (bytes > shared_limit)
        rh_emu_die("%s: %zu bytes of shared memory; this GPU has %zu a block", name, bytes,
                   shared_limit);
    if (bytes > SHARED_WITHOUT_ASK) {
        auto found = allowed_shared().find(kernel);
        if (found == allowed_shared().end() || found->second < bytes)
            rh_emu_die("%s: %zu bytes of shared memory without rh_cuda_allow_shared()", name, bytes);
    }
    if (!shared_end) {
        size_t page = (size_t)sysconf(_SC_PAGESIZE);
        size_t room = (MOST_SHARED + page - 1) / page * page;
        void *all = mmap(nullptr, room + page, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (all == MAP_FAILED)
            rh_emu_die("no memory for shared memory");
        shared_end = (unsigned char *)all + room;
        if (mprotect(shared_end, page, PROT_NONE) != 0) /* reading past the end faults */
            rh_emu_die("no guard behind shared memory");
    }
    shared_memory = shared_end - (bytes + 127) / 128 * 128;
}

static void check_sizes(const char *name, dim3 grid, dim3 size)
{
    uint64_t threads = (uint64_t)size.x * size.y * size.z;
    if (threads == 0 || threads > MOST_THREADS || threads % WARP != 0)
        rh_emu_die("%s: a block of %u x %u x %u threads; it must be whole warps, at most %d threads",
                   name, size.x, size.y, size.z, MOST_THREADS);
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffU || grid.y > 65535U ||
        grid.z > 65535U)
        rh_emu_die("%s: a grid of %u x %u x %u blocks", name, grid.x, grid.y, grid.z);
}

void rh_emu_run(const char *name, const void *kernel, dim3 grid, dim3 size, size_t shared_bytes,
                void (*call)(void *), void *arg)
{
    rh_emu_access access;
    check_sizes(name, grid, size);
    if (rh_emu_lost())
        return rh_emu_note_error(cudaErrorLaunchFailure);
    take_shared(name, kernel, shared_bytes);
    launches++;
    block.kernel = name;
    block.call = call;
    block.arg = arg;
    block.threads = (int)(size.x * size.y * size.z);
    rh_emu_grid_dim = grid;
    rh_emu_block_dim = size;
    uint64_t random = order * 0x100000001b3U + launches;
    std::vector<unsigned> blocks;
    permute(&blocks, grid.x * grid.y * grid.z, &random);
    for (unsigned i : blocks)
        run_block({i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y}, size, shared_bytes, &random);
    rh_emu_check_canaries(name);
}
