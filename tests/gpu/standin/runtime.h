// What a kernel, the scheduler of its threads and the checks know of each other.
#pragma once
#include <stddef.h>

namespace npconv_emulator {

struct dim3 { unsigned x, y, z; };
typedef dim3 uint3;
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

struct Range { unsigned char* first; long long bytes; };

struct Launch {
    unsigned grid[3], block[3];
    long long shared;
    int reversed;
    int arrays;           // how many `ranges`
    const Range* ranges;  // the arrays that the kernel was given
    const char* kinds;    // the size in bytes of an element of each, as a character
    char* stacks;         // STACK bytes for each of MOST_THREADS
};

const size_t STACK = 128 * 1024, MOST_THREADS = 1024;
const size_t MOST_SHARED = 227 * 1024, DYNAMIC_SHARED = MOST_SHARED + 64 * 1024, GUARD = 64 * 1024;
extern unsigned char shared_guard[];    // what lies behind static shared memory
extern unsigned char dynamic_shared[];  // what is behind the bytes a launch asked for is out of bounds

enum State { READY, AT_BARRIER, IN_WARP, ENDED };
struct alignas(16) Slot { unsigned char bytes[16]; };

// When an access happened: two threads of a block are in order if a barrier lies between, or an exchange of their warp.
struct Moment { long long block; int thread, barriers; unsigned exchanges; };

// threads.cpp
void wait(State state, int line, unsigned mask);
const Slot* exchange(const void* value, size_t size, unsigned mask, int line);
int lane();
bool in_kernel();
void fail(const char* format, ...) __attribute__((noreturn, format(printf, 1, 2)));
const char* run_grid(void (*kernel)(void*), void* arguments, const Launch* how);
Moment now();
bool on_stack(const void* address);

// checks.cpp
void begin_checks(const Launch* how, unsigned char* shared, size_t shared_bytes);
void end_checks();

}  // namespace npconv_emulator
