/* Running a model, on device memory and on host memory, and the tensors that it returns. */

#include <stdlib.h>
#include <string.h>

#include "model.h"

#define DL_CUDA 2

static void enter(struct qc_model *model) {
    pthread_mutex_lock(&model->lock);
    qc_cu.push(model->context);
}

static int leave(struct qc_model *model, int result) {
    void *context;
    qc_cu.pop(&context);
    pthread_mutex_unlock(&model->lock);
    return result;
}

/* The driver keeps the arguments of what is already enqueued, and runs a graph after itself. */
static int enqueue(struct program *program, void *stream, const uint64_t *inputs,
                   const uint64_t *outputs) {
    const struct qc_plan *plan = program->plan;
    for (int i = 0; i < plan->launch_count; i++) {
        struct node *node = &program->nodes[i];
        for (int j = 0; node->uses_ends && j < plan->launches[i].arguments; j++) {
            const struct qc_argument *at = &plan->arguments[plan->launches[i].first_argument + j];
            if (!qc_is_end(at)) continue;
            qc_address now = (at->space == QC_INPUT ? inputs : outputs)[at->place];
            node->changed |= node->values[j] != now;
            node->values[j] = now;
        }
        if (!node->changed) continue;
        TRY(update(program->exec, node->handle, &node->params), "new addresses");
        node->changed = 0;
    }
    TRY(launch(program->exec, stream), "to run");
    return 0;
}

int qc_run(struct qc_model *model, int program, void *stream, const uint64_t *inputs,
           const uint64_t *outputs) {
    enter(model);
    return leave(model, enqueue(&model->programs[program], stream, inputs, outputs));
}

static int prepare_staging(struct qc_model *model) {
    if (model->stream) return 0;
    size_t nbytes = (size_t)model->staging_bytes + 1;
    if (!model->pinned) TRY(alloc_host((void **)&model->pinned, nbytes), "pinned memory");
    if (!model->staging) TRY(alloc(&model->staging, nbytes), "memory for inputs and outputs");
    TRY(stream(&model->stream, CU_NON_BLOCKING), "a stream");
    return 0;
}

static int run_host(struct qc_model *model, struct program *program, const void *const *inputs,
                    void *const *outputs) {
    if (prepare_staging(model)) return -1;
    const struct qc_ends *ends = program->ends;
    int64_t in = program->input_bytes, out = program->staging_bytes - in;
    uint64_t from[ends->input_count + 1], to[ends->output_count + 1];
    for (int i = 0; i < ends->input_count; i++) {
        int64_t place = program->input_places[i];
        memcpy(model->pinned + place, inputs[i], (size_t)ends->input_bytes[i]);
        from[i] = model->staging + (uint64_t)place;
    }
    for (int i = 0; i < ends->output_count; i++) {
        to[i] = model->staging + (uint64_t)program->output_places[i];
    }
    if (in > 0) {
        TRY(upload_async(model->staging, model->pinned, (size_t)in, model->stream), "a copy");
    }
    if (enqueue(program, model->stream, from, to)) return -1;
    if (out > 0) {
        TRY(download_async(model->pinned + in, model->staging + (uint64_t)in, (size_t)out,
                           model->stream),
            "a copy");
    }
    TRY(synchronize(model->stream), "to finish");
    for (int i = 0; i < ends->output_count; i++) {
        memcpy(outputs[i], model->pinned + program->output_places[i],
               (size_t)ends->output_bytes[i]);
    }
    return 0;
}

int qc_run_host(struct qc_model *model, int program, const void *const *inputs,
                void *const *outputs) {
    enter(model);
    return leave(model, run_host(model, &model->programs[program], inputs, outputs));
}

static void give_back(struct qc_tensor *tensor) {
    struct block *block = tensor->manager;
    struct qc_model *model = block->model;
    pthread_mutex_lock(&model->lock);
    block->next = model->unused;
    model->unused = block;
    pthread_mutex_unlock(&model->lock);
    qc_drop(model);
}

/* A block of that size that was used on the same stream, or a new one. */
static struct block *block_for(struct qc_model *model, int64_t nbytes, void *stream) {
    for (struct block **at = &model->unused; *at; at = &(*at)->next) {
        struct block *block = *at;
        if (block->nbytes == nbytes && block->stream == stream) {
            *at = block->next;
            return block;
        }
    }
    struct block *block = calloc(1, sizeof *block);
    if (!block) return NULL;
    block->model = model;
    block->nbytes = nbytes;
    block->stream = stream;
    if (!qc_reserve(&block->memory, nbytes, "memory for an output")) return block;
    free(block);
    return NULL;
}

struct qc_tensor *qc_new(struct qc_model *model, int rank, const int64_t *shape, int code, int bits,
                         void *stream) {
    int64_t nbytes = bits / 8;
    for (int i = 0; i < rank; i++) nbytes *= shape[i];
    snprintf(qc_message, sizeof qc_message, "out of memory");
    enter(model);
    struct block *block = block_for(model, nbytes, stream);
    if (block) {
        model->references++;
        memcpy(block->shape, shape, (size_t)rank * sizeof *shape);
        block->tensor = (struct qc_tensor){
            .data = (void *)(uintptr_t)block->memory,
            .device_type = DL_CUDA,
            .device = model->ordinal,
            .rank = rank,
            .code = (uint8_t)code,
            .bits = (uint8_t)bits,
            .lanes = 1,
            .shape = block->shape,
            .manager = block,
            .deleter = give_back,
        };
    }
    leave(model, 0);
    return block ? &block->tensor : NULL;
}

static int copy(void *stream, uint64_t to, uint64_t from, uint64_t nbytes) {
    TRY(copy_async(to, from, nbytes, stream), "a copy");
    return 0;
}

int qc_copy(struct qc_model *model, void *stream, uint64_t to, uint64_t from, uint64_t nbytes) {
    enter(model);
    return leave(model, nbytes ? copy(stream, to, from, nbytes) : 0);
}

static int follow(void *stream, void *earlier) {
    void *event;
    TRY(event(&event, CU_NO_TIMING), "an event");
    int result = qc_cu.record(event, earlier);
    if (!result) result = qc_cu.wait(stream, event, 0);
    qc_cu.destroy_event(event);
    return result ? qc_failed("to order two streams", result) : 0;
}

int qc_follow(struct qc_model *model, void *stream, void *earlier) {
    enter(model);
    return leave(model, follow(stream, earlier));
}
