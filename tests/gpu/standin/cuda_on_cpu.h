// CUDA C++ on the CPU: enough of the language for the kernels, put in front of a .cu file and compiled with g++.
// threads.cpp runs the threads; checks.cpp sees every access to memory, through the calls that -fsanitize=thread puts
// into the kernel. What is wrong in a kernel is found and named, rather than left to chance.
#pragma once
#include <math.h>
#include <string.h>

#include <type_traits>
#include <utility>

#include "runtime.h"

#define NPCONV_EMULATED 1
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static __attribute__((section("npconv_shared")))

// ---- vector types ----
#define NPCONV_VECTORS(type, name, two, four)                                                       \
    struct alignas(2 * sizeof(type)) name##2 { type x, y; };                                        \
    struct name##3 { type x, y, z; };                                                               \
    struct alignas(4 * sizeof(type) < 16 ? 4 * sizeof(type) : 16) name##4 { type x, y, z, w; };     \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                         \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
NPCONV_VECTORS(float, float, 2, 4)
NPCONV_VECTORS(double, double, 2, 4)
NPCONV_VECTORS(int, int, 2, 4)
NPCONV_VECTORS(unsigned char, uchar, 2, 4)
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };

using npconv_emulator::blockDim;
using npconv_emulator::blockIdx;
using npconv_emulator::gridDim;
using npconv_emulator::threadIdx;
static const int warpSize = 32;

namespace npconv_emulator {

#define UNCHECKED __attribute__((no_sanitize("thread")))  // reads the host's memory, for the kernel

template <typename T>
UNCHECKED static T from_lane(T value, int lane, unsigned mask, int line) {
    static_assert(sizeof(T) <= sizeof(Slot), "an exchange carries 16 bytes");
    const Slot* lanes = exchange(&value, sizeof value, mask, line);
    if (lane < 0 || lane > 31 || !(mask >> lane & 1)) return value;
    memcpy(&value, lanes[lane].bytes, sizeof value);
    return value;
}

// What all 32 lanes hold, for instructions of a whole warp (mma).
template <typename T>
UNCHECKED static void gather_warp(const T& value, T (&all)[32], int line) {
    static_assert(sizeof(T) <= sizeof(Slot), "an exchange carries 16 bytes");
    const Slot* lanes = exchange(&value, sizeof value, 0xffffffffu, line);
    for (int lane = 0; lane < 32; lane++) memcpy(&all[lane], lanes[lane].bytes, sizeof value);
}

UNCHECKED static unsigned ballot(bool value, unsigned mask, int line) {
    const Slot* lanes = exchange(&value, sizeof value, mask, line);
    unsigned bits = 0;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1 && lanes[lane].bytes[0]) bits |= 1u << lane;
    return bits;
}

template <typename T>
constexpr char code_of() {
    typedef std::remove_cv_t<T> U;
    if (std::is_same_v<U, float>) return 'f';
    if (std::is_same_v<U, double>) return 'd';
    if (std::is_same_v<U, bool>) return '?';
    if (std::is_integral_v<U>) return "bhiq"[sizeof(U) == 1 ? 0 : sizeof(U) == 2 ? 1 : sizeof(U) == 4 ? 2 : 3];
    return 'V';
}

// The parameters of a kernel: two letters each, "P" or "-", then the kind of number.
template <typename... A>
static const char* signature(void (*)(A...)) {
    static char text[2 * sizeof...(A) + 1];
    char* end = text;
    auto one = [&](bool pointer, char code) { *end++ = pointer ? 'P' : '-', *end++ = code; };
    (one(std::is_pointer_v<A>, code_of<std::remove_pointer_t<std::remove_reference_t<A>>>()), ...);
    *end = 0;
    return text;
}

template <typename... A>
struct Call {
    void (*kernel)(A...);
    void** values;
    template <size_t... I>
    UNCHECKED void with(std::index_sequence<I...>) { kernel(*(std::remove_reference_t<A>*)values[I]...); }
    UNCHECKED static void go(void* self) { ((Call*)self)->with(std::index_sequence_for<A...>()); }
};

// Runs the grid; the message of what went wrong, or an empty text.
template <typename... A>
UNCHECKED static const char* launch(void (*kernel)(A...), void** values, const Launch* how) {
    Call<A...> call = {kernel, values};
    return run_grid(Call<A...>::go, &call, how);
}

}  // namespace npconv_emulator

// What Python calls for a kernel.
#define NPCONV_EXPORT(name)                                                                        \
    extern "C" __attribute__((visibility("default"))) const char* npconv_signature_##name() {      \
        return npconv_emulator::signature(&name);                                                  \
    }                                                                                              \
    extern "C" __attribute__((visibility("default"))) const char* npconv_launch_##name(            \
        void** values, const npconv_emulator::Launch* how) {                                       \
        return npconv_emulator::launch(&name, values, how);                                        \
    }

// ---- the language's functions ----
#define __syncthreads() ::npconv_emulator::wait(::npconv_emulator::AT_BARRIER, __LINE__, 0)
#define NPCONV_SYNCWARP(mask, ...) ((void)::npconv_emulator::ballot(true, mask, __LINE__))
#define __syncwarp(...) NPCONV_SYNCWARP(__VA_ARGS__ __VA_OPT__(, ) 0xffffffffu)
#define __shfl_sync(mask, value, source) ::npconv_emulator::from_lane(value, (source) & 31, mask, __LINE__)
#define __shfl_xor_sync(mask, value, bits) \
    ::npconv_emulator::from_lane(value, ::npconv_emulator::lane() ^ (bits), mask, __LINE__)
#define __shfl_down_sync(mask, value, by) \
    ::npconv_emulator::from_lane(value, ::npconv_emulator::lane() + (int)(by), mask, __LINE__)
#define __shfl_up_sync(mask, value, by) \
    ::npconv_emulator::from_lane(value, ::npconv_emulator::lane() - (int)(by), mask, __LINE__)
#define __ballot_sync(mask, value) ::npconv_emulator::ballot(value, mask, __LINE__)
#define __any_sync(mask, value) (::npconv_emulator::ballot(value, mask, __LINE__) != 0)
#define __all_sync(mask, value) (::npconv_emulator::ballot(!(value), mask, __LINE__) == 0)

template <typename T>
static inline T __ldg(const T* from) { return *from; }
static inline float __int_as_float(int bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline int __float_as_int(float x) { int bits; memcpy(&bits, &x, 4); return bits; }
static inline unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
static inline float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / ::sqrt(x); }
static inline float fdividef(float a, float b) { return a / b; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
// max and min are global in CUDA, and overloaded; the rest of C's mathematics is by <math.h>.
#define NPCONV_ORDER(type)                                                   \
    static inline type max(type a, type b) { return a < b ? b : a; }         \
    static inline type min(type a, type b) { return b < a ? b : a; }
NPCONV_ORDER(int) NPCONV_ORDER(unsigned) NPCONV_ORDER(long long) NPCONV_ORDER(unsigned long long)
static inline float max(float a, float b) { return fmaxf(a, b); }  // as in CUDA: NaN loses
static inline float min(float a, float b) { return fminf(a, b); }
static inline double max(double a, double b) { return ::fmax(a, b); }
static inline double min(double a, double b) { return ::fmin(a, b); }
static inline long long max(int a, long long b) { return max((long long)a, b); }
static inline long long max(long long a, int b) { return max(a, (long long)b); }
static inline long long min(int a, long long b) { return min((long long)a, b); }
static inline long long min(long long a, int b) { return min(a, (long long)b); }
