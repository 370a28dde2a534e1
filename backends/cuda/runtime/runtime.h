/* The tables that a library for CUDA consists of, and the functions that run it.

   Everything here is C99; a library needs no CUDA header and no CUDA library to be linked. */

#ifndef QC_RUNTIME_H
#define QC_RUNTIME_H

#include <stdint.h>

#define QC_MAX_RANK 16

/* Where an argument of a kernel lies. */
enum qc_space { QC_CONSTANTS, QC_WORKSPACE, QC_INPUT, QC_OUTPUT };

/* An address: bytes into the constants or the workspace, or the number of an input or output. */
struct qc_argument {
    int32_t space;
    int64_t place;
};

/* One launch; it runs after the launches `after`, which come before it in the table. */
struct qc_launch {
    const char *symbol;
    uint32_t grid[3], block[3];
    uint32_t shared_bytes;
    int32_t arguments, first_argument;
    int32_t after, first_after;
};

/* What a program launches on an architecture. */
struct qc_plan {
    const struct qc_launch *launches;
    int32_t launch_count;
    const struct qc_argument *arguments;
    const int32_t *after;
    int64_t workspace_bytes;
};

/* What one GPU architecture runs: a cubin with the kernels of all programs, and their launches. */
struct qc_code {
    int32_t capability; /* 90 for sm_90 */
    const void *image;
    const struct qc_plan *const *plans;
};

/* Bytes of the inputs and of the outputs of a program. */
struct qc_ends {
    const int64_t *input_bytes, *output_bytes;
    int32_t input_count, output_count;
};

struct qc_library {
    const char *architectures; /* "sm_80 sm_90" */
    const struct qc_code *codes;
    int32_t code_count;
    const void *constants;
    int64_t constant_bytes;
    const struct qc_ends *programs;
    int32_t program_count;
};

extern const struct qc_library qc_library __attribute__((visibility("hidden")));

/* Every function may be called by several threads at once.  Those that fail return NULL or -1, and
   qc_error then says why in one line. */
#define QC_API __attribute__((visibility("default")))

struct qc_model;
struct qc_tensor;

/* Why the calling thread's last call failed. */
QC_API const char *qc_error(void);

/* Loads the model on a GPU: code, constants, workspace, and a graph for each program. */
QC_API struct qc_model *qc_open(int device);

/* Frees a model, as soon as none of its tensors is left.  NULL is allowed. */
QC_API void qc_close(struct qc_model *model);

/* Enqueues one run of a program on a stream of that GPU (a CUstream; 0 is the default stream) and
   returns; inputs and outputs are device memory.  Runs of one model follow one another, also on
   different streams. */
QC_API int qc_run(struct qc_model *model, int program, void *stream, const uint64_t *inputs,
                  const uint64_t *outputs);

/* Runs a program on host memory and waits for the results. */
QC_API int qc_run_host(struct qc_model *model, int program, const void *const *inputs,
                       void *const *outputs);

/* A new tensor that work on `stream` will write, its type as in DLPack: a DLManagedTensor, which its
   deleter gives back to the model. */
QC_API struct qc_tensor *qc_new(struct qc_model *model, int rank, const int64_t *shape, int code,
                                int bits, void *stream);

/* Enqueues a copy within the GPU's memory. */
QC_API int qc_copy(struct qc_model *model, void *stream, uint64_t to, uint64_t from,
                   uint64_t nbytes);

/* Makes what is enqueued on `stream` from now on wait for what `earlier` holds now. */
QC_API int qc_follow(struct qc_model *model, void *stream, void *earlier);

#endif
