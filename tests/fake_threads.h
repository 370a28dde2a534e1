// Lets CUDA C run on the CPU: included before the source of kernels, which is then C++.  The threads
// of a block are contexts that take turns at barriers; blocks follow one another.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <ucontext.h>
#include <vector>

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx;

using std::max;
using std::min;

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __shared__ static
#define CUDART_INF_F INFINITY
#define alignas(bytes) __attribute__((aligned(bytes)))
#define uint unsigned int
#define uchar unsigned char
#define ushort unsigned short

static ucontext_t scheduler, *current;
static void (*body)(const unsigned long long *);
static const unsigned long long *values;
static bool finished;

static void __syncthreads() { swapcontext(current, &scheduler); }

static void enter() {
    body(values);
    finished = true;
}

static Index place(unsigned number, const unsigned *sizes) {
    return {number % sizes[0], number / sizes[0] % sizes[1], number / sizes[0] / sizes[1]};
}

// Runs one block whose threads meet at barriers.
static void run_together(unsigned threads, const unsigned *block) {
    const size_t stack = 64 << 10;
    std::vector<char> stacks(threads * stack);
    std::vector<ucontext_t> contexts(threads);
    std::vector<bool> done(threads, false);
    for (unsigned i = 0; i < threads; i++) {
        getcontext(&contexts[i]);
        contexts[i].uc_stack = {&stacks[i * stack], 0, stack};
        contexts[i].uc_link = &scheduler;
        makecontext(&contexts[i], enter, 0);
    }
    for (unsigned left = threads; left;) {
        for (unsigned i = 0; i < threads; i++) {
            if (done[i]) continue;
            threadIdx = place(i, block);
            current = &contexts[i];
            finished = false;
            swapcontext(&scheduler, current);
            done[i] = finished;
            left -= finished;
        }
    }
}

static void run(void (*kernel)(const unsigned long long *), bool together, const unsigned *grid,
                const unsigned *block, const unsigned long long *arguments) {
    body = kernel;
    values = arguments;
    const unsigned threads = block[0] * block[1] * block[2];
    for (unsigned b = 0; b < grid[0] * grid[1] * grid[2]; b++) {
        blockIdx = place(b, grid);
        if (together) {
            run_together(threads, block);
            continue;
        }
        for (unsigned i = 0; i < threads; i++) {
            threadIdx = place(i, block);
            kernel(arguments);
        }
    }
}
