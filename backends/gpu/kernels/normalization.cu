// compile: REAL=float; LANES=1,4
// compile: REAL=double; LANES=1,2
// Batch normalization (Ioffe and Szegedy, 2015) over pixels (P, C), P = N H W, and sums over pixels.
//
// Sums over pixels take two passes, in float64 and in a fixed order, without atomics. The first cuts the pixels into
// `parts` runs of `run` pixels: blockIdx.y is the part, a thread of the block adds up every blockDim.y-th pixel of one
// channel, and a tree over threadIdx.y follows. The second adds up the parts in the same way, a block
// for its channels.

#include "grid.cuh"

#define SUMMERS 256  // threads of a block of the first pass
#define TOTALLERS 1024  // and of the second

// The sum of `value` over threadIdx.y, for each threadIdx.x, in all its threads. blockDim.y is a power of two.
// `scratch` holds a value a thread. All threads of the block must take part.
__device__ inline double column_sum(double value, double *scratch) {
    const int own = threadIdx.y * blockDim.x + threadIdx.x;
    __syncthreads();  // an earlier sum has been read
    scratch[own] = value;
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.y < half) scratch[own] += scratch[own + half * blockDim.x];
    }
    __syncthreads();
    return scratch[threadIdx.x];
}

// partial (parts, C): the sum of each part.
extern "C" __global__ void channel_sum_partial(
    long long pixels, int channels, long long run, const REAL *x, double *partial) {
    __shared__ double scratch[SUMMERS];
    const int channel = own_column();
    const long long begin = blockIdx.y * run, end = begin + run < pixels ? begin + run : pixels;
    double total = 0;
    if (channel < channels) {
#pragma unroll 4
        for (long long p = begin + threadIdx.y; p < end; p += blockDim.y) total += x[p * channels + channel];
    }
    total = column_sum(total, scratch);
    if (threadIdx.y == 0 && channel < channels)
        partial[static_cast<long long>(blockIdx.y) * channels + channel] = total;
}

// All second passes take (pixels, channels, run, parts, partial, results...), whether they need them or not.
extern "C" __global__ void __launch_bounds__(TOTALLERS) channel_sum_total(
    long long pixels, int channels, long long run, int parts, const double *partial, REAL *sum) {
    __shared__ double scratch[TOTALLERS];
    const int channel = own_column();
    double total = 0;
    if (channel < channels)
        for (int part = threadIdx.y; part < parts; part += blockDim.y)
            total += partial[static_cast<long long>(part) * channels + channel];
    total = column_sum(total, scratch);
    if (threadIdx.y == 0 && channel < channels) sum[channel] = static_cast<REAL>(total);
}

// Near which value a part of the pixels is summed: its own first one, or 0 if that is not finite.
//
// With S1 = sum(x - k) and S2 = sum((x - k)^2), the sum of squares about the mean is S2 - S1^2 / n. What the difference
// loses is at most a rounding of n (k - mean)^2; and as k is one of the n values, (k - mean)^2 is itself no more than
// the result.
__device__ inline double origin_of(const REAL *x, long long begin, int channels, int channel) {
    const double first = x[begin * channels + channel];
    return first - first == 0 ? first : 0;
}

// partial (3, parts, C): S1, S2 and k of each part.
extern "C" __global__ void moments_partial(
    long long pixels, int channels, long long run, const REAL *x, double *partial) {
    __shared__ double scratch[SUMMERS];
    const int channel = own_column(), parts = gridDim.y;
    const long long begin = blockIdx.y * run, end = begin + run < pixels ? begin + run : pixels;
    double first = 0, second = 0, origin = 0;
    if (channel < channels) {
        origin = origin_of(x, begin, channels, channel);
#pragma unroll 4
        for (long long p = begin + threadIdx.y; p < end; p += blockDim.y) {
            const double centred = x[p * channels + channel] - origin;
            first += centred;
            second += centred * centred;
        }
    }
    first = column_sum(first, scratch);
    second = column_sum(second, scratch);
    if (threadIdx.y == 0 && channel < channels) {
        const long long at = static_cast<long long>(blockIdx.y) * channels + channel;
        const long long plane = static_cast<long long>(parts) * channels;
        partial[at] = first;
        partial[plane + at] = second;
        partial[2 * plane + at] = origin;
    }
}

// Mean and biased variance from the parts, all relative to the first part's k, so that nothing is lost far from zero:
// mean = k0 + sum(n (k - k0) + S1) / P, var = sum(S2 - S1^2 / n + n (mean of the part - mean)^2) / P.
extern "C" __global__ void __launch_bounds__(TOTALLERS) moments_total(
    long long pixels, int channels, long long run, int parts, const double *partial, REAL *mean, REAL *var) {
    __shared__ double scratch[TOTALLERS];
    const int channel = own_column();
    const bool active = channel < channels;
    const long long plane = static_cast<long long>(parts) * channels;
    const double *firsts = partial, *seconds = partial + plane, *origins = partial + 2 * plane;
    const double origin = active ? origins[channel] : 0;
    double total = 0;
    for (int part = threadIdx.y; active && part < parts; part += blockDim.y) {
        const long long begin = part * run, size = begin + run < pixels ? run : pixels - begin;
        const long long at = static_cast<long long>(part) * channels + channel;
        total += size * (origins[at] - origin) + firsts[at];
    }
    const double shift = column_sum(total, scratch) / pixels;  // of the mean, from the origin
    total = 0;
    for (int part = threadIdx.y; active && part < parts; part += blockDim.y) {
        const long long begin = part * run, size = begin + run < pixels ? run : pixels - begin;
        const long long at = static_cast<long long>(part) * channels + channel;
        const double own_mean = firsts[at] / size;
        const double apart = origins[at] - origin + own_mean - shift;
        total += seconds[at] - firsts[at] * own_mean + size * apart * apart;
    }
    total = column_sum(total, scratch);
    if (threadIdx.y == 0 && active) {
        mean[channel] = static_cast<REAL>(origin + shift);
        var[channel] = static_cast<REAL>(total / pixels);
    }
}

__device__ inline REAL inverse_deviation(REAL var, double eps) {
    return static_cast<REAL>(1 / sqrt(static_cast<double>(var) + eps));
}

// y = (x - mean) / sqrt(var + eps) * weight + bias; weight and bias may be null. rows = P,
// width = C / LANES; a thread keeps its channels over many pixels.
extern "C" __global__ void batch_norm_forward(
    long long rows, int width, const REAL *x, const REAL *mean, const REAL *var, const REAL *weight, const REAL *bias,
    REAL *y, double eps) {
    const unsigned column = own_column();
    if (column >= width) return;
    const Vector centre = load_channels(mean, column);
    Vector inverse = load_channels(var, column);
    for (int l = 0; l < LANES; ++l) inverse.lane[l] = inverse_deviation(inverse.lane[l], eps);
    const Vector scale = weight ? load_channels(weight, column) : constant_vector(1);
    const Vector shift = bias ? load_channels(bias, column) : constant_vector(0);
    for (long long row = own_row(); row < rows; row += row_step()) {
        Vector value = load(x, row * width + column);
        for (int l = 0; l < LANES; ++l) {
            const REAL normal = (value.lane[l] - centre.lane[l]) * inverse.lane[l];
            value.lane[l] = normal * scale.lane[l] + shift.lane[l];
        }
        store(y, row * width + column, value);
    }
}

// partial (2, parts, C): sum(grad normal) and sum(grad) of each part, normal = (x - mean) / sqrt(var + eps).
extern "C" __global__ void batch_norm_sums_partial(
    long long pixels, int channels, long long run, const REAL *x, const REAL *grad, const REAL *mean, const REAL *var,
    double *partial, double eps) {
    __shared__ double scratch[SUMMERS];
    const int channel = own_column(), parts = gridDim.y;
    const long long begin = blockIdx.y * run, end = begin + run < pixels ? begin + run : pixels;
    double product = 0, plain = 0;
    if (channel < channels) {
        const REAL centre = mean[channel], inverse = inverse_deviation(var[channel], eps);
#pragma unroll 4
        for (long long p = begin + threadIdx.y; p < end; p += blockDim.y) {
            const REAL g = grad[p * channels + channel];
            const REAL normal = (x[p * channels + channel] - centre) * inverse;
            product += static_cast<double>(g) * normal;
            plain += g;
        }
    }
    product = column_sum(product, scratch);
    plain = column_sum(plain, scratch);
    if (threadIdx.y == 0 && channel < channels) {
        const long long at = static_cast<long long>(blockIdx.y) * channels + channel;
        partial[at] = product;
        partial[static_cast<long long>(parts) * channels + at] = plain;
    }
}

// The gradients of weight and bias, and, as means (2, C) over the pixels, what the gradient of x needs of them.
extern "C" __global__ void __launch_bounds__(TOTALLERS) batch_norm_sums_total(
    long long pixels, int channels, long long run, int parts, const double *partial, REAL *weight_grad, REAL *bias_grad,
    REAL *means) {
    __shared__ double scratch[TOTALLERS];
    const int channel = own_column();
    double product = 0, plain = 0;
    if (channel < channels) {
        for (int part = threadIdx.y; part < parts; part += blockDim.y) {
            const long long at = static_cast<long long>(part) * channels + channel;
            product += partial[at];
            plain += partial[static_cast<long long>(parts) * channels + at];
        }
    }
    product = column_sum(product, scratch);
    plain = column_sum(plain, scratch);
    if (threadIdx.y == 0 && channel < channels) {
        weight_grad[channel] = static_cast<REAL>(product);
        bias_grad[channel] = static_cast<REAL>(plain);
        means[channel] = static_cast<REAL>(product / pixels);
        means[channels + channel] = static_cast<REAL>(plain / pixels);
    }
}

// x_grad = (grad - mean(grad) - normal mean(grad normal)) * weight / sqrt(var + eps): equation block 3.1 of the paper,
// collected. Without `moving`, mean and variance are not those of x, and the two middle terms fall away. The weight may
// be null. rows = P, width = C / LANES.
extern "C" __global__ void batch_norm_backward(
    long long rows, int width, const REAL *grad, const REAL *x, const REAL *mean, const REAL *var, const REAL *weight,
    const REAL *means, REAL *x_grad, double eps, int moving) {
    const unsigned column = own_column();
    if (column >= width) return;
    const Vector centre = load_channels(mean, column), product = load_channels(means, column),
                 plain = load_channels(means, width + column);
    Vector inverse = load_channels(var, column), scale = weight ? load_channels(weight, column) : constant_vector(1);
    for (int l = 0; l < LANES; ++l) {
        inverse.lane[l] = inverse_deviation(inverse.lane[l], eps);
        scale.lane[l] *= inverse.lane[l];
    }
    for (long long row = own_row(); row < rows; row += row_step()) {
        Vector slope = load(grad, row * width + column);
        if (moving) {
            const Vector value = load(x, row * width + column);
            for (int l = 0; l < LANES; ++l) {
                const REAL normal = (value.lane[l] - centre.lane[l]) * inverse.lane[l];
                slope.lane[l] = slope.lane[l] - plain.lane[l] - normal * product.lane[l];
            }
        }
        for (int l = 0; l < LANES; ++l) slope.lane[l] *= scale.lane[l];
        store(x_grad, row * width + column, slope);
    }
}
