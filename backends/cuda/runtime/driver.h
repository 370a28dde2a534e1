/* The functions of the CUDA driver that the runtime uses, found when they are first needed. */

#ifndef QC_DRIVER_H
#define QC_DRIVER_H

#include <stddef.h>
#include <stdio.h>

typedef unsigned long long qc_address;

/* CUDA_KERNEL_NODE_PARAMS_v2 of CUDA 12. */
struct qc_node_params {
    void *function;
    unsigned grid[3], block[3], shared_bytes;
    void **arguments;
    void **extra;
    void *kernel, *context;
};

enum {
    CU_CAPABILITY_MAJOR = 75,  /* CUdevice_attribute */
    CU_CAPABILITY_MINOR = 76,
    CU_MAX_DYNAMIC_SHARED = 8, /* CUfunction_attribute */
    CU_NON_BLOCKING = 1,       /* CUstream_flags */
    CU_NO_TIMING = 2,          /* CUevent_flags */
};

/* Name here, symbol in the library, parameters. */
#define QC_DRIVER(F)                                                                              \
    F(init, cuInit, (unsigned))                                                                   \
    F(version, cuDriverGetVersion, (int *))                                                       \
    F(error_name, cuGetErrorName, (int, const char **))                                           \
    F(error_text, cuGetErrorString, (int, const char **))                                         \
    F(count, cuDeviceGetCount, (int *))                                                           \
    F(device, cuDeviceGet, (int *, int))                                                          \
    F(attribute, cuDeviceGetAttribute, (int *, int, int))                                         \
    F(retain, cuDevicePrimaryCtxRetain, (void **, int))                                           \
    F(release, cuDevicePrimaryCtxRelease_v2, (int))                                               \
    F(push, cuCtxPushCurrent_v2, (void *))                                                        \
    F(pop, cuCtxPopCurrent_v2, (void **))                                                         \
    F(finish, cuCtxSynchronize, (void))                                                           \
    F(load, cuModuleLoadData, (void **, const void *))                                            \
    F(unload, cuModuleUnload, (void *))                                                           \
    F(function, cuModuleGetFunction, (void **, void *, const char *))                             \
    F(set, cuFuncSetAttribute, (void *, int, int))                                                \
    F(alloc, cuMemAlloc_v2, (qc_address *, size_t))                                               \
    F(free, cuMemFree_v2, (qc_address))                                                           \
    F(alloc_host, cuMemAllocHost_v2, (void **, size_t))                                           \
    F(free_host, cuMemFreeHost, (void *))                                                         \
    F(upload, cuMemcpyHtoD_v2, (qc_address, const void *, size_t))                                \
    F(upload_async, cuMemcpyHtoDAsync_v2, (qc_address, const void *, size_t, void *))             \
    F(download_async, cuMemcpyDtoHAsync_v2, (void *, qc_address, size_t, void *))                 \
    F(copy_async, cuMemcpyDtoDAsync_v2, (qc_address, qc_address, size_t, void *))                 \
    F(stream, cuStreamCreate, (void **, unsigned))                                                \
    F(destroy_stream, cuStreamDestroy_v2, (void *))                                               \
    F(synchronize, cuStreamSynchronize, (void *))                                                 \
    F(wait, cuStreamWaitEvent, (void *, void *, unsigned))                                        \
    F(event, cuEventCreate, (void **, unsigned))                                                  \
    F(record, cuEventRecord, (void *, void *))                                                    \
    F(destroy_event, cuEventDestroy_v2, (void *))                                                 \
    F(graph, cuGraphCreate, (void **, unsigned))                                                  \
    F(node, cuGraphAddKernelNode_v2,                                                              \
      (void **, void *, void *const *, size_t, const struct qc_node_params *))                    \
    F(instantiate, cuGraphInstantiateWithFlags, (void **, void *, unsigned long long))            \
    F(update, cuGraphExecKernelNodeSetParams_v2, (void *, void *, const struct qc_node_params *)) \
    F(launch, cuGraphLaunch, (void *, void *))                                                    \
    F(destroy_exec, cuGraphExecDestroy, (void *))                                                 \
    F(destroy_graph, cuGraphDestroy, (void *))

#define QC_DECLARE(name, symbol, parameters) int(*name) parameters;
struct qc_driver {
    QC_DRIVER(QC_DECLARE)
};

extern struct qc_driver qc_cu;
extern __thread char qc_message[1024];

/* Opens the driver once per library. */
int qc_start(void);

/* Says that the driver refused something; returns -1. */
int qc_failed(const char *what, int result);

#define TRY(call, what)                                  \
    do {                                                 \
        int result_ = qc_cu.call;                           \
        if (result_) return qc_failed(what, result_);       \
    } while (0)

#define REFUSE(...) return snprintf(qc_message, sizeof qc_message, __VA_ARGS__), -1

#endif
