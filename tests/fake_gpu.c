/* A CUDA driver without a GPU, for tests: device memory is host memory, kernels are calls of a
   function that the test sets.  Work on streams waits until somebody synchronizes; the nodes of a
   graph run in a random order that their edges allow.  Mistakes that a driver would punish later
   (no current context, freed memory, unknown handles) fail at once. */

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long address;

enum { MAX_ARGUMENTS = 64, MAX_NODES = 4096, INVALID = 1, OUT_OF_MEMORY = 2, NO_CONTEXT = 201 };

struct function {
    char symbol[256]; /* what follows the image's magic number, a slash, the name */
    int arguments, shared_limit;
    struct function *next;
};

struct params {
    struct function *function;
    unsigned grid[3], block[3], shared_bytes;
    void **arguments;
    void **extra;
    void *kernel, *context;
};

struct node {
    struct function *function;
    unsigned grid[3], block[3], shared_bytes;
    address values[MAX_ARGUMENTS];
    int index, after_count, done;
    struct node **after;
};

struct graph {
    struct node *nodes[MAX_NODES];
    int count, instantiated;
};

struct work {
    struct node *nodes; /* of one launch of a graph, or NULL: */
    int count;
    void *to;
    const void *from;
    size_t nbytes;
    struct work *next;
};

struct allocation {
    char *memory;
    size_t nbytes;
    struct allocation *next;
};

struct fake {
    int capability, devices, version;
    char failing[64]; /* this function fails */
    int failure;
    int (*arity)(const char *symbol); /* -1: the module has no such function */
    void (*launch)(const char *symbol, const unsigned *grid, const unsigned *block,
                   unsigned shared_bytes, const address *arguments);
    int launched_graphs, updates, contexts, waits, leaked, seed;
    size_t copied;
};

struct fake fake_state = {.capability = 90, .devices = 1, .version = 13000};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int depth; /* of the calling thread's stack of contexts */
static struct work *first, **last = &first;
static struct allocation *allocations;
static struct function *functions;

static int refused(const char *name) {
    return !strcmp(fake_state.failing, name) ? fake_state.failure : 0;
}

#define BEGIN                                             \
    if (refused(__func__)) return refused(__func__);      \
    if (!depth) return NO_CONTEXT

int cuInit(unsigned flags) { return flags ? INVALID : refused(__func__); }

int cuDriverGetVersion(int *version) { return *version = fake_state.version, 0; }

int cuGetErrorName(int code, const char **name) {
    *name = code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_OTHER";
    return 0;
}

int cuGetErrorString(int code, const char **text) {
    *text = code == OUT_OF_MEMORY ? "out of memory" : "other error";
    return 0;
}

int cuDeviceGetCount(int *count) { return *count = fake_state.devices, refused(__func__); }

int cuDeviceGet(int *device, int ordinal) { return *device = 10 + ordinal, refused(__func__); }

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (device < 10 || (attribute != 75 && attribute != 76)) return INVALID;
    *value = attribute == 75 ? fake_state.capability / 10 : fake_state.capability % 10;
    return refused(__func__);
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    if (refused(__func__)) return refused(__func__);
    fake_state.contexts++;
    *context = (void *)(intptr_t)device;
    return 0;
}

int cuDevicePrimaryCtxRelease_v2(int device) { return fake_state.contexts--, device < 10; }

int cuCtxPushCurrent_v2(void *context) { return context ? (depth++, 0) : INVALID; }

int cuCtxPopCurrent_v2(void **context) {
    if (!depth) return NO_CONTEXT;
    depth--;
    *context = NULL;
    return 0;
}

int cuModuleLoadData(void **module, const void *image) {
    BEGIN;
    if (memcmp(image, "\177ELF", 4)) return 200;
    *module = (void *)image;
    return 0;
}

int cuModuleUnload(void *module) { return module ? 0 : INVALID; }

int cuModuleGetFunction(void **found, void *module, const char *symbol) {
    BEGIN;
    struct function *function = calloc(1, sizeof *function);
    const char *image = (const char *)module + 4;
    snprintf(function->symbol, sizeof function->symbol, "%s/%s", image, symbol);
    int arguments = fake_state.arity(function->symbol);
    if (arguments < 0 || arguments > MAX_ARGUMENTS) return free(function), 500;
    function->arguments = arguments;
    function->shared_limit = 49152;
    function->next = functions;
    *found = functions = function;
    return 0;
}

int cuFuncSetAttribute(struct function *function, int attribute, int value) {
    BEGIN;
    if (attribute != 8 || value > 232448) return INVALID;
    function->shared_limit = value;
    return 0;
}

static struct allocation **find(address memory) {
    struct allocation **at = &allocations;
    while (*at && (*at)->memory != (char *)memory) at = &(*at)->next;
    return at;
}

static int allocate(void **memory, size_t nbytes) {
    struct allocation *allocation = malloc(sizeof *allocation);
    if (posix_memalign((void **)&allocation->memory, 256, nbytes)) return OUT_OF_MEMORY;
    memset(allocation->memory, 0xA5, nbytes);
    allocation->nbytes = nbytes;
    pthread_mutex_lock(&lock);
    allocation->next = allocations;
    allocations = allocation;
    fake_state.leaked++;
    pthread_mutex_unlock(&lock);
    *memory = allocation->memory;
    return 0;
}

static int release(address memory) {
    pthread_mutex_lock(&lock);
    struct allocation **at = find(memory), *found = *at;
    if (found) {
        *at = found->next;
        fake_state.leaked--;
        memset(found->memory, 0xDD, found->nbytes);
        free(found->memory);
        free(found);
    }
    pthread_mutex_unlock(&lock);
    return found ? 0 : INVALID;
}

int cuMemAlloc_v2(address *memory, size_t nbytes) {
    BEGIN;
    return nbytes ? allocate((void **)memory, nbytes) : INVALID;
}

int cuMemFree_v2(address memory) {
    BEGIN;
    return release(memory);
}

int cuMemAllocHost_v2(void **memory, size_t nbytes) {
    BEGIN;
    return allocate(memory, nbytes);
}

int cuMemFreeHost(void *memory) {
    BEGIN;
    return release((address)memory);
}

static void enqueue(struct work *work) {
    pthread_mutex_lock(&lock);
    *last = work;
    last = &work->next;
    pthread_mutex_unlock(&lock);
}

static void run_graph(struct node *nodes, int count) {
    for (int left = count; left; left--) {
        int ready[MAX_NODES], number = 0;
        for (int i = 0; i < count; i++) {
            int waits = nodes[i].done;
            for (int j = 0; j < nodes[i].after_count; j++) {
                waits |= !nodes[nodes[i].after[j]->index].done;
            }
            if (!waits) ready[number++] = i;
        }
        struct node *node = &nodes[ready[rand_r((unsigned *)&fake_state.seed) % number]];
        node->done = 1;
        fake_state.launch(node->function->symbol, node->grid, node->block, node->shared_bytes,
                          node->values);
    }
}

/* Does all that was enqueued, in order. */
void fake_finish(void) {
    static pthread_mutex_t running = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&running);
    for (;;) {
        pthread_mutex_lock(&lock);
        struct work *work = first;
        if (work) first = work->next;
        if (!first) last = &first;
        pthread_mutex_unlock(&lock);
        if (!work) break;
        if (work->nodes) {
            run_graph(work->nodes, work->count);
        } else {
            memcpy(work->to, work->from, work->nbytes);
            fake_state.copied += work->nbytes;
        }
        free(work->nodes);
        free(work);
    }
    pthread_mutex_unlock(&running);
}

int cuCtxSynchronize(void) {
    BEGIN;
    fake_finish();
    return 0;
}

static int copy(void *to, const void *from, size_t nbytes) {
    struct work *work = calloc(1, sizeof *work);
    work->to = to;
    work->from = from;
    work->nbytes = nbytes;
    enqueue(work);
    return 0;
}

int cuMemcpyHtoD_v2(address to, const void *from, size_t nbytes) {
    BEGIN;
    memcpy((void *)to, from, nbytes);
    return 0;
}

int cuMemcpyHtoDAsync_v2(address to, const void *from, size_t nbytes, void *stream) {
    BEGIN;
    (void)stream;
    return copy((void *)to, from, nbytes);
}

int cuMemcpyDtoDAsync_v2(address to, address from, size_t nbytes, void *stream) {
    BEGIN;
    (void)stream;
    return copy((void *)to, (const void *)from, nbytes);
}

int cuMemcpyDtoHAsync_v2(void *to, address from, size_t nbytes, void *stream) {
    BEGIN;
    (void)stream;
    return copy(to, (const void *)from, nbytes);
}

int cuStreamCreate(void **stream, unsigned flags) {
    BEGIN;
    *stream = malloc(1 + flags);
    return 0;
}

int cuStreamDestroy_v2(void *stream) {
    BEGIN;
    free(stream);
    return 0;
}

int cuStreamSynchronize(void *stream) {
    BEGIN;
    (void)stream;
    fake_finish();
    return 0;
}

int cuEventCreate(void **event, unsigned flags) {
    BEGIN;
    *event = malloc(1 + flags);
    return 0;
}

int cuEventRecord(void *event, void *stream) {
    BEGIN;
    (void)stream;
    return event ? 0 : INVALID;
}

int cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    BEGIN;
    (void)stream;
    fake_state.waits++;
    return event && !flags ? 0 : INVALID;
}

int cuEventDestroy_v2(void *event) {
    BEGIN;
    free(event);
    return 0;
}

int cuGraphCreate(struct graph **graph, unsigned flags) {
    BEGIN;
    *graph = calloc(1, sizeof **graph);
    return flags ? INVALID : 0;
}

static int set(struct node *node, const struct params *params) {
    if (params->shared_bytes > (unsigned)params->function->shared_limit) return INVALID;
    if (params->block[0] * params->block[1] * params->block[2] > 1024) return INVALID;
    if (!params->grid[0] || !params->grid[1] || !params->grid[2]) return INVALID;
    node->function = params->function;
    memcpy(node->grid, params->grid, sizeof node->grid);
    memcpy(node->block, params->block, sizeof node->block);
    node->shared_bytes = params->shared_bytes;
    for (int i = 0; i < params->function->arguments; i++) {
        node->values[i] = *(address *)params->arguments[i];
    }
    return 0;
}

int cuGraphAddKernelNode_v2(struct node **added, struct graph *graph, struct node *const *after,
                            size_t count, const struct params *params) {
    BEGIN;
    if (graph->count == MAX_NODES) return OUT_OF_MEMORY;
    struct node *node = *added = calloc(1, sizeof *node);
    node->index = graph->count;
    node->after_count = (int)count;
    node->after = malloc(count * sizeof *after + 1);
    memcpy(node->after, after, count * sizeof *after);
    graph->nodes[graph->count++] = node;
    return set(node, params);
}

int cuGraphInstantiateWithFlags(struct graph **exec, struct graph *graph, unsigned long long flags) {
    BEGIN;
    graph->instantiated++;
    *exec = graph;
    return flags ? INVALID : 0;
}

int cuGraphExecKernelNodeSetParams_v2(struct graph *exec, struct node *node,
                                      const struct params *params) {
    BEGIN;
    if (exec->nodes[node->index] != node || node->function != params->function) return INVALID;
    fake_state.updates++;
    return set(node, params);
}

int cuGraphLaunch(struct graph *exec, void *stream) {
    BEGIN;
    (void)stream;
    struct work *work = calloc(1, sizeof *work);
    work->count = exec->count;
    work->nodes = calloc((size_t)exec->count + 1, sizeof *work->nodes);
    for (int i = 0; i < exec->count; i++) work->nodes[i] = *exec->nodes[i];
    fake_state.launched_graphs++;
    enqueue(work);
    return 0;
}

int cuGraphExecDestroy(struct graph *exec) { return depth && exec->instantiated-- ? 0 : INVALID; }

int cuGraphDestroy(struct graph *graph) {
    BEGIN;
    for (int i = 0; i < graph->count; i++) {
        free(graph->nodes[i]->after);
        free(graph->nodes[i]);
    }
    free(graph);
    return 0;
}
