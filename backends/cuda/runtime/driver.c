/* Finding the driver with dlopen, so that a library can be linked, and inspected, where no GPU is. */

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

#include "driver.h"
#include "runtime.h"

struct qc_driver qc_cu;
__thread char qc_message[1024];

const char *qc_error(void) { return qc_message; }

int qc_failed(const char *what, int result) {
    const char *name = NULL, *text = NULL;
    qc_cu.error_name(result, &name);
    qc_cu.error_text(result, &text);
    snprintf(qc_message, sizeof qc_message, "the NVIDIA driver refused %s: %s (%s)", what,
             text ? text : "unknown error", name ? name : "?");
    return -1;
}

static int driver_ready;

static int open_driver(void) {
    const char *path = getenv("QCOMPILER_CUDA_DRIVER");
    if (!path || !*path) path = "libcuda.so.1";
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        REFUSE("this library needs an NVIDIA GPU and its driver: %s not found", path);
    }
#define FIND(name, symbol, parameters)                                                            \
    *(void **)&qc_cu.name = dlsym(library, #symbol);                                                 \
    if (!qc_cu.name) {                                                                               \
        dlclose(library);                                                                         \
        REFUSE("%s has no %s: this library needs the NVIDIA driver of CUDA 12.0 or newer", path,  \
               #symbol);                                                                          \
    }
    QC_DRIVER(FIND)
    TRY(init(0), "to start (cuInit)");
    driver_ready = 1;
    return 0;
}

int qc_start(void) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    int result = driver_ready ? 0 : open_driver();
    pthread_mutex_unlock(&lock);
    return result;
}

