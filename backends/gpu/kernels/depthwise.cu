// compile: REAL=float,double; LANES=1,4
// Convolutions with a group for each channel: no product over channels, so nothing to tile; memory is the bound.
//
//     forward           y[pixel, o] = sum over taps  x[window, tap, o / M] W[tap, o],    M outputs of each channel
//     adjoint           dx[pixel, c] = sum over taps and m < M  dy[pixel that saw it, c M + m] W[tap, c M + m]
//     kernel_gradient   dW[tap, o] = sum over pixels  x[window, tap, o / M] dy[pixel, o]
//
// The kernel is (KH, KW, O) in memory. Thread mapping of the first two: x over LANES neighbouring channels (4 where
// M = 1 and C is a multiple of 4: 16-byte loads, 512 bytes a warp), y over pixels: neighbouring warps read
// neighbouring windows, which the L1 cache joins. Taps outside are skipped, not multiplied by zero.
// Of the third: 32 channels x 8 strands of pixels a block; each thread holds the sums of 9 taps of one channel, and
// further taps are further blocks; strands are added in shared memory in order, ranges of pixels by add_partials.

#include "elements.cuh"
#include "indices.cuh"

#define BLOCKS 3  // on a processor, at least: left to itself the compiler aims at more, and spills
#define TAPS 9
#define STRANDS 8
#define COLUMNS 32

// Grid: x pixels, y channels and phases.
template <bool ADJOINT>
__device__ inline void gather_depthwise(const REAL* source, const REAL* kernel, REAL* target, const Epilogue& finish,
                                        const Sizes& s) {
    const int phases = ADJOINT ? s.stride_h * s.stride_w : 1;
    const Gather g = gather_of<ADJOINT>(s, blockIdx.y % phases);
    const int channel = (blockIdx.y / phases * blockDim.x + threadIdx.x) * LANES;
    const long long m = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    if (channel >= g.target_channels || m >= positions_of(g)) return;

    const int many = LANES > 1 ? 1 : s.out_channels / s.channels;  // M
    const int first = ADJOINT ? channel * many : channel / many, terms = ADJOINT ? many : 1;
    const Pixel at = pixel_at(m, g.down.count, g.across.count);
    Lanes<LANES> sum;
#pragma unroll
    for (int l = 0; l < LANES; ++l) sum.v[l] = 0;
    for (int i = 0; i < g.down.taps; ++i) {
        const int row = at.row * g.down.multiplier + g.down.offset + i * g.down.tap_move;
        for (int j = 0; j < g.across.taps; ++j) {
            const int column = at.column * g.across.multiplier + g.across.offset + j * g.across.tap_move;
            if (!within(row, column, g.down.limit, g.across.limit)) continue;
            const REAL* from =
                source + pixel_offset(at.image, row, column, g.down.limit, g.across.limit, g.source_channels) + first;
            const REAL* weights =
                kernel + kernel_offset(g, s.kernel_w, Walk{0, j, i}, 0, ADJOINT ? first : channel, 1, s.out_channels);
#pragma unroll 1
            for (int t = 0; t < terms; ++t) {
                const Lanes<LANES> x = *reinterpret_cast<const Lanes<LANES>*>(from + t);
                const Lanes<LANES> w = *reinterpret_cast<const Lanes<LANES>*>(weights + t);
#pragma unroll
                for (int l = 0; l < LANES; ++l) sum.v[l] += x.v[l] * w.v[l];
            }
        }
    }
#pragma unroll
    for (int l = 0; l < LANES; ++l) sum.v[l] = finish(sum.v[l], channel + l);
    *reinterpret_cast<Lanes<LANES>*>(target + target_offset(g, m) + channel) = sum;
}

extern "C" __global__ void __launch_bounds__(256, BLOCKS) forward(
    const REAL* __restrict__ x, const REAL* __restrict__ kernel, const REAL* __restrict__ bias, REAL* __restrict__ y,
    int activation, REAL slope, int images, int height, int width, int channels, int out_height, int out_width,
    int out_channels, int kernel_h, int kernel_w, int stride_h, int stride_w, int top, int left, int dilation_h,
    int dilation_w, int groups) {
    gather_depthwise<false>(x, kernel, y, Epilogue{bias, activation, slope}, SIZES);
}

extern "C" __global__ void __launch_bounds__(256, BLOCKS) adjoint(
    const REAL* __restrict__ y, const REAL* __restrict__ kernel, const REAL* __restrict__ bias, REAL* __restrict__ x,
    int activation, REAL slope, int images, int height, int width, int channels, int out_height, int out_width,
    int out_channels, int kernel_h, int kernel_w, int stride_h, int stride_w, int top, int left, int dilation_h,
    int dilation_w, int groups) {
    gather_depthwise<true>(y, kernel, x, Epilogue{bias, activation, slope}, SIZES);
}

// Grid: x channels, y ranges of `range` pixels, z taps. out is (ranges, KH KW, O).
extern "C" __global__ void __launch_bounds__(COLUMNS * STRANDS, BLOCKS) kernel_gradient(
    const REAL* __restrict__ x, const REAL* __restrict__ grad, REAL* __restrict__ out, long long range, int images,
    int height, int width, int channels, int out_height, int out_width, int out_channels, int kernel_h, int kernel_w,
    int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w, int groups) {
    __shared__ REAL strands[STRANDS][TAPS][COLUMNS];
    const int o = blockIdx.x * COLUMNS + threadIdx.x, taps = kernel_h * kernel_w, tap = blockIdx.z * TAPS;
    const int c = o / (out_channels / channels);
    const long long pixels = (long long)images * out_height * out_width, first = blockIdx.y * range;
    const long long last = pixels - first < range ? pixels : first + range;

    int row[TAPS], column[TAPS];
    REAL sums[TAPS];
#pragma unroll
    for (int t = 0; t < TAPS; ++t) {
        row[t] = tap + t < taps ? (tap + t) / kernel_w * dilation_h - top : FAR_OUTSIDE;
        column[t] = (tap + t) % kernel_w * dilation_w - left;
        sums[t] = 0;
    }
    Pixel at = pixel_at(first + threadIdx.y, out_height, out_width);
    const Pixel by = pixel_at(STRANDS, out_height, out_width);
    for (long long p = first + threadIdx.y; o < out_channels && p < last; p += STRANDS) {
        const REAL upstream = grad[p * out_channels + o];
#pragma unroll
        for (int t = 0; t < TAPS; ++t) {
            const int h = at.row * stride_h + row[t], w = at.column * stride_w + column[t];
            if (within(h, w, height, width))
                sums[t] += x[pixel_offset(at.image, h, w, height, width, channels) + c] * upstream;
        }
        step_pixel(at, by, out_height, out_width);
    }
#pragma unroll
    for (int t = 0; t < TAPS; ++t) strands[threadIdx.y][t][threadIdx.x] = sums[t];
    __syncthreads();
    for (int t = threadIdx.y; t < TAPS; t += STRANDS) {
        if (tap + t >= taps || o >= out_channels) continue;
        REAL total = 0;
#pragma unroll
        for (int strand = 0; strand < STRANDS; ++strand) total += strands[strand][t][threadIdx.x];
        out[((long long)blockIdx.y * taps + tap + t) * out_channels + o] = total;
    }
}
