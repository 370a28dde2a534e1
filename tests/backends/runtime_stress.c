/* Three callers share the threads and the scratch memory of backends/cpu/runtime.c. */

#include "runtime.c"

#include <stdio.h>
#include <string.h>

enum { ELEMENTS = 1000, LAUNCHES = 50, CALLS = 60, CALLERS = 3 };

static int count_up(int task, Group *group, void *data) {
    int *x = data, step = (ELEMENTS + group->tasks - 1) / group->tasks;
    char *own = scratch(100 + task);
    if (!own) return 1;
    memset(own, task, 100);
    for (int i = task * step; i < (task + 1) * step && i < ELEMENTS; i++) x[i]++;
    for (int i = 0; i < 100; i++)
        if (own[i] != task) return 1;
    return give_back(own);
}

static int count(char *const *arguments, char *workspace, int64_t *clock) {
    int *x = (int *)workspace, wrong = 0;
    memset(x, 0, ELEMENTS * sizeof(int));
    for (int i = 0; i < LAUNCHES; i++)
        if (parallel(count_up, x, 0)) return 1;
    for (int i = 0; i < ELEMENTS; i++) wrong += x[i] != LAUNCHES;
    *(int *)arguments[0] = wrong;
    if (clock) tick(clock);
    return 0;
}

static const Program program = {count, ELEMENTS * sizeof(int)};

static const Program *find(int number) { return number ? 0 : &program; }

static atomic_int wrong_calls;

static void *caller(void *number) {
    for (int i = 0; i < CALLS; i++) {
        int wrong = 1;
        char *arguments[1] = {(char *)&wrong};
        qc_open();
        if (qc_run(0, arguments, 1 + (i + (int)(intptr_t)number) % 4, 0) || wrong) wrong_calls++;
        qc_close();
    }
    return 0;
}

int main(void) {
    pthread_t callers[CALLERS];
    for (intptr_t i = 0; i < CALLERS; i++) pthread_create(&callers[i], 0, caller, (void *)i);
    for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], 0);
    printf("%d wrong, %d workers, %s\n", wrong_calls, worker_count, blocks ? "leak" : "empty");
    return 0;
}
