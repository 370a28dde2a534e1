/* A model on a GPU, as its files share it. */

#ifndef QC_MODEL_H
#define QC_MODEL_H

#include <pthread.h>
#include <stdint.h>

#include "driver.h"
#include "runtime.h"

/* DLManagedTensor of DLPack 0.8, which every consumer takes. */
struct qc_tensor {
    void *data;
    int32_t device_type, device;
    int32_t rank;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t offset;
    void *manager;
    void (*deleter)(struct qc_tensor *);
};

/* Memory of a tensor; while none has it, it waits for the next one of its size on its stream. */
struct block {
    struct qc_tensor tensor;
    int64_t shape[QC_MAX_RANK];
    struct qc_model *model;
    qc_address memory;
    int64_t nbytes;
    void *stream;
    struct block *next;
};

struct node {
    void *handle;
    struct qc_node_params params;
    qc_address *values;
    void **pointers;
    int uses_ends; /* reads an input or writes an output */
    int changed;   /* the graph does not know the values yet */
};

/* A program on the GPU.  Where its inputs and outputs lie in the staging memory: inputs first, so
   that one copy moves all. */
struct program {
    const struct qc_plan *plan;
    const struct qc_ends *ends;
    void *graph, *exec;
    struct node *nodes;
    int64_t *input_places, *output_places, input_bytes, staging_bytes;
};

struct qc_model {
    pthread_mutex_t lock;
    const struct qc_code *code;
    int ordinal, device;
    void *context, *module, *stream;
    qc_address constants, workspace, staging;
    char *pinned; /* the same places as in `staging` */
    int64_t staging_bytes;
    struct program *programs;
    struct block *unused;
    int references; /* the owner's and one for each tensor */
};

static inline int qc_is_end(const struct qc_argument *argument) {
    return argument->space == QC_INPUT || argument->space == QC_OUTPUT;
}

static inline int qc_reserve(qc_address *memory, int64_t nbytes, const char *what) {
    if (nbytes > 0) TRY(alloc(memory, (size_t)nbytes), what);
    return 0;
}

/* Gives one reference back; the last one frees the model. */
void qc_drop(struct qc_model *model);

#endif
