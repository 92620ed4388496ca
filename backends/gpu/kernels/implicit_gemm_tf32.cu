// compile: REAL=float; TILE_M=128; TILE_N=64; VECTORS=0,1
// compile: REAL=float; TILE_M=64; TILE_N=32; VECTORS=0,1
// The three products of implicit_gemm.cu on tensor cores: float operands rounded to TF32, sums in float.
//
// TF32 keeps a float's exponent and 10 bits of its mantissa (and the hidden one): operands change by up to 2^-11 of
// themselves, rounded to nearest, ties away from zero; their products are exact in float. Infinities and NaN stay.
// An operand is rounded once, on its way into shared memory. That costs the registers that an asynchronous copy
// would save, and saves rounding it again by each of the warps that read it.
//
// A block of 4 warps, 2 x 2, makes TILE_M x TILE_N outputs; each warp a quarter, as m16n8k8 products: 4 x 4 of them
// (64 sums a thread) in a tile of 128 x 64, 2 x 2 in one of 64 x 32. For one step of 16 k, in a tile of 128 x 64, a
// warp reads 12 registers' worth of 16 bytes for 32 products.
//
// Which k is which does not matter to a sum as long as both operands agree. In one product a thread holds the k of
// numbers t and t + 4 (t = lane % 4); they stand for the k of numbers 4 t and 4 t + 1 of the tile, and in the second
// product for 4 t + 2 and 4 t + 3, so that what lies across in memory is read as one quad for both products:
//
//     across   [m][16]             lanes of a phase (2 rows, 4 quads) read 128 bytes that lie together
//     down     [k][m ^ 8 (k / 4)]  32 lanes read 4 rows of 8; the exclusive or puts them into 32 different banks
//
// and neither needs padding. Fragments are those of "mma.sync.m16n8k8" in NVIDIA's PTX ISA. For compute capability
// 8.0 and later.

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "NPCONV_TF32=1 needs a GPU of compute capability 8.0 or later"
#endif

struct alignas(16) SharedTiles {
    float a[2][TILE_M * 16], b[2][TILE_N * 16];
};

#define BLOCK_THREADS 128
#define BLOCKS (TILE_M == 128 ? 2 + VECTORS : 5)  // on a processor, at least

#include "tiles.cuh"

#ifdef NPCONV_EMULATED
__device__ inline float round_to_tf32(float x) {
    const unsigned bits = __float_as_uint(x);
    return (bits & 0x7f800000u) == 0x7f800000u ? x : __uint_as_float((bits + 0x1000u) & 0xffffe000u);
}

// The sum of eight products is rounded once.
__device__ inline void multiply_add(float (&c)[4], const Quad& a, const Lanes<2>& b) {
    Quad rows[32];
    Lanes<2> columns[32];
    npconv_emulator::gather_warp(a, rows, __LINE__);
    npconv_emulator::gather_warp(b, columns, __LINE__);
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; ++i) {
        double sum = c[i];
        for (int k = 0; k < 8; ++k) {
            const float left = rows[lane / 4 * 4 + k % 4].v[i / 2 + k / 4 * 2];
            const float right = columns[(lane % 4 * 2 + i % 2) * 4 + k % 4].v[k / 4];
            sum += (double)left * right;
        }
        c[i] = (float)sum;
    }
}
#else
__device__ inline float round_to_tf32(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
}

// c (16, 8) += a (16, 8) b (8, 8); a thread holds a at (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4), b at (t, g) and
// (t + 4, g), c at (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1), with g = lane / 4 and t = lane % 4.
__device__ inline void multiply_add(float (&c)[4], const Quad& a, const Lanes<2>& b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(__float_as_uint(a.v[0])), "r"(__float_as_uint(a.v[1])), "r"(__float_as_uint(a.v[2])),
          "r"(__float_as_uint(a.v[3])), "r"(__float_as_uint(b.v[0])), "r"(__float_as_uint(b.v[1])));
}
#endif

template <bool A_ACROSS, bool B_ACROSS>
struct Product {
    static constexpr int BM = TILE_M, BN = TILE_N, BK = 16, THREADS = BLOCK_THREADS;
    static constexpr int DOWN = BM / 32, ACROSS = BN / 16;  // products of a warp
    static constexpr int ROWS = 2 * DOWN, COLUMNS = ACROSS, WIDTH = 2;
    float sums[DOWN][ACROSS][4];

    __device__ static int group() { return threadIdx.x % 32 / 4; }
    __device__ static int in_group() { return threadIdx.x % 4; }
    __device__ static int first_row() { return threadIdx.x / 64 * (BM / 2); }
    __device__ static int first_column() { return threadIdx.x / 32 % 2 * (BN / 2); }

    __device__ int row(int i) const { return first_row() + 8 * i + group(); }
    __device__ int column(int j) const { return first_column() + 8 * j + 2 * in_group(); }
    __device__ Lanes<2> values(int i, int j) const {
        return Lanes<2>{{sums[i / 2][j][i % 2 * 2], sums[i / 2][j][i % 2 * 2 + 1]}};
    }

    __device__ void clear() {
#pragma unroll
        for (int i = 0; i < DOWN; ++i)
#pragma unroll
            for (int j = 0; j < ACROSS; ++j)
#pragma unroll
                for (int l = 0; l < 4; ++l) sums[i][j][l] = 0;
    }

    __device__ static int across(int m, int k) { return m * BK + k; }
    __device__ static int down(int k, int m, int length) { return k * length + (m ^ k / 4 * 8); }

    __device__ static void put(float* to, const Quad& quad) {
        *reinterpret_cast<Quad*>(to) = Quad{{round_to_tf32(quad.v[0]), round_to_tf32(quad.v[1]),
                                             round_to_tf32(quad.v[2]), round_to_tf32(quad.v[3])}};
    }
    __device__ static void put_source(SharedTiles& s, int buffer, int m, int k, const Quad& quad) {
        put(&s.a[buffer][across(m, k)], quad);
    }
    __device__ static void put_outputs(SharedTiles& s, int buffer, int k, int n, const Quad& quad) {
        put(&s.b[buffer][down(k, n, BN)], quad);
    }
    __device__ static void put_terms(SharedTiles& s, int buffer, int n, int k, const Quad& quad) {
        put(&s.b[buffer][across(n, k)], quad);
    }
    __device__ static void put_taps(SharedTiles& s, int buffer, int k, int m, const Quad& quad) {
        put(&s.a[buffer][down(k, m, BM)], quad);
    }

    // The four k that this thread holds, of one m (or n).
    template <bool IS_ACROSS>
    __device__ static Quad four(const float* tile, int m, int length) {
        if constexpr (IS_ACROSS) {
            return load_quad(tile + across(m, 4 * in_group()));
        } else {
            Quad quad;
#pragma unroll
            for (int l = 0; l < 4; ++l) quad.v[l] = tile[down(4 * in_group() + l, m, length)];
            return quad;
        }
    }

    __device__ void multiply(const SharedTiles& s, int buffer) {
        Quad b[ACROSS];
#pragma unroll
        for (int j = 0; j < ACROSS; ++j) b[j] = four<B_ACROSS>(s.b[buffer], first_column() + 8 * j + group(), BN);
#pragma unroll
        for (int i = 0; i < DOWN; ++i) {
            const Quad upper = four<A_ACROSS>(s.a[buffer], first_row() + 16 * i + group(), BM);
            const Quad lower = four<A_ACROSS>(s.a[buffer], first_row() + 16 * i + group() + 8, BM);
#pragma unroll
            for (int half = 0; half < 4; half += 2) {
                const Quad a{{upper.v[half], lower.v[half], upper.v[half + 1], lower.v[half + 1]}};
#pragma unroll
                for (int j = 0; j < ACROSS; ++j)
                    multiply_add(sums[i][j], a, Lanes<2>{{b[j].v[half], b[j].v[half + 1]}});
            }
        }
    }
};

#include "gemm_kernels.cuh"
