// compile: REAL=float; LANES=1,4; WINNER_BYTES=1,4
// compile: REAL=double; LANES=1,2; WINNER_BYTES=1,4
// Maximum and average pooling of x (N, H, W, C) into (N, OH, OW, C), and their adjoints as gathers.
//
// Forward: one thread a vector of the output, rows = N OH, width = OW C / LANES. Backward: one thread a vector of the
// input's gradient, rows = N H, width = W C / LANES, which adds up, in the order of the taps, what the windows over
// it hand back. The number of a tap has WINNER_BYTES bytes.

#include "grid.cuh"

#ifndef WINNER_BYTES
#define WINNER_BYTES 4
#endif

#if WINNER_BYTES == 1
typedef unsigned char Winner;
#else
typedef int Winner;
#endif

struct alignas(LANES * sizeof(Winner)) Winners {
    Winner lane[LANES];
};

// What a window covers: the numbers of ConvGeometry.
#define GEOMETRY                                                                                                       \
    int height, int image_width, int out_height, int out_width, int channels, int kernel_height, int kernel_width,     \
        int stride_y, int stride_x, int top, int left, int dilation_y, int dilation_x

// The largest value and its tap, the first of equals; padding never wins, not even over minus infinity; NaN wins, as
// in PyTorch.
extern "C" __global__ void max_pool_forward(
    long long rows, int width, const REAL *x, REAL *best_values, Winner *winners, GEOMETRY) {
    const unsigned column = own_column();
    if (column >= width) return;
    const int out_x = column / channels, channel = column - out_x * channels;
    for (long long row = own_row(); row < rows; row += row_step()) {
        const Row out = split_row(row, out_height);
        Vector best;
        Winners winner;
        bool found = false;  // a pixel inside the image
        for (int l = 0; l < LANES; ++l) {
            best.lane[l] = -real_infinity();
            winner.lane[l] = 0;
        }
        for (int i = 0; i < kernel_height; ++i) {
            const int y = out.line * stride_y + i * dilation_y - top;
            if (y < 0 || y >= height) continue;
            for (int j = 0; j < kernel_width; ++j) {
                const int x_at = out_x * stride_x + j * dilation_x - left;
                if (x_at < 0 || x_at >= image_width) continue;
                const Vector value = load(x, vector_at(out.image, y, x_at, channel, height, image_width, channels));
                for (int l = 0; l < LANES; ++l) {
                    if (value.lane[l] > best.lane[l] || is_nan(value.lane[l]) || !found) {
                        best.lane[l] = value.lane[l];
                        winner.lane[l] = static_cast<Winner>(i * kernel_width + j);
                    }
                }
                found = true;
            }
        }
        store(best_values, row * width + column, best);
        reinterpret_cast<Winners *>(winners)[row * width + column] = winner;
    }
}

// The window along one axis whose tap lies at `position` (of the padded image, less the tap's own offset), or -1.
__device__ inline int window_at(int position, int stride, int windows) {
    if (position < 0) return -1;
    const int window = stride == 1 ? position : position / stride;
    return window * stride == position && window < windows ? window : -1;
}

extern "C" __global__ void max_pool_backward(
    long long rows, int width, const REAL *grad, const Winner *winners, REAL *x_grad, GEOMETRY) {
    const unsigned column = own_column();
    if (column >= width) return;
    const int x = column / channels, channel = column - x * channels;
    for (long long row = own_row(); row < rows; row += row_step()) {
        const Row source = split_row(row, height);
        Vector total = zero_vector();
        for (int i = 0; i < kernel_height; ++i) {
            const int out_y = window_at(source.line + top - i * dilation_y, stride_y, out_height);
            if (out_y < 0) continue;
            for (int j = 0; j < kernel_width; ++j) {
                const int out_x = window_at(x + left - j * dilation_x, stride_x, out_width);
                if (out_x < 0) continue;
                const long long at = vector_at(source.image, out_y, out_x, channel, out_height, out_width, channels);
                const Vector part = load(grad, at);
                const Winners winner = reinterpret_cast<const Winners *>(winners)[at];
                for (int l = 0; l < LANES; ++l)
                    if (winner.lane[l] == i * kernel_width + j) total.lane[l] += part.lane[l];
            }
        }
        store(x_grad, row * width + column, total);
    }
}

// The sum of a window, padding counted as 0, over the divisor (OH, OW) of its place.
extern "C" __global__ void avg_pool_forward(
    long long rows, int width, const REAL *x, const REAL *divisor, REAL *y, GEOMETRY) {
    const unsigned column = own_column();
    if (column >= width) return;
    const int out_x = column / channels, channel = column - out_x * channels;
    for (long long row = own_row(); row < rows; row += row_step()) {
        const Row out = split_row(row, out_height);
        Vector total = zero_vector();
        for (int i = 0; i < kernel_height; ++i) {
            const int source_y = out.line * stride_y + i * dilation_y - top;
            if (source_y < 0 || source_y >= height) continue;
            for (int j = 0; j < kernel_width; ++j) {
                const int source_x = out_x * stride_x + j * dilation_x - left;
                if (source_x < 0 || source_x >= image_width) continue;
                const Vector value =
                    load(x, vector_at(out.image, source_y, source_x, channel, height, image_width, channels));
                for (int l = 0; l < LANES; ++l) total.lane[l] += value.lane[l];
            }
        }
        const REAL by = divisor[static_cast<long long>(out.line) * out_width + out_x];
        for (int l = 0; l < LANES; ++l) total.lane[l] /= by;
        store(y, row * width + column, total);
    }
}

extern "C" __global__ void avg_pool_backward(
    long long rows, int width, const REAL *grad, const REAL *divisor, REAL *x_grad, GEOMETRY) {
    const unsigned column = own_column();
    if (column >= width) return;
    const int x = column / channels, channel = column - x * channels;
    for (long long row = own_row(); row < rows; row += row_step()) {
        const Row source = split_row(row, height);
        Vector total = zero_vector();
        for (int i = 0; i < kernel_height; ++i) {
            const int out_y = window_at(source.line + top - i * dilation_y, stride_y, out_height);
            if (out_y < 0) continue;
            for (int j = 0; j < kernel_width; ++j) {
                const int out_x = window_at(x + left - j * dilation_x, stride_x, out_width);
                if (out_x < 0) continue;
                const Vector part =
                    load(grad, vector_at(source.image, out_y, out_x, channel, out_height, out_width, channels));
                const REAL by = divisor[static_cast<long long>(out_y) * out_width + out_x];
                for (int l = 0; l < LANES; ++l) total.lane[l] += part.lane[l] / by;
            }
        }
        store(x_grad, row * width + column, total);
    }
}
