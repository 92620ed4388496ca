// What all kernels share. Python puts this text in front of each .cu file (backends/gpu/launching.py).
//
// REAL is float or double. Sums across threads are taken in one fixed order, so that the same inputs give the same
// bits. Only CUDA C++17 without headers: NVRTC has none.

#ifndef REAL
#error "REAL must be float or double: -DREAL=float"
#endif

// for (GRID_STRIDE(i, count)): every element below `count` once, whatever the grid; i is a long long.
#define GRID_STRIDE(i, count)                                                                        \
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x, i##_step = (long long)gridDim.x * blockDim.x; \
    i < (count);                                                                                     \
    i += i##_step

#define FULL_WARP 0xffffffffu

static __device__ __forceinline__ REAL real_infinity() { return (REAL)__int_as_float(0x7f800000); }

static __device__ __forceinline__ bool is_nan(REAL x) { return x != x; }

static __host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

// 16 bytes, read or written by one instruction: 4 floats or 2 doubles. The address must be a multiple of 16 bytes.
struct alignas(16) Pack {
    static constexpr int size = 16 / sizeof(REAL);
    REAL value[16 / sizeof(REAL)];
};

static __device__ __forceinline__ Pack load_pack(const REAL* from) { return *reinterpret_cast<const Pack*>(from); }

static __device__ __forceinline__ void store_pack(REAL* to, const Pack& pack) { *reinterpret_cast<Pack*>(to) = pack; }

// The sum over the 32 threads of a warp, in every one of them, as a fixed tree. All 32 must take part.
template <typename T>
static __device__ __forceinline__ T warp_sum(T value) {
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(FULL_WARP, value, distance);
    return value;
}

// The sum over all threads of a block, in thread 0 (elsewhere the result is of no use), as a fixed tree.
// The block is a multiple of 32 threads, one-dimensional; `scratch` is 32 values in shared memory. All threads must
// take part. It may be called again with the same scratch.
template <typename T>
static __device__ T block_sum(T value, T* scratch) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    value = warp_sum(value);
    __syncthreads();  // an earlier sum has been read
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    if (warp == 0) value = warp_sum(lane < warps ? scratch[lane] : T(0));
    return value;
}
