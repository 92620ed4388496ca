// compile: REAL=float; LANES=1,4; ACTIVATION=0,1,2,3,4
// compile: REAL=double; LANES=1,2; ACTIVATION=0,4
// Activations, sums and copies: each element by itself, so the order in memory does not matter where all arrays
// agree. `out` may be the first array. One thread does LANES elements at once; what is left at the end goes one by one.

#include "grid.cuh"

template <class Function>
__device__ inline void map(long long count, const REAL *x, REAL *out, Function function) {
    const long long vectors = count / LANES;
    for (long long v = own_element(); v < vectors; v += element_step()) {
        Vector value = load(x, v);
        for (int l = 0; l < LANES; ++l) value.lane[l] = function(value.lane[l]);
        store(out, v, value);
    }
    for (long long i = vectors * LANES + own_element(); i < count; i += element_step()) out[i] = function(x[i]);
}

template <class Function>
__device__ inline void map(long long count, const REAL *a, const REAL *b, REAL *out, Function function) {
    const long long vectors = count / LANES;
    for (long long v = own_element(); v < vectors; v += element_step()) {
        Vector value = load(a, v);
        const Vector other = load(b, v);
        for (int l = 0; l < LANES; ++l) value.lane[l] = function(value.lane[l], other.lane[l]);
        store(out, v, value);
    }
    for (long long i = vectors * LANES + own_element(); i < count; i += element_step()) out[i] = function(a[i], b[i]);
}

// Not `x > 0 ? x : 0`: NaN stays NaN.
__device__ inline REAL relu(REAL x) { return x <= 0 ? REAL(0) : x; }

__device__ inline REAL leaky_relu(REAL x, REAL slope) { return x > 0 ? x : x * slope; }

__device__ inline REAL exponential(float x) { return expf(x); }
__device__ inline REAL exponential(double x) { return exp(x); }

// Far below zero the exponential is infinite, and the result the 0 that is wanted.
__device__ inline REAL sigmoid(REAL x) { return 1 / (1 + exponential(-x)); }

__device__ inline REAL hyperbolic_tangent(float x) { return tanhf(x); }
__device__ inline REAL hyperbolic_tangent(double x) { return tanh(x); }

extern "C" __global__ void relu_forward(long long count, const REAL *x, REAL *out) {
    map(count, x, out, [](REAL v) { return relu(v); });
}

// A product would make NaN of 0 times infinity. NaN in the output lets the gradient through, as in PyTorch.
extern "C" __global__ void relu_backward(long long count, const REAL *grad, const REAL *output, REAL *out) {
    map(count, grad, output, out, [](REAL g, REAL y) { return y == 0 ? REAL(0) : g; });
}

extern "C" __global__ void leaky_relu_forward(long long count, const REAL *x, REAL *out, REAL slope) {
    map(count, x, out, [slope](REAL v) { return leaky_relu(v, slope); });
}

extern "C" __global__ void leaky_relu_backward(
    long long count, const REAL *grad, const REAL *x, REAL *out, REAL slope) {
    map(count, grad, x, out, [slope](REAL g, REAL v) { return v > 0 ? g : g * slope; });
}

extern "C" __global__ void sigmoid_forward(long long count, const REAL *x, REAL *out) {
    map(count, x, out, [](REAL v) { return sigmoid(v); });
}

extern "C" __global__ void sigmoid_backward(long long count, const REAL *grad, const REAL *output, REAL *out) {
    map(count, grad, output, out, [](REAL g, REAL y) { return g * (y * (1 - y)); });
}

extern "C" __global__ void tanh_forward(long long count, const REAL *x, REAL *out) {
    map(count, x, out, [](REAL v) { return hyperbolic_tangent(v); });
}

extern "C" __global__ void tanh_backward(long long count, const REAL *grad, const REAL *output, REAL *out) {
    map(count, grad, output, out, [](REAL g, REAL y) { return g * (1 - y * y); });
}

extern "C" __global__ void add(long long count, const REAL *a, const REAL *b, REAL *out) {
    map(count, a, b, out, [](REAL left, REAL right) { return left + right; });
}

extern "C" __global__ void scaled(long long count, const REAL *x, REAL *out, REAL factor) {
    map(count, x, out, [factor](REAL v) { return v * factor; });
}

// pixels (P, C) = activation(pixels + bias (C,)), in place; the bias may be null.
// rows = P, width = C / LANES. ACTIVATION is one of
#define NONE 0
#define RELU 1
#define LEAKY_RELU 2
#define SIGMOID 3
#define TANH 4

#ifndef ACTIVATION
#define ACTIVATION NONE
#endif

__device__ inline REAL activated(REAL x, REAL slope) {
#if ACTIVATION == RELU
    return relu(x);
#elif ACTIVATION == LEAKY_RELU
    return leaky_relu(x, slope);
#elif ACTIVATION == SIGMOID
    return sigmoid(x);
#elif ACTIVATION == TANH
    return hyperbolic_tangent(x);
#else
    return x;
#endif
}

extern "C" __global__ void bias_activation(long long rows, int width, REAL *pixels, const REAL *bias, REAL slope) {
    const unsigned column = own_column();
    if (column >= width) return;
    const Vector shift = bias ? load_channels(bias, column) : zero_vector();
    for (long long row = own_row(); row < rows; row += row_step()) {
        Vector value = load(pixels, row * width + column);
        for (int l = 0; l < LANES; ++l) value.lane[l] = activated(value.lane[l] + shift.lane[l], slope);
        store(pixels, row * width + column, value);
    }
}

// The channels of one array into a wider one: whole[p, start + c] = part[p, c]. rows = P; width, whole_width and
// start in vectors.
extern "C" __global__ void copy_channels(
    long long rows, int width, const REAL *part, REAL *whole, int whole_width, int start) {
    const unsigned column = own_column();
    if (column >= width) return;
    for (long long row = own_row(); row < rows; row += row_step())
        store(whole, row * whole_width + start + column, load(part, row * width + column));
}
