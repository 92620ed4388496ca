// Every access of a kernel to memory: is it inside an array that the kernel was given (or shared memory), is it
// aligned, and is it ordered after what other threads did there?
//
// g++ -fsanitize=thread puts a call before each access, and -fsanitize=bounds,alignment,... one where C++ leaves the
// result undefined. The sanitizers' own libraries are not linked: these functions stand in for them.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#include "runtime.h"

extern "C" unsigned char __ehdr_start[] __attribute__((visibility("hidden")));  // this library, from ...
extern "C" unsigned char _end[] __attribute__((visibility("hidden")));          // ... to

namespace npconv_emulator {

// What was last done to a few bytes: one writer, and two readers that are different threads.
struct Access { Moment when; bool valid; };
struct Shadow { Access writer, readers[2]; };

struct Area {
    unsigned char *first, *last;
    int grain;    // bytes that a Shadow stands for
    bool shared;  // memory of a block, which other blocks do not see
    int argument;
    std::vector<Shadow*> pages;  // made when touched
};

static const long long PAGE = 128;
static std::vector<Area> areas;
static size_t latest;

static void add_area(unsigned char* first, long long bytes, int grain, bool shared, int argument) {
    if (bytes <= 0) return;
    areas.push_back({first, first + bytes, grain, shared, argument, {}});
    areas.back().pages.resize(bytes / grain / PAGE + 1);
}

void begin_checks(const Launch* how, unsigned char* shared, size_t shared_bytes) {
    latest = 0;
    add_area(shared, shared_bytes, 1, true, -1);
    add_area(dynamic_shared, how->shared, 1, true, -1);
    for (int i = 0; i < how->arrays; i++)
        add_area(how->ranges[i].first, how->ranges[i].bytes, how->kinds[i] >= 4 ? 4 : 1, false, i);
}

void end_checks() {
    for (Area& area : areas)
        for (Shadow* page : area.pages) free(page);
    areas.clear();
}

static Area* area_of(const unsigned char* address, size_t size) {
    if (latest < areas.size() && address >= areas[latest].first && address + size <= areas[latest].last)
        return &areas[latest];
    for (size_t i = 0; i < areas.size(); i++)
        if (address >= areas[i].first && address + size <= areas[i].last) return &areas[latest = i];
    return 0;
}

static void out_of_bounds(const unsigned char* address, size_t size, const char* verb) {
    const Area* nearest = 0;
    long long distance = 0;
    for (const Area& area : areas) {
        const long long away = address < area.first ? address - area.first : address + size - area.last;
        if (!nearest || llabs(away) < llabs(distance)) nearest = &area, distance = away;
    }
    if (!nearest) fail("%s %zu bytes out of bounds: the kernel was given no memory", verb, size);
    char name[64] = "shared memory";
    if (nearest->argument >= 0) snprintf(name, sizeof name, "array argument %d", nearest->argument);
    fail("%s %zu bytes out of bounds, %lld bytes %s %s", verb, size, llabs(distance),
         distance < 0 ? "before the start of" : "past the end of", name);
}

static bool ordered(const Access& before, const Moment& after, const Area& area) {
    if (!before.valid) return true;
    const Moment& when = before.when;
    if (when.block != after.block) return area.shared;
    if (when.thread == after.thread || when.barriers != after.barriers) return true;
    return when.thread / 32 == after.thread / 32 && when.exchanges != after.exchanges;
}

static void race(const Area& area, const unsigned char* address, const Access& other, const char* did, const char* does) {
    char name[64] = "shared memory";
    if (area.argument >= 0) snprintf(name, sizeof name, "array argument %d", area.argument);
    fail("race: %s %s at byte %lld, which thread %d of block %lld %s, with no barrier between", does, name,
         (long long)(address - area.first), other.when.thread, other.when.block, did);
}

static void access(const void* where, size_t size, bool writes) {
    if (!in_kernel()) return;
    const unsigned char* address = (const unsigned char*)where;
    Area* area = area_of(address, size);
    if (!area) {
        // A kernel may read what lies in its library (threadIdx, constants), but for what is behind shared memory.
        const bool in_library = address >= __ehdr_start && address < _end;
        const bool behind = (address >= shared_guard && address < shared_guard + GUARD) ||
                            (address >= dynamic_shared && address < dynamic_shared + DYNAMIC_SHARED);
        if ((in_library && !behind && !writes) || on_stack(address)) return;
        out_of_bounds(address, size, writes ? "writes" : "reads");
    }
    const Moment moment = now();
    const long long last = (address + size - 1 - area->first) / area->grain;
    for (long long i = (address - area->first) / area->grain; i <= last; i++) {
        Shadow*& page = area->pages[i / PAGE];
        if (!page) page = (Shadow*)calloc(PAGE, sizeof(Shadow));
        Shadow& shadow = page[i % PAGE];
        if (!ordered(shadow.writer, moment, *area))
            race(*area, address, shadow.writer, "writes", writes ? "writes" : "reads");
        if (writes) {
            for (const Access& reader : shadow.readers)
                if (!ordered(reader, moment, *area)) race(*area, address, reader, "reads", "writes");
            shadow.writer = {moment, true};
        } else {
            // Of readers at the same time two are enough: a later writer can be one of them only.
            const bool same = shadow.readers[0].valid && shadow.readers[0].when.block == moment.block &&
                              shadow.readers[0].when.thread == moment.thread;
            if (same || ordered(shadow.readers[0], moment, *area))
                shadow.readers[0] = {moment, true};
            else
                shadow.readers[1] = {moment, true};
        }
    }
}

struct SourceLocation { const char* file; uint32_t line, column; };

}  // namespace npconv_emulator

using npconv_emulator::access;
using npconv_emulator::fail;
using npconv_emulator::SourceLocation;

extern "C" {
#define SIZES(what) what(1) what(2) what(4) what(8) what(16)
#define ACCESSES(n)                                                        \
    void __tsan_read##n(void* at) { access(at, n, false); }               \
    void __tsan_write##n(void* at) { access(at, n, true); }               \
    void __tsan_unaligned_read##n(void* at) { access(at, n, false); }     \
    void __tsan_unaligned_write##n(void* at) { access(at, n, true); }
SIZES(ACCESSES)
void __tsan_read_range(void* at, size_t size) { access(at, size, false); }
void __tsan_write_range(void* at, size_t size) { access(at, size, true); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}

void __ubsan_handle_out_of_bounds(SourceLocation* at, uintptr_t index) {
    fail("%s:%u: index %lld is out of the array's bounds", at->file, at->line, (long long)index);
}
void __ubsan_handle_type_mismatch_v1(SourceLocation* at, uintptr_t address) {
    fail("%s:%u: the address %#llx is null, or not aligned for what is read or written there", at->file, at->line,
         (unsigned long long)address);
}
#define OVERFLOW(name)                                                                   \
    void __ubsan_handle_##name##_overflow(SourceLocation* at, uintptr_t, uintptr_t) {   \
        fail("%s:%u: integer overflow or division by zero", at->file, at->line);        \
    }
OVERFLOW(add) OVERFLOW(sub) OVERFLOW(mul) OVERFLOW(divrem) OVERFLOW(negate)
void __ubsan_handle_shift_out_of_bounds(SourceLocation* at, uintptr_t, uintptr_t) {
    fail("%s:%u: shift by a negative or too large number of bits", at->file, at->line);
}
}
