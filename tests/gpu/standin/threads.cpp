// The threads of a block as fibers: one runs until it ends or must wait (at __syncthreads() or in a warp's exchange),
// then the next. A thread that never waits costs no fiber: the next one begins on the same stack.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

#include <vector>

#include "runtime.h"

extern "C" unsigned char __start_npconv_shared[] __attribute__((visibility("hidden")));

#ifdef __x86_64__
// Where a fiber stands: its stack pointer, with the registers that a function must keep on the stack. swapcontext would
// ask the operating system for the signal mask as well, which takes many times longer.
typedef void* Context;
extern "C" void npconv_switch(Context* from, Context to);
asm(R"(
.text
.hidden npconv_switch
.globl npconv_switch
.type npconv_switch, @function
npconv_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
.size npconv_switch, . - npconv_switch
)");
static void prepare(Context& context, char* stack, size_t size, void (*entry)()) {
    void** top = (void**)(stack + size);  // six registers, the address to return to, and one for the alignment
    top[-2] = (void*)entry;
    context = top - 8;
}
#else
typedef ucontext_t* Context;
static void npconv_switch(Context* from, Context to) {
    ucontext_t here;
    *from = &here;
    swapcontext(&here, to);
}
static void prepare(Context& context, char* stack, size_t size, void (*entry)()) {
    ucontext_t* made = (ucontext_t*)stack;
    getcontext(made);
    made->uc_stack.ss_sp = stack + sizeof *made;
    made->uc_stack.ss_size = size - sizeof *made;
    made->uc_link = 0;
    makecontext(made, entry, 0);
    context = made;
}
#endif

namespace npconv_emulator {

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
// The last in the section of static shared memory: this file is linked after the kernel's.
__attribute__((section("npconv_shared"))) unsigned char shared_guard[GUARD] = {};
alignas(1024) unsigned char dynamic_shared[DYNAMIC_SHARED];

struct Thread {
    State state;
    int line;            // where it waits
    unsigned mask;       // with whom, in a warp
    unsigned exchanges;  // how many it has been in
    int fiber;
};

struct Fiber {
    Context context;
    char* stack;
    int thread;
};

static const size_t STATIC_SHARED = 48 * 1024;
static std::vector<Thread> threads;
static std::vector<Fiber> fibers;
static std::vector<int> free_fibers;
static std::vector<Slot> slots;  // two for each thread: one exchange may be read while the next one is written
static Context scheduler, nowhere;
static int current = -1, next_thread, order_reversed, barriers, first_fiber;
static long long block_number;
static void (*body)(void*);
static void* body_arguments;
static char* stacks;  // of all fibers, the same memory in each launch
static char error[1024];

// Keeps the first message; the thread that it is about is `current`, or the scheduler speaks.
static void record(const char* format, va_list list) {
    if (error[0]) return;
    int n = 0;
    if (current >= 0)
        n = snprintf(error, sizeof error, "block (%u, %u, %u), thread (%u, %u, %u): ", blockIdx.x, blockIdx.y,
                     blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
    vsnprintf(error + n, sizeof error - n, format, list);
}

// Ends the launch with a message, from a thread.
void fail(const char* format, ...) {
    va_list list;
    va_start(list, format);
    record(format, list);
    va_end(list);
    npconv_switch(&nowhere, scheduler);
    abort();
}

// Ends the launch with a message, from the scheduler, which then sees `error`.
__attribute__((format(printf, 1, 2))) static void give_up(const char* format, ...) {
    va_list list;
    va_start(list, format);
    current = -1;
    record(format, list);
    va_end(list);
}

static void become(int thread) {
    const int number = order_reversed ? (int)threads.size() - 1 - thread : thread;
    threadIdx = {number % blockDim.x, number / blockDim.x % blockDim.y, number / (blockDim.x * blockDim.y)};
    current = number;
}

// One fiber: takes threads that have not begun, until one waits; that one keeps the fiber.
static void fiber_main() {
    const int fiber = first_fiber;
    while (next_thread < (int)threads.size()) {
        become(next_thread++);
        threads[current].fiber = fiber;
        fibers[fiber].thread = current;
        body(body_arguments);
        threads[current].state = ENDED;
    }
    free_fibers.push_back(fiber);
    npconv_switch(&nowhere, scheduler);
}

void wait(State state, int line, unsigned mask) {
    Thread& self = threads[current];
    self.state = state, self.line = line, self.mask = mask;
    npconv_switch(&fibers[self.fiber].context, scheduler);
}

static void begin_fiber() {
    if (free_fibers.empty()) {
        free_fibers.push_back((int)fibers.size());
        fibers.push_back({0, stacks + fibers.size() * STACK, -1});
    }
    first_fiber = free_fibers.back();
    free_fibers.pop_back();
    Fiber& fiber = fibers[first_fiber];
    prepare(fiber.context, fiber.stack, STACK, fiber_main);
    npconv_switch(&scheduler, fiber.context);
}

static void go_on(int number) {
    const int count = (int)threads.size();
    threads[number].state = READY;
    become(order_reversed ? count - 1 - number : number);
    npconv_switch(&scheduler, fibers[threads[number].fiber].context);
}

// Lets every warp go on whose threads have all come to the same exchange; whether there was one.
static bool release_warps() {
    const int count = (int)threads.size();
    bool any = false;
    for (int step = 0, warps = (count + 31) / 32; step < warps; step++) {
        const int first = (order_reversed ? warps - 1 - step : step) * 32;
        unsigned waiting = 0;
        for (int lane = 0; lane < 32 && first + lane < count; lane++)
            if (threads[first + lane].state == IN_WARP) waiting |= 1u << lane;
        for (int lane = 0; lane < 32 && first + lane < count; lane++) {
            const Thread leader = threads[first + lane];
            if (!(waiting >> lane & 1) || (leader.mask & waiting) != leader.mask) continue;
            for (int other = 0; other < 32; other++)
                if (leader.mask >> other & 1) {
                    const Thread& member = threads[first + other];
                    if (member.mask != leader.mask || member.line != leader.line)
                        give_up("warp %d: lane %d is in an exchange on line %d with the mask %#x, lane %d on line %d "
                             "with the mask %#x", first / 32, lane, leader.line, leader.mask, other, member.line,
                             member.mask);
                    if (error[0]) return true;
                }
            for (int k = 0; k < 32; k++) {
                const int other = order_reversed ? 31 - k : k;
                if (leader.mask >> other & 1) {
                    go_on(first + other);
                    if (error[0]) return true;
                }
            }
            waiting &= ~leader.mask;
            any = true;
        }
    }
    return any;
}

static void run_block() {
    const int count = (int)threads.size();
    for (Thread& thread : threads) thread.state = READY, thread.exchanges = 0;
    next_thread = barriers = 0;
    while (next_thread < count && !error[0]) begin_fiber();
    while (!error[0]) {
        int barrier = -1, ended = -1, warp = -1;
        for (int t = 0; t < count; t++) {
            if (threads[t].state == AT_BARRIER) barrier = t;
            if (threads[t].state == ENDED) ended = t;
            if (threads[t].state == IN_WARP) warp = t;
        }
        if (warp < 0 && barrier < 0) return;
        if (warp >= 0) {
            if (release_warps()) continue;
            give_up("thread %d waits on line %d for threads of its warp that never come (mask %#x)", warp,
                 threads[warp].line, threads[warp].mask);
            return;
        }
        if (ended >= 0)
            give_up("divergent barrier: thread %d waits at __syncthreads() on line %d, but thread %d has ended", barrier,
                 threads[barrier].line, ended);
        for (int t = 0; t < count; t++)
            if (threads[t].line != threads[barrier].line)
                give_up("divergent barrier: thread %d waits at __syncthreads() on line %d, thread %d on line %d", barrier,
                     threads[barrier].line, t, threads[t].line);
        barriers++;
        for (int t = 0; t < count && !error[0]; t++) go_on(order_reversed ? count - 1 - t : t);
    }
}

// The values of all lanes of a warp (those in `mask` are valid), until this thread's next exchange.
const Slot* exchange(const void* value, size_t size, unsigned mask, int line) {
    const int lane = current % 32, first = current - lane, count = (int)threads.size();
    if (!(mask >> lane & 1)) fail("line %d: lane %d is not in its own mask %#x", line, lane, mask);
    if (first + 32 > count && mask >> (count - first))
        fail("line %d: the mask %#x names threads that the block (%d threads) does not have", line, mask, count);
    const unsigned half = threads[current].exchanges++ % 2;
    Slot* own = &slots[half * slots.size() / 2];
    memcpy(own[current].bytes, value, size);
    wait(IN_WARP, line, mask);
    return own + first;
}

int lane() { return current % 32; }

bool in_kernel() { return current >= 0; }

Moment now() { return {block_number, current, barriers, threads[current].exchanges}; }

// The stack of the running thread.
bool on_stack(const void* address) {
    const char* stack = fibers[threads[current].fiber].stack;
    return address >= stack && address < stack + STACK;
}

const char* run_grid(void (*kernel)(void*), void* arguments, const Launch* how) {
    body = kernel, body_arguments = arguments, stacks = how->stacks;
    error[0] = 0, current = -1, order_reversed = how->reversed;
    gridDim = {how->grid[0], how->grid[1], how->grid[2]};
    blockDim = {how->block[0], how->block[1], how->block[2]};
    unsigned char* first = __start_npconv_shared;
    const size_t count = (size_t)blockDim.x * blockDim.y * blockDim.z, static_bytes = shared_guard - first;
    if (count > MOST_THREADS) return "a block has more than 1024 threads";
    if (static_bytes > STATIC_SHARED) return "the file has more than 48 KiB of static shared memory";
    if (how->shared + static_bytes > MOST_SHARED) return "more than 227 KiB of shared memory";
    begin_checks(how, first, static_bytes);
    threads.assign(count, Thread());
    slots.assign(2 * count + 64, Slot());
    const long long blocks = (long long)gridDim.x * gridDim.y * gridDim.z;
    for (long long step = 0; step < blocks && !error[0]; step++) {
        block_number = order_reversed ? blocks - 1 - step : step;
        blockIdx = {(unsigned)(block_number % gridDim.x), (unsigned)(block_number / gridDim.x % gridDim.y),
                    (unsigned)(block_number / gridDim.x / gridDim.y)};
        memset(first, 0xff, static_bytes);  // NaN
        memset(dynamic_shared, 0xff, how->shared);
        run_block();
    }
    fibers.clear(), free_fibers.clear();
    end_checks();
    current = -1;
    return error;
}

}  // namespace npconv_emulator
