// compile: REAL=float,double; CHANNELS=1,2,3,4; VECTORS=0,1
// compile: REAL=float,double; CHANNELS=5,6,7,8; VECTORS=0,1
// Convolutions of one group with few channels on one side, such as a network's first and last layers (3 -> 32 and
// 32 -> 3), where the tiles of an implicit GEMM would be mostly padding. CHANNELS is the number on that side.
//
//     ..._from_few      a gather from CHANNELS channels (at most 4) to many
//     ..._to_few        a gather from many channels to CHANNELS (at most 8)
//     kernel_gradient   dW[(tap, c), o] = sum over pixels  x[window, tap, c] dy[pixel, o]
//
// The kernel lies in shared memory, as (tap, source channel, target channel), whichever way the gather goes.
//
// from_few: a thread makes 4 neighbouring pixels x 8 channels: a tap and a channel are 4 loads of x, which neighbouring
// threads share, 2 16-byte reads of weights (neighbours read neighbours: no bank conflict) and 32 multiply-adds. x
// runs over octets of channels, so that a warp writes whole pixels.
// to_few: a thread makes 4 pixels x CHANNELS from every (4 X)-th quad of source channels, X = blockDim.x <= 8 threads
// reading one pixel together (128 bytes in float); their sums are added by exchanges within the warp, as one tree.
// kernel_gradient: a thread has one (tap, c) and 8 outputs; neighbours have neighbouring c, so that x is read in runs.
// y strands of pixels run side by side and are added in shared memory in order; ranges are added by add_partials.

#include "elements.cuh"
#include "indices.cuh"

#define PIXELS 4  // of a thread
#define OCTET 8
#define BLOCKS (sizeof(REAL) == 4 ? 2 : 1)  // on a processor at least: fewer registers would spill, left to its choice

// The windows of 4 neighbouring positions.
struct Windows {
    long long base[PIXELS];
    int row[PIXELS], column[PIXELS];

    __device__ void start(const Gather& g, long long first) {
#pragma unroll
        for (int p = 0; p < PIXELS; ++p) {
            const Pixel at = pixel_at(first + p, g.down.count, g.across.count);
            row[p] = at.row * g.down.multiplier + g.down.offset;
            column[p] = at.column * g.across.multiplier + g.across.offset;
            base[p] = pixel_offset(at.image, row[p], column[p], g.down.limit, g.across.limit, g.source_channels);
            if (at.image >= g.images) row[p] = FAR_OUTSIDE;
        }
    }

    // Channel 0 of the pixel under tap (i, j), or null.
    __device__ const REAL* under(const REAL* source, const Gather& g, int p, int i, int j) const {
        const int down = i * g.down.tap_move, across = j * g.across.tap_move;
        if (!within(row[p] + down, column[p] + across, g.down.limit, g.across.limit)) return nullptr;
        return source + base[p] + ((long long)down * g.across.limit + across) * g.source_channels;
    }
};

// Copy the taps of a gather into shared memory as (tap, sources, targets), from target channel `first` on; zeros where
// there is no such channel.
template <bool ADJOINT>
__device__ inline void copy_kernel(const REAL* kernel, REAL* weights, const Gather& g, const Sizes& s, int sources,
                                   int targets, int first) {
    const int count = g.down.taps * g.across.taps * sources * targets;
    for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < count; i += blockDim.x * blockDim.y) {
        const int target = i % targets + first, source = i / targets % sources, tap = i / targets / sources;
        const Walk at{0, tap % g.across.taps, tap / g.across.taps};
        const bool real = target < g.target_channels && source < g.source_channels;
        weights[i] = real ? kernel[kernel_offset(g, s.kernel_w, at, ADJOINT ? target : source,
                                                 ADJOINT ? source : target, s.channels, s.out_channels)]
                          : REAL(0);
    }
    __syncthreads();
}

// Grid: x pixels, y octets of channels (blockDim.x of them a block) and phases.
template <bool ADJOINT>
__device__ inline void from_few(const REAL* source, const REAL* kernel, REAL* target, REAL* weights,
                                const Epilogue& finish, const Sizes& s) {
    const int phases = ADJOINT ? s.stride_h * s.stride_w : 1, targets = OCTET * blockDim.x;
    const Gather g = gather_of<ADJOINT>(s, blockIdx.y % phases);
    const int first = blockIdx.y / phases * targets, channel = first + OCTET * threadIdx.x;
    const long long m = ((long long)blockIdx.x * blockDim.y + threadIdx.y) * PIXELS, positions = positions_of(g);
    if ((long long)blockIdx.x * blockDim.y * PIXELS >= positions) return;
    copy_kernel<ADJOINT>(kernel, weights, g, s, CHANNELS, targets, first);

    Windows windows;
    windows.start(g, m);
    REAL sums[PIXELS][OCTET];
#pragma unroll
    for (int p = 0; p < PIXELS; ++p)
#pragma unroll
        for (int o = 0; o < OCTET; ++o) sums[p][o] = 0;
    const REAL* row = weights + OCTET * threadIdx.x;
    for (int i = 0; i < g.down.taps; ++i)
        for (int j = 0; j < g.across.taps; ++j) {
            const REAL* from[PIXELS];
#pragma unroll
            for (int p = 0; p < PIXELS; ++p) from[p] = windows.under(source, g, p, i, j);
#pragma unroll
            for (int c = 0; c < CHANNELS; ++c, row += targets) {
                const Quad low = load_quad(row), high = load_quad(row + 4);
#pragma unroll
                for (int p = 0; p < PIXELS; ++p) {
                    const REAL x = from[p] != nullptr ? from[p][c] : REAL(0);
#pragma unroll
                    for (int o = 0; o < 4; ++o) {
                        sums[p][o] += x * low.v[o];
                        sums[p][o + 4] += x * high.v[o];
                    }
                }
            }
        }
#pragma unroll
    for (int p = 0; p < PIXELS; ++p) {
        if (m + p >= positions) continue;
        REAL* to = target + target_offset(g, m + p);
#pragma unroll
        for (int o = 0; o < OCTET; o += 4) {
            Quad quad = zero_quad();
#pragma unroll
            for (int l = 0; l < 4; ++l)
                if (channel + o + l < g.target_channels) quad.v[l] = finish(sums[p][o + l], channel + o + l);
            store_some<4, VECTORS>(to + channel + o, quad, g.target_channels - channel - o);
        }
    }
}

// Grid: x pixels, y phases.
template <bool ADJOINT>
__device__ inline void to_few(const REAL* source, const REAL* kernel, REAL* target, REAL* weights,
                              const Epilogue& finish, const Sizes& s) {
    const Gather g = gather_of<ADJOINT>(s, blockIdx.y);
    const long long m = ((long long)blockIdx.x * blockDim.y + threadIdx.y) * PIXELS, positions = positions_of(g);
    if ((long long)blockIdx.x * blockDim.y * PIXELS >= positions) return;
    const int sources = ceil_div(g.source_channels, 4) * 4;
    copy_kernel<ADJOINT>(kernel, weights, g, s, sources, CHANNELS, 0);

    Windows windows;
    windows.start(g, m);
    REAL sums[PIXELS][CHANNELS];
#pragma unroll
    for (int p = 0; p < PIXELS; ++p)
#pragma unroll
        for (int o = 0; o < CHANNELS; ++o) sums[p][o] = 0;
    const REAL* tap = weights;
    for (int i = 0; i < g.down.taps; ++i)
        for (int j = 0; j < g.across.taps; ++j, tap += sources * CHANNELS)
            for (int c = 4 * threadIdx.x; c < sources; c += 4 * blockDim.x) {
                Quad x[PIXELS];
#pragma unroll
                for (int p = 0; p < PIXELS; ++p) {
                    const REAL* from = windows.under(source, g, p, i, j);
                    x[p] = load_some<VECTORS>(from + (from != nullptr ? c : 0),
                                              from != nullptr ? g.source_channels - c : 0);
                }
                Quad w[CHANNELS];  // 4 source channels x CHANNELS, in one run
#pragma unroll
                for (int q = 0; q < CHANNELS; ++q) w[q] = load_quad(tap + c * CHANNELS + 4 * q);
#pragma unroll
                for (int l = 0; l < 4; ++l)
#pragma unroll
                    for (int o = 0; o < CHANNELS; ++o)
#pragma unroll
                        for (int p = 0; p < PIXELS; ++p)
                            sums[p][o] += x[p].v[l] * w[(l * CHANNELS + o) / 4].v[(l * CHANNELS + o) % 4];
            }
#pragma unroll
    for (int p = 0; p < PIXELS; ++p)
#pragma unroll
        for (int o = 0; o < CHANNELS; ++o)
            for (int distance = blockDim.x / 2; distance > 0; distance /= 2)
                sums[p][o] += __shfl_xor_sync(FULL_WARP, sums[p][o], distance);
    if (threadIdx.x != 0) return;
#pragma unroll
    for (int p = 0; p < PIXELS; ++p) {
        if (m + p >= positions) continue;
        REAL* to = target + target_offset(g, m + p);
#pragma unroll
        for (int o = 0; o < CHANNELS; ++o) to[o] = finish(sums[p][o], o);
    }
}

extern "C" __global__ void __launch_bounds__(256, BLOCKS) forward_from_few(
    const REAL* __restrict__ x, const REAL* __restrict__ kernel, const REAL* __restrict__ bias, REAL* __restrict__ y,
    int activation, REAL slope, int images, int height, int width, int channels, int out_height, int out_width,
    int out_channels, int kernel_h, int kernel_w, int stride_h, int stride_w, int top, int left, int dilation_h,
    int dilation_w, int groups) {
    extern __shared__ __align__(16) REAL forward_from_few_weights[];
    from_few<false>(x, kernel, y, forward_from_few_weights, Epilogue{bias, activation, slope}, SIZES);
}

extern "C" __global__ void __launch_bounds__(256, BLOCKS) adjoint_from_few(
    const REAL* __restrict__ y, const REAL* __restrict__ kernel, const REAL* __restrict__ bias, REAL* __restrict__ x,
    int activation, REAL slope, int images, int height, int width, int channels, int out_height, int out_width,
    int out_channels, int kernel_h, int kernel_w, int stride_h, int stride_w, int top, int left, int dilation_h,
    int dilation_w, int groups) {
    extern __shared__ __align__(16) REAL adjoint_from_few_weights[];
    from_few<true>(y, kernel, x, adjoint_from_few_weights, Epilogue{bias, activation, slope}, SIZES);
}

extern "C" __global__ void __launch_bounds__(256, BLOCKS) forward_to_few(
    const REAL* __restrict__ x, const REAL* __restrict__ kernel, const REAL* __restrict__ bias, REAL* __restrict__ y,
    int activation, REAL slope, int images, int height, int width, int channels, int out_height, int out_width,
    int out_channels, int kernel_h, int kernel_w, int stride_h, int stride_w, int top, int left, int dilation_h,
    int dilation_w, int groups) {
    extern __shared__ __align__(16) REAL forward_to_few_weights[];
    to_few<false>(x, kernel, y, forward_to_few_weights, Epilogue{bias, activation, slope}, SIZES);
}

extern "C" __global__ void __launch_bounds__(256, BLOCKS) adjoint_to_few(
    const REAL* __restrict__ y, const REAL* __restrict__ kernel, const REAL* __restrict__ bias, REAL* __restrict__ x,
    int activation, REAL slope, int images, int height, int width, int channels, int out_height, int out_width,
    int out_channels, int kernel_h, int kernel_w, int stride_h, int stride_w, int top, int left, int dilation_h,
    int dilation_w, int groups) {
    extern __shared__ __align__(16) REAL adjoint_to_few_weights[];
    to_few<true>(y, kernel, x, adjoint_to_few_weights, Epilogue{bias, activation, slope}, SIZES);
}

// Grid: x the (tap, c) and octets of outputs, y ranges of `range` pixels; blockDim.y strands.
// out is (ranges, KH KW C, O).
extern "C" __global__ void __launch_bounds__(256, BLOCKS) kernel_gradient(
    const REAL* __restrict__ x, const REAL* __restrict__ grad, REAL* __restrict__ out, long long range, int images,
    int height, int width, int channels, int out_height, int out_width, int out_channels, int kernel_h, int kernel_w,
    int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w, int groups) {
    __shared__ REAL strands[OCTET][256];
    const int rows = kernel_h * kernel_w * channels, item = blockIdx.x * blockDim.x + threadIdx.x;
    const int m = item % rows, first_output = item / rows * OCTET, tap = m / channels, c = m % channels;
    const int row = tap / kernel_w * dilation_h - top, column = tap % kernel_w * dilation_w - left;
    const long long pixels = (long long)images * out_height * out_width, first = blockIdx.y * range;
    const long long last = pixels - first < range ? pixels : first + range;
    const bool real = first_output < out_channels;

    REAL sums[OCTET];
#pragma unroll
    for (int o = 0; o < OCTET; ++o) sums[o] = 0;
    Pixel at = pixel_at(first + threadIdx.y, out_height, out_width);
    const Pixel by = pixel_at(blockDim.y, out_height, out_width);
    for (long long p = first + threadIdx.y; real && p < last; p += blockDim.y) {
        const int h = at.row * stride_h + row, w = at.column * stride_w + column;
        const REAL seen =
            within(h, w, height, width) ? x[pixel_offset(at.image, h, w, height, width, channels) + c] : REAL(0);
        const REAL* upstream = grad + p * out_channels + first_output;
#pragma unroll
        for (int o = 0; o < OCTET; o += 4) {
            const Quad quad = load_some<VECTORS>(upstream + o, out_channels - first_output - o);
#pragma unroll
            for (int l = 0; l < 4; ++l) sums[o + l] += seen * quad.v[l];
        }
        step_pixel(at, by, out_height, out_width);
    }
    const int place = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
    for (int o = 0; o < OCTET; ++o) strands[o][place] = sums[o];
    __syncthreads();
    if (!real) return;
    for (int o = threadIdx.y; o < OCTET && first_output + o < out_channels; o += blockDim.y) {
        REAL total = 0;
        for (unsigned strand = 0; strand < blockDim.y; ++strand) total += strands[o][strand * blockDim.x + threadIdx.x];
        out[((long long)blockIdx.y * rows + m) * out_channels + first_output + o] = total;
    }
}
