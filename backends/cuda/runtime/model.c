/* Loading a model: code, memory, graph; and freeing it. */

#include <stdlib.h>
#include <string.h>

#include "model.h"

#define ALIGNED(n) (((n) + 255) / 256 * 256)
#define DEFAULT_SHARED 49152 /* bytes that a kernel may use without asking for more */

/* Cubins run on GPUs of the same major capability and the same or a later minor one. */
static int choose_code(struct qc_model *model) {
    int major, minor;
    TRY(attribute(&major, CU_CAPABILITY_MAJOR, model->device), "to name the GPU's capability");
    TRY(attribute(&minor, CU_CAPABILITY_MINOR, model->device), "to name the GPU's capability");
    for (int i = 0; i < qc_library.code_count; i++) {
        const struct qc_code *code = &qc_library.codes[i];
        int fits = code->capability / 10 == major && code->capability % 10 <= minor;
        if (fits && (!model->code || code->capability > model->code->capability)) {
            model->code = code;
        }
    }
    if (model->code) return 0;
    REFUSE("GPU %d is sm_%d%d, this library has code for %s: compile it with --target cuda:sm_%d%d",
           model->ordinal, major, minor, qc_library.architectures, major, minor);
}

static int load_code(struct qc_model *model) {
    int result = qc_cu.load(&model->module, model->code->image);
    if (!result) return 0;
    int version = 0;
    qc_cu.version(&version);
    qc_failed("the code", result);
    size_t end = strlen(qc_message);
    snprintf(qc_message + end, sizeof qc_message - end,
             ": it supports CUDA %d.%d; update it, or compile with an older CUDA toolkit",
             version / 1000, version % 1000 / 10);
    return -1;
}

static qc_address address(const struct qc_model *model, const struct qc_argument *argument) {
    int constant = argument->space == QC_CONSTANTS;
    return (constant ? model->constants : model->workspace) + (qc_address)argument->place;
}

static int add_node(struct qc_model *model, struct program *program, int index) {
    const struct qc_plan *plan = program->plan;
    const struct qc_launch *launch = &plan->launches[index];
    struct node *node = &program->nodes[index];
    node->values = calloc((size_t)launch->arguments + 1, sizeof *node->values);
    node->pointers = calloc((size_t)launch->arguments + 1, sizeof *node->pointers);
    void **after = calloc((size_t)launch->after + 1, sizeof *after);
    if (!node->values || !node->pointers || !after) {
        free(after);
        REFUSE("out of memory");
    }
    for (int i = 0; i < launch->arguments; i++) {
        const struct qc_argument *argument = &plan->arguments[launch->first_argument + i];
        node->pointers[i] = &node->values[i];
        node->uses_ends |= qc_is_end(argument);
        if (!qc_is_end(argument)) node->values[i] = address(model, argument);
    }
    for (int i = 0; i < launch->after; i++) {
        after[i] = program->nodes[plan->after[launch->first_after + i]].handle;
    }
    struct qc_node_params *params = &node->params;
    memcpy(params->grid, launch->grid, sizeof params->grid);
    memcpy(params->block, launch->block, sizeof params->block);
    params->shared_bytes = launch->shared_bytes;
    params->arguments = node->pointers;
    int result = qc_cu.function(&params->function, model->module, launch->symbol);
    if (!result && launch->shared_bytes > DEFAULT_SHARED) {
        result = qc_cu.set(params->function, CU_MAX_DYNAMIC_SHARED, (int)launch->shared_bytes);
    }
    if (!result) {
        result = qc_cu.node(&node->handle, program->graph, after, (size_t)launch->after, params);
    }
    free(after);
    return result ? qc_failed(launch->symbol, result) : 0;
}

static int build_graph(struct qc_model *model, struct program *program) {
    int count = program->plan->launch_count;
    program->nodes = calloc((size_t)count + 1, sizeof *program->nodes);
    if (!program->nodes) REFUSE("out of memory");
    TRY(graph(&program->graph, 0), "to create a graph");
    for (int i = 0; i < count; i++) {
        if (add_node(model, program, i)) return -1;
    }
    TRY(instantiate(&program->exec, program->graph, 0), "to instantiate the graph");
    return 0;
}

static int place_ends(struct program *program) {
    const struct qc_ends *ends = program->ends;
    program->input_places = calloc((size_t)ends->input_count + 1, sizeof(int64_t));
    program->output_places = calloc((size_t)ends->output_count + 1, sizeof(int64_t));
    if (!program->input_places || !program->output_places) REFUSE("out of memory");
    int64_t end = 0;
    for (int i = 0; i < ends->input_count; i++) {
        program->input_places[i] = end;
        end += ALIGNED(ends->input_bytes[i]);
    }
    program->input_bytes = end;
    for (int i = 0; i < ends->output_count; i++) {
        program->output_places[i] = end;
        end += ALIGNED(ends->output_bytes[i]);
    }
    program->staging_bytes = end;
    return 0;
}

/* Programs share the workspace and the staging memory, since their runs follow one another. */
static int place_programs(struct qc_model *model) {
    int64_t workspace_bytes = 0;
    model->programs = calloc((size_t)qc_library.program_count, sizeof *model->programs);
    if (!model->programs) REFUSE("out of memory");
    for (int i = 0; i < qc_library.program_count; i++) {
        struct program *program = &model->programs[i];
        program->plan = model->code->plans[i];
        program->ends = &qc_library.programs[i];
        if (place_ends(program)) return -1;
        int64_t own = program->plan->workspace_bytes, staging = program->staging_bytes;
        if (own > workspace_bytes) workspace_bytes = own;
        if (staging > model->staging_bytes) model->staging_bytes = staging;
    }
    return qc_reserve(&model->workspace, workspace_bytes, "memory for the workspace");
}

static int prepare(struct qc_model *model) {
    if (choose_code(model) || load_code(model)) return -1;
    if (qc_reserve(&model->constants, qc_library.constant_bytes, "memory for the weights")) return -1;
    if (place_programs(model)) return -1;
    if (qc_library.constant_bytes > 0) {
        TRY(upload(model->constants, qc_library.constants, (size_t)qc_library.constant_bytes),
            "to copy the weights");
        /* The copy may still be on its way, and runs on other streams would not wait for it. */
        TRY(finish(), "to copy the weights");
    }
    for (int i = 0; i < qc_library.program_count; i++) {
        if (build_graph(model, &model->programs[i])) return -1;
    }
    return 0;
}

static void destroy_program(struct program *program) {
    if (program->exec) qc_cu.destroy_exec(program->exec);
    if (program->graph) qc_cu.destroy_graph(program->graph);
    for (int i = 0; program->nodes && i < program->plan->launch_count; i++) {
        free(program->nodes[i].values);
        free(program->nodes[i].pointers);
    }
    free(program->nodes);
    free(program->input_places);
    free(program->output_places);
}

static void destroy(struct qc_model *model) {
    qc_cu.push(model->context);
    qc_cu.finish(); /* what is enqueued still needs the memory */
    if (model->stream) qc_cu.destroy_stream(model->stream);
    for (int i = 0; model->programs && i < qc_library.program_count; i++) {
        destroy_program(&model->programs[i]);
    }
    free(model->programs);
    while (model->unused) {
        struct block *block = model->unused;
        model->unused = block->next;
        if (block->memory) qc_cu.free(block->memory);
        free(block);
    }
    if (model->pinned) qc_cu.free_host(model->pinned);
    if (model->staging) qc_cu.free(model->staging);
    if (model->workspace) qc_cu.free(model->workspace);
    if (model->constants) qc_cu.free(model->constants);
    if (model->module) qc_cu.unload(model->module);
    void *context;
    qc_cu.pop(&context);
    qc_cu.release(model->device);
    pthread_mutex_destroy(&model->lock);
    free(model);
}

struct qc_model *qc_open(int ordinal) {
    if (qc_start()) return NULL;
    int count = 0, device, result;
    void *context;
    if (qc_cu.count(&count) || ordinal < 0 || ordinal >= count) {
        snprintf(qc_message, sizeof qc_message, "no GPU %d: the NVIDIA driver finds %d", ordinal, count);
        return NULL;
    }
    if ((result = qc_cu.device(&device, ordinal)) || (result = qc_cu.retain(&context, device))) {
        qc_failed("a context", result);
        return NULL;
    }
    struct qc_model *model = calloc(1, sizeof *model);
    if (!model) {
        qc_cu.release(device);
        snprintf(qc_message, sizeof qc_message, "out of memory");
        return NULL;
    }
    pthread_mutex_init(&model->lock, NULL);
    model->references = 1;
    model->ordinal = ordinal;
    model->device = device;
    model->context = context;
    qc_cu.push(context);
    result = prepare(model);
    qc_cu.pop(&context);
    if (!result) return model;
    destroy(model);
    return NULL;
}

void qc_drop(struct qc_model *model) {
    pthread_mutex_lock(&model->lock);
    int left = --model->references;
    pthread_mutex_unlock(&model->lock);
    if (!left) destroy(model);
}

void qc_close(struct qc_model *model) {
    if (model) qc_drop(model);
}
