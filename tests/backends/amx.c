/* AMX instructions where the CPU has none: each raises SIGILL, and the handler does what Intel's
 * Software Developer's Manual defines (vol. 2, the pages of the instructions; vol. 1, chapter 18).
 * Kernels run as they were compiled.  What the manual forbids, and rows that reach memory which is
 * not mapped, are recorded for amx_error. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64 };

typedef struct {
    int loaded;
    unsigned rows[TILES], row_bytes[TILES];
    uint8_t data[TILES][ROWS][ROW_BYTES];
} State;

static __thread State tiles;
static char error[200];
static long count, configured;

static void fail(const char *what) {
    if (!error[0]) snprintf(error, sizeof error, "%s", what);
}

static int copy(void *to, const void *from, size_t bytes, int store) {
    struct iovec here = {store ? (void *)from : to, bytes}, there = {store ? to : (void *)from, bytes};
    ssize_t done = store ? process_vm_writev(getpid(), &here, 1, &there, 1, 0)
                         : process_vm_readv(getpid(), &here, 1, &there, 1, 0);
    return done == (ssize_t)bytes;
}

static void configure(const uint8_t *address) {
    uint8_t config[64];
    State fresh = {.loaded = 1};
    if (!copy(config, address, sizeof config, 0)) { fail("ldtilecfg reads unmapped memory"); return; }
    if (config[0] != 1) fail("ldtilecfg: palette is not 1");
    for (int i = 1; i < 16; i++) if (config[i]) fail("ldtilecfg: start row or reserved bytes");
    for (int i = 0; i < 16; i++) {
        unsigned bytes = config[16 + 2 * i] | config[17 + 2 * i] << 8, rows = config[48 + i];
        if (i >= TILES) {
            if (bytes || rows) fail("ldtilecfg: a tile beyond the palette");
            continue;
        }
        if (bytes > ROW_BYTES || rows > ROWS) fail("ldtilecfg: a tile too large");
        if (!bytes != !rows) fail("ldtilecfg: rows without bytes, or bytes without rows");
        fresh.rows[i] = rows;
        fresh.row_bytes[i] = bytes;
    }
    if (error[0]) return;
    if (!tiles.loaded) __atomic_add_fetch(&configured, 1, __ATOMIC_SEQ_CST);
    tiles = fresh;
}

static void release(void) {
    if (tiles.loaded) __atomic_sub_fetch(&configured, 1, __ATOMIC_SEQ_CST);
    memset(&tiles, 0, sizeof tiles);
}

static int usable(unsigned tile) {
    if (!tiles.loaded) fail("a tile is used without configuration");
    else if (!tiles.rows[tile]) fail("a tile is used that is not configured");
    else return 1;
    return 0;
}

static void move(unsigned tile, uint8_t *first, int64_t stride, int store) {
    if (!usable(tile)) return;
    if (!store) memset(tiles.data[tile], 0, sizeof tiles.data[tile]);
    for (unsigned row = 0; row < tiles.rows[tile]; row++) {
        uint8_t *memory = first + row * stride, *own = tiles.data[tile][row];
        int done = store ? copy(memory, own, tiles.row_bytes[tile], 1)
                         : copy(own, memory, tiles.row_bytes[tile], 0);
        if (!done) { fail(store ? "tilestored writes unmapped memory" : "tileloadd reads unmapped memory"); return; }
    }
}

static int32_t extend(uint8_t byte, int is_signed) { return is_signed ? (int8_t)byte : byte; }

static void dot(unsigned c, unsigned a, unsigned b, int a_signed, int b_signed) {
    if (a == b || a == c || b == c) { fail("a product of a tile and itself"); return; }
    if (!usable(a) || !usable(b) || !usable(c)) return;
    if (tiles.rows[c] != tiles.rows[a] || tiles.row_bytes[c] != tiles.row_bytes[b] ||
        tiles.row_bytes[a] != 4 * tiles.rows[b] || tiles.row_bytes[c] % 4) {
        fail("a product of tiles whose shapes do not agree");
        return;
    }
    for (unsigned m = 0; m < tiles.rows[c]; m++)
        for (unsigned k = 0; k < tiles.rows[b]; k++)
            for (unsigned n = 0; n < tiles.row_bytes[c] / 4; n++) {
                uint32_t sum;
                memcpy(&sum, tiles.data[c][m] + 4 * n, 4);
                for (int i = 0; i < 4; i++)
                    sum += (uint32_t)(extend(tiles.data[a][m][4 * k + i], a_signed) *
                                      extend(tiles.data[b][k][4 * n + i], b_signed));
                memcpy(tiles.data[c][m] + 4 * n, &sum, 4);
            }
    for (unsigned m = tiles.rows[c]; m < ROWS; m++) memset(tiles.data[c][m], 0, ROW_BYTES);
}

static const int REGISTERS[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI,
    REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/* One instruction at `code`; its length, or 0 if it is none of AMX. */
static int execute(const uint8_t *code, const greg_t *registers) {
    if (code[0] != 0xC4 || (code[1] & 0x1F) != 2 || (code[2] & 0x84)) return 0; /* VEX.128.0F38.W0 */
    unsigned prefix = code[2] & 3, third = ~(code[2] >> 3) & 15, opcode = code[3], modrm = code[4];
    unsigned mod = modrm >> 6, reg = modrm >> 3 & 7, rm = modrm & 7;
    int length = 5;
    if (opcode != 0x49 && opcode != 0x4B && opcode != 0x5E) return 0;
    if (mod == 3) {
        if (opcode == 0x5E) dot(reg, rm, third, prefix == 3 || prefix == 2, prefix == 3 || prefix == 1);
        else if (opcode == 0x49 && prefix == 0 && modrm == 0xC0) release();
        else if (opcode == 0x49 && prefix == 3 && rm == 0) {
            if (usable(reg)) memset(tiles.data[reg], 0, sizeof tiles.data[reg]);
        } else return 0;
        return length;
    }
    int64_t base = 0, index = 0;
    int32_t shift = 0, wide = mod == 2;
    if (rm == 4) {
        unsigned sib = code[length++], low = sib & 7, middle = sib >> 3 & 7;
        low |= code[1] & 0x20 ? 0 : 8;
        middle |= code[1] & 0x40 ? 0 : 8;
        if (mod == 0 && (low & 7) == 5) wide = 1;
        else base = registers[REGISTERS[low]];
        if (middle != 4) index = (int64_t)((uint64_t)registers[REGISTERS[middle]] << (sib >> 6));
    } else if (mod == 0 && rm == 5) {
        base = registers[REG_RIP] + length + 4;
        wide = 1;
    } else base = registers[REGISTERS[rm | (code[1] & 0x20 ? 0 : 8)]];
    if (wide) { memcpy(&shift, code + length, 4); length += 4; }
    else if (mod == 1) shift = (int8_t)code[length++];
    if (opcode == 0x4B && rm != 4) return 0;
    if (opcode == 0x49 && prefix == 0 && reg == 0) configure((uint8_t *)(base + index + shift));
    else if (opcode == 0x4B && (prefix == 3 || prefix == 1)) move(reg, (uint8_t *)(base + shift), index, 0);
    else if (opcode == 0x4B && prefix == 2) move(reg, (uint8_t *)(base + shift), index, 1);
    else return 0;
    return length;
}

static struct sigaction before;

static void handle(int signal_number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    int length = execute((const uint8_t *)registers[REG_RIP], registers);
    (void)info;
    if (!length) { /* not ours: happens again, and ends the process */
        signal(signal_number, SIG_DFL);
        return;
    }
    __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED);
    registers[REG_RIP] += length;
}

void amx_install(void) {
    struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO};
    sigaction(SIGILL, &action, &before);
}

void amx_remove(void) { sigaction(SIGILL, &before, 0); }

/* What went wrong since the last call; "" if nothing. */
const char *amx_error(void) {
    static char last[sizeof error];
    memcpy(last, error, sizeof error);
    if (!last[0] && configured) snprintf(last, sizeof last, "tiles were not released");
    error[0] = 0;
    configured = 0;
    return last;
}

/* Instructions that were executed here. */
long amx_count(void) { return count; }

/* Memory that ends where unmapped memory begins. */
void *guarded(size_t bytes) {
    size_t page = sysconf(_SC_PAGESIZE), size = (bytes + page - 1) / page * page;
    uint8_t *memory = mmap(0, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + size, page, PROT_NONE)) return 0;
    return memory + size - bytes;
}

void release_guarded(void *memory, size_t bytes) {
    size_t page = sysconf(_SC_PAGESIZE), size = (bytes + page - 1) / page * page;
    munmap((uint8_t *)memory + bytes - size, size + page);
}
