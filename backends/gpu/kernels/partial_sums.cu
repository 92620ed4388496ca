// The second half of a sum that is too long for one block: no atomics, one fixed order, the same bits every time.
//
//     add_partials   out[i] = sum over r of partials[r, i]          what the ranges of a kernel gradient found
//
// Thread mapping: a block is 32 neighbouring columns x 8 strands; strand s takes rows s, s + 8, ..., so that a warp
// reads 128 bytes at a time (float) and eight sums run side by side; then the strands are added, in order.

#define COLUMNS 32
#define STRANDS 8

__device__ inline REAL sum_rows(const REAL* from, long long rows, long long row_length, bool real) {
    __shared__ REAL strands[STRANDS][COLUMNS];
    REAL sum = 0;
    if (real)
#pragma unroll 8
        for (long long row = threadIdx.y; row < rows; row += STRANDS) sum += from[row * row_length];
    strands[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    REAL total = 0;
#pragma unroll
    for (int strand = 0; strand < STRANDS; ++strand) total += strands[strand][threadIdx.x];
    return total;
}

extern "C" __global__ void __launch_bounds__(COLUMNS * STRANDS) add_partials(
    const REAL* __restrict__ partials, REAL* __restrict__ out, long long count, long long rows) {
    const long long i = (long long)blockIdx.x * COLUMNS + threadIdx.x;
    const REAL total = sum_rows(partials + i, rows, count, i < count);
    if (i < count && threadIdx.y == 0) out[i] = total;
}
