/* Runs one kernel on a machine without TVM: the arguments are files, the last one is written.
 * The parallel launch runs TASKS tasks one after the other, so that their borders are tested. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { TASKS = 3, MOST_ARGUMENTS = 16 };

typedef struct { void *sync_handle; int32_t num_task; } Environment;

static int launch(int (*body)(int, Environment *, void *), void *data, int tasks) {
    Environment environment = {0, TASKS};
    (void)tasks;
    for (int i = 0; i < TASKS; i++)
        if (body(i, &environment, data)) return -1;
    return 0;
}

static void *allocate(int type, int id, uint64_t bytes, int code, int bits) {
    (void)type, (void)id, (void)code, (void)bits;
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static int release(int type, int id, void *memory) {
    (void)type, (void)id;
    free(memory);
    return 0;
}

/* Kernels reach the runtime through these, which TVM's loader sets elsewhere. */
void *__TVMBackendParallelLaunch = (void *)launch;
void *__TVMBackendAllocWorkspace = (void *)allocate;
void *__TVMBackendFreeWorkspace = (void *)release;

/* Memory that ends where unmapped memory begins. */
static void *guarded(size_t bytes) {
    size_t page = sysconf(_SC_PAGESIZE), size = (bytes + page - 1) / page * page;
    uint8_t *memory = mmap(0, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + size, page, PROT_NONE)) exit(3);
    return memory + size - bytes;
}

extern int (*const kernels[])(void *, void *, void *, void *, void *, void *, void *, void *,
                              void *, void *, void *, void *, void *, void *, void *, void *);

int main(int count, char **names) {
    void *arguments[MOST_ARGUMENTS] = {0};
    size_t bytes = 0;
    int index = atoi(names[1]);
    for (int i = 2; i < count; i++) {
        FILE *file = fopen(names[i], "rb");
        if (!file || fseek(file, 0, SEEK_END)) return 2;
        bytes = ftell(file);
        rewind(file);
        arguments[i - 2] = guarded(bytes);
        if (fread(arguments[i - 2], 1, bytes, file) != bytes) return 2;
        fclose(file);
    }
    void **a = arguments;
    if (kernels[index](a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11],
                       a[12], a[13], a[14], a[15])) return 4;
    FILE *out = fopen(names[count - 1], "wb");
    if (!out || fwrite(arguments[count - 3], 1, bytes, out) != bytes || fclose(out)) return 2;
    return 0;
}
