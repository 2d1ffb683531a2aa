#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "base/error.h"
#include "base/mem.h"

/* A waiting thread looks this often before it sleeps: loops follow each other within microseconds,
 * and waking a thread costs more than most of them. */
#define SPINS 2000

struct rh_thread_pool {
    int size;
    bool flush; /* subnormals */
    pthread_t *threads; /* size - 1 */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    _Atomic uint64_t generation; /* rises with every loop */
    _Atomic int working;         /* helpers that have not finished the current loop */
    _Atomic bool stop;
    _Atomic int sleeping;
    rh_range_fn fn;
    void *arg;
    int64_t count, grain;
    _Atomic int64_t next;
};

struct helper {
    struct rh_thread_pool *pool;
    int index;
};

static void pause_a_little(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* How a thread computes with subnormals, and that it is to take them for 0. */
#if defined(__x86_64__)
#define FLUSH 0x8040U /* FTZ | DAZ */

static uint64_t float_mode(void)
{
    return _mm_getcsr();
}

static void set_float_mode(uint64_t mode)
{
    _mm_setcsr((unsigned)mode);
}
#elif defined(__aarch64__)
#define FLUSH (1U << 24) /* FZ: both */

static uint64_t float_mode(void)
{
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}

static void set_float_mode(uint64_t mode)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
}
#else
#define FLUSH 0U

static uint64_t float_mode(void)
{
    return 0;
}

static void set_float_mode(uint64_t mode)
{
    (void)mode;
}
#endif

static void run_chunks(struct rh_thread_pool *pool, int thread)
{
    uint64_t mode = float_mode();
    if (pool->flush)
        set_float_mode(mode | FLUSH);
    for (;;) {
        int64_t begin = atomic_fetch_add(&pool->next, pool->grain);
        if (begin >= pool->count)
            break;
        int64_t end = pool->count - begin < pool->grain ? pool->count : begin + pool->grain;
        pool->fn(pool->arg, begin, end, thread);
    }
    if (pool->flush)
        set_float_mode(mode);
}

static void wait_for_work(struct rh_thread_pool *pool, uint64_t seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load(&pool->generation) != seen)
            return;
        pause_a_little();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleeping, 1);
    while (atomic_load(&pool->generation) == seen)
        pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleeping, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void announce(struct rh_thread_pool *pool)
{
    atomic_fetch_add(&pool->generation, 1);
    if (atomic_load(&pool->sleeping) == 0)
        return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
}

static void *help(void *arg)
{
    struct helper self = *(struct helper *)arg;
    rh_free(arg);
    uint64_t seen = 0;
    for (;;) {
        wait_for_work(self.pool, seen);
        seen++;
        if (atomic_load(&self.pool->stop))
            return NULL;
        run_chunks(self.pool, self.index);
        atomic_fetch_sub(&self.pool->working, 1);
    }
}

struct rh_thread_pool *rh_thread_pool_new(int threads)
{
    if (threads <= 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        threads = online < 1 ? 1 : (int)online;
    }
    struct rh_thread_pool *pool = rh_alloc(sizeof *pool);
    pool->size = threads;
    pool->threads = rh_alloc_array((size_t)threads, sizeof *pool->threads);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    for (int i = 1; i < threads; i++) {
        struct helper *h = rh_alloc(sizeof *h);
        *h = (struct helper){pool, i};
        RH_ASSERT(pthread_create(&pool->threads[i - 1], NULL, help, h) == 0);
    }
    return pool;
}

void rh_thread_pool_free(struct rh_thread_pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->stop, true);
    announce(pool);
    for (int i = 1; i < pool->size; i++)
        pthread_join(pool->threads[i - 1], NULL);
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->wake);
    rh_free(pool->threads);
    rh_free(pool);
}

int rh_thread_pool_size(const struct rh_thread_pool *pool)
{
    return pool->size;
}

void rh_thread_pool_flush_subnormals(struct rh_thread_pool *pool, bool flush)
{
    pool->flush = flush;
}

void rh_parallel_for(struct rh_thread_pool *pool, int64_t count, int64_t grain, rh_range_fn fn,
                     void *arg)
{
    if (count <= 0)
        return;
    RH_ASSERT(grain > 0);
    pool->fn = fn;
    pool->arg = arg;
    pool->count = count;
    pool->grain = grain;
    atomic_store(&pool->next, 0);
    /* Chunks are cut the same way with or without help. */
    if (pool->size == 1 || count <= grain) {
        run_chunks(pool, 0);
        return;
    }
    atomic_store(&pool->working, pool->size - 1);
    announce(pool);
    run_chunks(pool, 0);
    for (int spins = 0; atomic_load(&pool->working) > 0; spins++) {
        if (spins < SPINS)
            pause_a_little();
        else
            sched_yield();
    }
}
