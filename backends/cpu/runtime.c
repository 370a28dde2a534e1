/* What a compiled library needs while it runs, so that it needs nobody else's: scratch memory that
   later calls find again, and a pool of threads.  It speaks the interface that TVM's code generator
   expects of its runtime (tvm/runtime/c_backend_api.h).  `program.py` appends the programs. */

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#define EXPORTED __attribute__((visibility("default")))

/* -- scratch memory ---------------------------------------------------------------------------- */

typedef struct Block {
    struct Block *next;
    void *memory;
    const void *owner; /* the thread that had it last, in whose cache it may be */
    uint64_t size;
    int used;
} Block;

static _Thread_local char self; /* its address names the thread */
static pthread_mutex_t blocks_lock = PTHREAD_MUTEX_INITIALIZER;
static Block *blocks;

/* Whether a block suits the calling thread better than another: one that it had before, and the
   smaller one.  Threads that swapped blocks would fetch each line from the other's cache. */
static int suits_better(const Block *block, const Block *other) {
    int own = block->owner == &self;
    if (!other) return 1;
    if (own != (other->owner == &self)) return own;
    return block->size < other->size;
}

/* A free block that is large enough; else a free one grows: later calls find it. */
static Block *free_block(uint64_t size) {
    Block *best = 0, *small = 0;
    for (Block *block = blocks; block; block = block->next) {
        if (block->used) continue;
        if (block->size < size) small = block;
        else if (suits_better(block, best)) best = block;
    }
    if (best) return best;
    if (!small) {
        if (!(small = calloc(1, sizeof *small))) return 0;
        small->next = blocks;
        blocks = small;
    }
    free(small->memory);
    small->size = 0;
    if (posix_memalign(&small->memory, 64, size)) {
        small->memory = 0;
        return 0;
    }
    small->size = size;
    return small;
}

static void *scratch(uint64_t size) {
    pthread_mutex_lock(&blocks_lock);
    Block *block = free_block(size);
    if (block) {
        block->used = 1;
        block->owner = &self;
    }
    pthread_mutex_unlock(&blocks_lock);
    return block ? block->memory : 0;
}

static int give_back(void *memory) {
    pthread_mutex_lock(&blocks_lock);
    for (Block *block = blocks; block; block = block->next)
        if (block->memory == memory) block->used = 0;
    pthread_mutex_unlock(&blocks_lock);
    return 0;
}

static void *allocate(int device, int id, uint64_t size, int code, int bits) {
    (void)device, (void)id, (void)code, (void)bits;
    return scratch(size);
}

static int deallocate(int device, int id, void *memory) {
    (void)device, (void)id;
    return give_back(memory);
}

/* -- threads ----------------------------------------------------------------------------------- */

typedef struct {
    void *unused;
    int32_t tasks;
} Group;

typedef int (*Body)(int task, Group *group, void *data);

enum { SPINS = 1 << 13, MOST_THREADS = 1024, LINE = 64 };

static _Thread_local int threads = 1; /* of the call that this thread is in */

static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER; /* held by the caller that has the pool */
static pthread_mutex_t sleep_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static pthread_t workers[MOST_THREADS];
static int worker_count;

/* The job.  A ticket is a generation and the next task of its job: whoever advances it has that
   task, and then the other fields were those of the same generation.  What idle threads watch, what
   a new job writes and what a finished task writes lie in cache lines of their own. */
static _Alignas(LINE) _Atomic uint64_t ticket;
static _Alignas(LINE) _Atomic(Body) job_body;
static _Atomic(void *) job_data;
static atomic_int job_tasks;
static _Alignas(LINE) atomic_int job_left;
static atomic_int job_failed;
static _Alignas(LINE) atomic_int sleeping;
static atomic_int closing;

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void work(uint32_t generation) {
    for (;;) {
        uint64_t now = atomic_load(&ticket);
        Body body = atomic_load(&job_body);
        void *data = atomic_load(&job_data);
        Group group = {0, atomic_load(&job_tasks)};
        int task = (int)(uint32_t)now;
        if ((uint32_t)(now >> 32) != generation || task >= group.tasks) return;
        if (!atomic_compare_exchange_strong(&ticket, &now, now + 1)) continue;
        if (body(task, &group, data)) atomic_store(&job_failed, 1);
        atomic_fetch_sub(&job_left, 1);
    }
}

static uint32_t generation_now(void) { return (uint32_t)(atomic_load(&ticket) >> 32); }

static void *worker(void *first) {
    uint32_t seen = (uint32_t)(uintptr_t)first;
    for (;;) {
        for (int i = 0; i < SPINS && generation_now() == seen && !atomic_load(&closing); i++)
            pause_briefly();
        if (generation_now() == seen) {
            pthread_mutex_lock(&sleep_lock);
            atomic_fetch_add(&sleeping, 1);
            while (generation_now() == seen && !atomic_load(&closing))
                pthread_cond_wait(&wake, &sleep_lock);
            atomic_fetch_sub(&sleeping, 1);
            pthread_mutex_unlock(&sleep_lock);
        }
        if (atomic_load(&closing)) return 0;
        seen = generation_now();
        work(seen);
    }
}

static void wake_all(void) {
    pthread_mutex_lock(&sleep_lock);
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&sleep_lock);
}

/* Threads that cannot be started are done without: the others take their tasks. */
static void start_workers(int wanted) {
    void *first = (void *)(uintptr_t)generation_now();
    while (worker_count < wanted && worker_count < MOST_THREADS) {
        if (pthread_create(&workers[worker_count], 0, worker, first)) return;
        worker_count++;
    }
}

/* While another call has the pool, the caller works alone, and it does inside a task. */
static int parallel(Body body, void *data, int tasks) {
    (void)tasks;
    if (threads <= 1 || pthread_mutex_trylock(&busy)) {
        Group alone = {0, 1};
        return body(0, &alone, data);
    }
    start_workers(threads - 1);
    /* A generation without tasks comes first: who still looks at the old ticket must not take what
       it names for a task of the new job. */
    uint32_t generation = generation_now() + 2;
    atomic_store(&ticket, ((uint64_t)(generation - 1) << 32) + INT32_MAX);
    atomic_store(&job_body, body);
    atomic_store(&job_data, data);
    atomic_store(&job_tasks, threads);
    atomic_store(&job_left, threads);
    atomic_store(&job_failed, 0);
    atomic_store(&ticket, (uint64_t)generation << 32);
    if (atomic_load(&sleeping)) wake_all();
    work(generation);
    for (int i = 0; atomic_load(&job_left); i++) {
        if (i < SPINS) pause_briefly();
        else sched_yield();
    }
    int failed = atomic_load(&job_failed);
    pthread_mutex_unlock(&busy);
    return -failed;
}

static pthread_mutex_t users_lock = PTHREAD_MUTEX_INITIALIZER;
static int users;

/* A forked child has the pool's memory without its threads. */
static void forked(void) {
    worker_count = 0;
    atomic_store(&sleeping, 0);
    pthread_mutex_init(&busy, 0);
    pthread_mutex_init(&sleep_lock, 0);
    pthread_mutex_init(&users_lock, 0);
    pthread_mutex_init(&blocks_lock, 0);
    pthread_cond_init(&wake, 0);
}

__attribute__((constructor)) static void loaded(void) { pthread_atfork(0, 0, forked); }

/* The dynamic linker loads a file once, however often it is asked to: each who asked says so, */
EXPORTED void qc_open(void) {
    pthread_mutex_lock(&users_lock);
    users++;
    pthread_mutex_unlock(&users_lock);
}

/* and says when no call of its own is running and none will come.  The last one ends the threads,
   whose code may be unloaded then. */
EXPORTED void qc_close(void) {
    pthread_mutex_lock(&users_lock);
    if (--users == 0) {
        atomic_store(&closing, 1);
        wake_all();
        for (; worker_count; worker_count--) pthread_join(workers[worker_count - 1], 0);
        atomic_store(&closing, 0);
        for (Block *next; blocks; blocks = next) {
            next = blocks->next;
            free(blocks->memory);
            free(blocks);
        }
    }
    pthread_mutex_unlock(&users_lock);
}

/* What generated kernels call through. */
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = allocate;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = deallocate;
int (*__TVMBackendParallelLaunch)(Body, void *, int) = parallel;

/* -- the programs ------------------------------------------------------------------------------ */

typedef struct {
    int (*run)(char *const *arguments, char *workspace, int64_t *clock);
    uint64_t workspace_bytes;
} Program;

static const Program *find(int number);

static void tick(int64_t *clock) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *clock = now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Run a program.  number: its place in the metadata; arguments: addresses of inputs and outputs in
   the model's order; clock: gets the time in nanoseconds before the first kernel and behind each
   one, or is null.  Returns 0, or -1 where memory is lacking. */
EXPORTED int qc_run(int number, char *const *arguments, int thread_count, int64_t *clock) {
    const Program *program = find(number);
    void *workspace = scratch(program->workspace_bytes);
    if (!workspace) return -1;
    threads = thread_count;
    int failed = program->run(arguments, workspace, clock);
    give_back(workspace);
    return failed ? -1 : 0;
}
