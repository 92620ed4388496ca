// The two loops of an implicit GEMM, over any Product (the arithmetic of one tile: see the .cu files).
//
//     correlate         target[m, n] = sum over k of source(m, k) kernel(k, n)      a convolution or its adjoint
//     sum_over_pixels   dW[m, n]     = sum over pixels of x(pixel, m) dy(pixel, n)
//
// with m a pixel (or, below, a tap and a channel), n an output channel, k a tap and a channel. The matrices of im2col
// are never stored: each thread keeps the coordinates of the rows it loads, and steps through k by additions.
//
// Tiles of BM x BN outputs and BK terms. While one is multiplied from shared memory, the next is on its way from
// global memory to registers: two buffers, one barrier a tile. All loads are quads, 16 bytes of float: a quad of k
// where k lies together in memory ("across"), of m or n where those do ("down"). A Product is told which by its
// arguments, and has for each a way of putting them into shared memory:
//
//     forward           source across,  kernel down       Product<true, false>
//     adjoint           source across,  kernel across     Product<true, true>
//     kernel_gradient   both down                         Product<false, false>
//
// VECTOR: the channels of a group are multiples of 4 on both sides and all addresses of 16 bytes; otherwise the same
// quads are loaded element by element.
//
// Borders, ragged tiles and ends of ranges are zeros in the tile. An infinite weight therefore makes NaN at the
// borders of an input gradient, where the plain sum has no term.

#include "elements.cuh"
#include "indices.cuh"

__device__ inline SharedTiles& shared_tiles() {
    __shared__ SharedTiles tiles;
    return tiles;
}

// Quads of source(m, k) for the rows that this thread loads: all of one k, which `at` holds.
template <class P, bool VECTOR>
struct SourceRows {
    static constexpr int EACH = P::BM * P::BK / 4 / P::THREADS, APART = P::THREADS / (P::BK / 4);
    long long base[EACH];
    int row[EACH], column[EACH];

    __device__ void start(const Gather& g, long long first, int group) {
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const long long m = first + threadIdx.x / (P::BK / 4) + i * APART;
            const Pixel at = pixel_at(m, g.down.count, g.across.count);
            row[i] = at.row * g.down.multiplier + g.down.offset;
            column[i] = at.column * g.across.multiplier + g.across.offset;
            base[i] = pixel_offset(at.image, row[i], column[i], g.down.limit, g.across.limit, g.source_channels) +
                      group * g.per_source;
            if (at.image >= g.images) row[i] = FAR_OUTSIDE;
        }
    }

    __device__ const REAL* element(const REAL* source, const Gather& g, int i, const Walk& k) const {
        const int down = k.down * g.down.tap_move, across = k.across * g.across.tap_move;
        if (k.down >= g.down.taps || !within(row[i] + down, column[i] + across, g.down.limit, g.across.limit))
            return nullptr;
        return source + base[i] + ((long long)down * g.across.limit + across) * g.source_channels + k.channel;
    }

    __device__ Quad load(const REAL* source, const Gather& g, int i, Walk k) const {
        Quad quad = zero_quad();
        if (VECTOR) {
            const REAL* from = element(source, g, i, k);
            if (from != nullptr) quad = load_quad(from);
        } else {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const REAL* from = element(source, g, i, k);
                if (from != nullptr) quad.v[j] = *from;
                step_walk(k, 1, g.per_source, g.across.taps);
            }
        }
        return quad;
    }
};

// Quads of the kernel (KH, KW, C / G, O) for one tile: of outputs for a convolution, of terms for its adjoint.
template <class P, bool ADJOINT, bool VECTOR>
struct KernelTile {
    static constexpr int EACH = P::BN * P::BK / 4 / P::THREADS;
    static constexpr int QUADS = ADJOINT ? P::BK / 4 : P::BN / 4, APART = P::THREADS / QUADS;

    __device__ static int line(int i) { return threadIdx.x / QUADS + i * APART; }
    __device__ static int quad() { return threadIdx.x % QUADS * 4; }

    // A convolution reads line k of (KH KW C / G, O) and four outputs from n on.
    __device__ static Quad load_outputs(const REAL* kernel, const Sizes& s, const Gather& g, int group, int n0, int k0,
                                        int i) {
        const int k = k0 + line(i), n = n0 + quad();
        const int terms = s.kernel_h * s.kernel_w * g.per_source;
        return load_some<VECTOR>(kernel + (long long)k * s.out_channels + group * g.per_target + n,
                                 k < terms ? g.per_target - n : 0);
    }

    // Its adjoint sums over outputs: four of them, for the channel n.
    __device__ static Quad load_terms(const REAL* kernel, const Sizes& s, const Gather& g, int group, int n0, Walk k,
                                      int i) {
        const int n = n0 + line(i);
        Quad quad = zero_quad();
        if (n >= g.per_target) return quad;
        if (VECTOR) {
            if (k.down < g.down.taps)
                quad = load_quad(kernel + kernel_offset(g, s.kernel_w, k, n, group * g.per_source + k.channel,
                                                        g.per_target, s.out_channels));
        } else {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                if (k.down < g.down.taps)
                    quad.v[j] = kernel[kernel_offset(g, s.kernel_w, k, n, group * g.per_source + k.channel,
                                                     g.per_target, s.out_channels)];
                step_walk(k, 1, g.per_source, g.across.taps);
            }
        }
        return quad;
    }
};

// Grid: x tiles (those of one stretch of pixels next to each other, so that they share the source in the L2 cache),
// y groups and phases.
template <class P, bool ADJOINT, bool VECTOR>
__device__ inline void correlate(const REAL* source, const REAL* kernel, REAL* target, const Epilogue& finish,
                                 const Sizes& s) {
    using Kernel = KernelTile<P, ADJOINT, VECTOR>;
    SharedTiles& shared = shared_tiles();
    const int phases = ADJOINT ? s.stride_h * s.stride_w : 1;
    const int group = blockIdx.y / phases;
    const Gather g = gather_of<ADJOINT>(s, blockIdx.y % phases);
    const int tiles = ceil_div(g.per_target, P::BN), n0 = blockIdx.x % tiles * P::BN;
    const long long m0 = (long long)(blockIdx.x / tiles) * P::BM, positions = positions_of(g);
    if (m0 >= positions) return;  // phases differ by a pixel: the grid is that of the largest

    SourceRows<P, VECTOR> rows;
    rows.start(g, m0, group);
    Walk at{0, 0, 0};
    step_walk(at, threadIdx.x % (P::BK / 4) * 4, g.per_source, g.across.taps);
    Quad a[SourceRows<P, VECTOR>::EACH], b[Kernel::EACH];
    const int terms = g.down.taps * g.across.taps * g.per_source, steps = ceil_div(terms, P::BK);

    auto load = [&](int k0) {
#pragma unroll
        for (int i = 0; i < SourceRows<P, VECTOR>::EACH; ++i) a[i] = rows.load(source, g, i, at);
#pragma unroll
        for (int i = 0; i < Kernel::EACH; ++i)
            b[i] = ADJOINT ? Kernel::load_terms(kernel, s, g, group, n0, at, i)
                           : Kernel::load_outputs(kernel, s, g, group, n0, k0, i);
        step_walk(at, P::BK, g.per_source, g.across.taps);
    };
    auto put = [&](int buffer) {
        const int across = threadIdx.x % (P::BK / 4) * 4, line = threadIdx.x / (P::BK / 4);
#pragma unroll
        for (int i = 0; i < SourceRows<P, VECTOR>::EACH; ++i)
            P::put_source(shared, buffer, line + i * SourceRows<P, VECTOR>::APART, across, a[i]);
#pragma unroll
        for (int i = 0; i < Kernel::EACH; ++i)
            if (ADJOINT)
                P::put_terms(shared, buffer, Kernel::line(i), Kernel::quad(), b[i]);
            else
                P::put_outputs(shared, buffer, Kernel::line(i), Kernel::quad(), b[i]);
    };

    P product;
    product.clear();
    if (steps > 0) {
        load(0);
        put(0);
        __syncthreads();
    }
    for (int step = 0; step < steps; ++step) {
        if (step + 1 < steps) load((step + 1) * P::BK);
        product.multiply(shared, step % 2);
        if (step + 1 < steps) put((step + 1) % 2);
        __syncthreads();
    }

#pragma unroll
    for (int i = 0; i < P::ROWS; ++i) {
        const long long m = m0 + product.row(i);
        if (m >= positions) continue;
        const long long offset = phases > 1 ? target_offset(g, m) : m * g.target_channels;
#pragma unroll
        for (int j = 0; j < P::COLUMNS; ++j) {
            const int n = n0 + product.column(j), channel = group * g.per_target + n;
            Lanes<P::WIDTH> values = product.values(i, j);
#pragma unroll
            for (int l = 0; l < P::WIDTH; ++l)
                if (n + l < g.per_target) values.v[l] = finish(values.v[l], channel + l);
            store_some<P::WIDTH, VECTOR>(target + offset + channel, values, g.per_target - n);
        }
    }
}

// Quads of x(pixel, m), m = (tap, channel): this thread's m stay, its pixels move on by BK a tile.
template <class P, bool VECTOR>
struct TapColumns {
    static constexpr int QUADS = P::BM / 4, EACH = P::BM * P::BK / 4 / P::THREADS, APART = P::THREADS / QUADS;
    static constexpr int KINDS = VECTOR ? 1 : 4;  // of a quad's elements: one tap for all, or one for each
    Pixel pixel[EACH];
    int row[KINDS], column[KINDS], channel[KINDS];

    __device__ static int line(int i) { return threadIdx.x / QUADS + i * APART; }
    __device__ static int quad() { return threadIdx.x % QUADS * 4; }

    __device__ void start(const Sizes& s, int m0, long long first, int group) {
        const int per_channel = s.channels / s.groups, rows = s.kernel_h * s.kernel_w * per_channel;
#pragma unroll
        for (int j = 0; j < KINDS; ++j) {
            const int m = m0 + quad() + j, tap = m / per_channel;
            row[j] = m < rows ? tap / s.kernel_w * s.dilation_h - s.top : FAR_OUTSIDE;
            column[j] = tap % s.kernel_w * s.dilation_w - s.left;
            channel[j] = group * per_channel + m % per_channel;
        }
#pragma unroll
        for (int i = 0; i < EACH; ++i) pixel[i] = pixel_at(first + line(i), s.out_height, s.out_width);
    }

    // What tap and channel j of this thread see from its pixel i, or null.
    __device__ const REAL* element(const REAL* x, const Sizes& s, int i, int j) const {
        const int h = pixel[i].row * s.stride_h + row[j], w = pixel[i].column * s.stride_w + column[j];
        if (!within(h, w, s.height, s.width)) return nullptr;
        return x + pixel_offset(pixel[i].image, h, w, s.height, s.width, s.channels) + channel[j];
    }

    __device__ Quad load(const REAL* x, const Sizes& s, int i) const {
        Quad quad = zero_quad();
#pragma unroll
        for (int j = 0; j < KINDS; ++j) {
            const REAL* from = element(x, s, i, j);
            if (from == nullptr) continue;
            if (VECTOR)
                quad = load_quad(from);
            else
                quad.v[j] = *from;
        }
        return quad;
    }
};

// Grid: x tiles, y groups, z ranges of pixels, `range` pixels each. out is (ranges, KH KW C / G, O): one sum of each
// range, which add_partials (partial_sums.cu) adds up in order; with one range it is the gradient itself.
template <class P, bool VECTOR>
__device__ inline void sum_over_pixels(const REAL* x, const REAL* grad, REAL* out, long long range, const Sizes& s) {
    using Taps = TapColumns<P, VECTOR>;
    constexpr int QUADS = P::BN / 4, EACH = P::BN * P::BK / 4 / P::THREADS, APART = P::THREADS / QUADS;
    SharedTiles& shared = shared_tiles();
    const int per_output = s.out_channels / s.groups, rows = s.kernel_h * s.kernel_w * (s.channels / s.groups);
    const int group = blockIdx.y, tiles = ceil_div(per_output, P::BN);
    const int m0 = blockIdx.x / tiles * P::BM, n0 = blockIdx.x % tiles * P::BN;
    const long long pixels = (long long)s.images * s.out_height * s.out_width, first = blockIdx.z * range;
    const int count = (int)(pixels - first < range ? pixels - first : range), steps = ceil_div(count, P::BK);

    Taps taps;
    taps.start(s, m0, first, group);
    const Pixel by = pixel_at(P::BK, s.out_height, s.out_width);
    const int n = threadIdx.x % QUADS * 4, line = threadIdx.x / QUADS;
    const REAL* upstream = grad + (first + line) * s.out_channels + group * per_output + n0 + n;
    Quad a[Taps::EACH], b[EACH];

    auto load = [&](int k0) {
#pragma unroll
        for (int i = 0; i < Taps::EACH; ++i) {
            a[i] = k0 + Taps::line(i) < count ? taps.load(x, s, i) : zero_quad();
            step_pixel(taps.pixel[i], by, s.out_height, s.out_width);
        }
#pragma unroll
        for (int i = 0; i < EACH; ++i)
            b[i] = load_some<VECTOR>(upstream + (long long)(k0 + i * APART) * s.out_channels,
                                     k0 + line + i * APART < count ? per_output - n0 - n : 0);
    };
    auto put = [&](int buffer) {
#pragma unroll
        for (int i = 0; i < Taps::EACH; ++i) P::put_taps(shared, buffer, Taps::line(i), Taps::quad(), a[i]);
#pragma unroll
        for (int i = 0; i < EACH; ++i) P::put_outputs(shared, buffer, line + i * APART, n, b[i]);
    };

    P product;
    product.clear();
    if (steps > 0) {
        load(0);
        put(0);
        __syncthreads();
    }
    for (int step = 0; step < steps; ++step) {
        if (step + 1 < steps) load((step + 1) * P::BK);
        product.multiply(shared, step % 2);
        if (step + 1 < steps) put((step + 1) % 2);
        __syncthreads();
    }

#pragma unroll
    for (int i = 0; i < P::ROWS; ++i) {
        const int m = m0 + product.row(i);
        if (m >= rows) continue;
        const long long offset = ((long long)blockIdx.z * rows + m) * s.out_channels + group * per_output;
#pragma unroll
        for (int j = 0; j < P::COLUMNS; ++j) {
            const int column = n0 + product.column(j);
            store_some<P::WIDTH, VECTOR>(out + offset + column, product.values(i, j), per_output - column);
        }
    }
}
