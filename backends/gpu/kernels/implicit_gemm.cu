// compile: REAL=float; TILE_M=128; TILE_N=64; VECTORS=0,1
// compile: REAL=float,double; TILE_M=64; TILE_N=32; VECTORS=0,1
// Convolutions as matrix products whose matrices are never stored, in plain multiply-adds (float or double).
//
//     forward           y[pixel, o]       = sum over (tap, c)  x[window of pixel, tap, c] W[tap, c, o]
//     adjoint           dx[pixel, c]      = sum over (tap, o)  dy[pixel that saw it by tap, o] W[tap, c, o]
//     kernel_gradient   dW[(tap, c), o]   = sum over pixels    x[window, tap, c] dy[pixel, o]
//
// tiles.cuh walks over the matrices, indices.cuh says which element is where; this file is the product of two tiles in
// shared memory. Tiles in shared memory, smaller ones in registers, the next on its way: so is every GEMM on such a
// device. Gathering its operands by index is cuDNN's "implicit GEMM" (Chetlur et al., "cuDNN: Efficient Primitives for
// Deep Learning", 2014).
//
// Thread mapping: a block of TILE_M / 8 x TILE_N / 4 threads makes TILE_M x TILE_N outputs, each thread 8 x 4 of them,
// as two quads of rows TILE_M / 2 apart: 32 multiply-adds for three 16-byte reads of shared memory. A warp lies 8
// threads (all of b's 128 bytes) or 16 across, and 4 or 2 down, whose reads of a are broadcast: no bank conflicts. Rows
// of both tiles are padded by 4 elements, so that writing a quad of k, one element to each of 4 rows, meets in one bank
// two at a time and not eight.
//
// TILE_M x TILE_N: 128 x 64 for large layers in float (256 threads; at most 128 registers keep two blocks on a
// processor), 64 x 32 for those too small to fill the device, and for double, whose large tiles would pass the 48 KB
// of shared memory that a block has without asking.

struct alignas(16) SharedTiles {
    REAL a[2][16][TILE_M + 4], b[2][16][TILE_N + 4];
};

#define BLOCK_THREADS (TILE_M / 8 * TILE_N / 4)
#define BLOCKS (sizeof(REAL) == 8 ? 4 : 512 / BLOCK_THREADS > 6 ? 6 : 512 / BLOCK_THREADS)  // on a processor, at least

#include "tiles.cuh"

template <bool A_ACROSS, bool B_ACROSS>  // here both lie alike in shared memory
struct Product {
    static constexpr int BM = TILE_M, BN = TILE_N, BK = 16, THREADS = BLOCK_THREADS;
    static constexpr int ROWS = 8, COLUMNS = 1, WIDTH = 4;
    REAL sums[8][4];

    __device__ static int down() { return threadIdx.x / (BN / 4) * 4; }
    __device__ int row(int i) const { return down() + i % 4 + i / 4 * (BM / 2); }
    __device__ int column(int) const { return threadIdx.x % (BN / 4) * 4; }
    __device__ Quad values(int i, int) const { return Quad{{sums[i][0], sums[i][1], sums[i][2], sums[i][3]}}; }

    __device__ void clear() {
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) sums[i][j] = 0;
    }

    // A quad of four k of one row m or column n, and one of four rows or columns of one k.
    __device__ static void put_across(REAL* to, int row_length, const Quad& quad) {
#pragma unroll
        for (int i = 0; i < 4; ++i) to[i * row_length] = quad.v[i];
    }
    __device__ static void put_source(SharedTiles& s, int buffer, int m, int k, const Quad& quad) {
        put_across(&s.a[buffer][k][m], BM + 4, quad);
    }
    __device__ static void put_outputs(SharedTiles& s, int buffer, int k, int n, const Quad& quad) {
        *reinterpret_cast<Quad*>(&s.b[buffer][k][n]) = quad;
    }
    __device__ static void put_terms(SharedTiles& s, int buffer, int n, int k, const Quad& quad) {
        put_across(&s.b[buffer][k][n], BN + 4, quad);
    }
    __device__ static void put_taps(SharedTiles& s, int buffer, int k, int m, const Quad& quad) {
        *reinterpret_cast<Quad*>(&s.a[buffer][k][m]) = quad;
    }

    __device__ void multiply(const SharedTiles& s, int buffer) {
#pragma unroll
        for (int k = 0; k < BK; ++k) {
            const Quad upper = load_quad(&s.a[buffer][k][down()]), lower = load_quad(&s.a[buffer][k][down() + BM / 2]);
            const Quad b = load_quad(&s.b[buffer][k][column(0)]);
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    sums[i][j] += upper.v[i] * b.v[j];
                    sums[i + 4][j] += lower.v[i] * b.v[j];
                }
        }
    }
};

#include "gemm_kernels.cuh"
