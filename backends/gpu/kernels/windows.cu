// compile: REAL=float; LANES=1,4
// compile: REAL=double; LANES=1,2
// im2col and col2im.
//
//     columns[n, oh, ow, i, j, c] = x[n, oh sh + i dh - top, ow sw + j dw - left, c], 0 outside the image
//
// x (N, H, W, C), columns (N OH OW, KH KW C): a row per output pixel, a column per tap and channel. Negative padding
// crops: such pixels are never asked for. Both kernels write each of their outputs once.

#include "grid.cuh"

// rows = N OH, width = OW KH KW C / LANES: one thread a vector of the columns.
extern "C" __global__ void im2col(
    long long rows, int width, const REAL *x, REAL *columns, int height, int image_width, int out_height, int channels,
    int taps, int kernel_width, int stride_y, int stride_x, int top, int left, int dilation_y, int dilation_x) {
    const unsigned column = own_column();
    if (column >= width) return;
    const int tap_channel = column % (taps * channels), out_x = column / (taps * channels);
    const int tap = tap_channel / channels, channel = tap_channel - tap * channels;
    const int i = tap / kernel_width, j = tap - i * kernel_width;
    const int source_x = out_x * stride_x + j * dilation_x - left;
    const bool inside = source_x >= 0 && source_x < image_width;
    for (long long row = own_row(); row < rows; row += row_step()) {
        const Row out = split_row(row, out_height);
        const int source_y = out.line * stride_y + i * dilation_y - top;
        Vector value = zero_vector();
        if (inside && source_y >= 0 && source_y < height)
            value = load(x, vector_at(out.image, source_y, source_x, channel, height, image_width, channels));
        store(columns, row * width + column, value);
    }
}

// The window along one axis whose tap lies at `position` (of the padded image, less the tap's own offset), or -1.
__device__ inline int window_at(int position, int stride, int windows) {
    if (position < 0) return -1;
    const int window = stride == 1 ? position : position / stride;
    return window * stride == position && window < windows ? window : -1;
}

// The adjoint as a gather: each input pixel adds up the taps that saw it, in the order of the taps.
// rows = N H, width = W C / LANES: one thread a vector of the image.
extern "C" __global__ void col2im(
    long long rows, int width, const REAL *columns, REAL *x, int height, int out_height, int out_width, int channels,
    int kernel_height, int kernel_width, int stride_y, int stride_x, int top, int left, int dilation_y,
    int dilation_x) {
    const unsigned column = own_column();
    if (column >= width) return;
    const int source_x = column / channels, channel = column - source_x * channels;
    const int taps = kernel_height * kernel_width;
    for (long long row = own_row(); row < rows; row += row_step()) {
        const Row source = split_row(row, height);
        Vector total = zero_vector();
        for (int i = 0; i < kernel_height; ++i) {
            const int out_y = window_at(source.line + top - i * dilation_y, stride_y, out_height);
            if (out_y < 0) continue;
            for (int j = 0; j < kernel_width; ++j) {
                const int out_x = window_at(source_x + left - j * dilation_x, stride_x, out_width);
                if (out_x < 0) continue;
                const long long pixel = (source.image * out_height + out_y) * out_width + out_x;
                const Vector part = load(columns, (pixel * taps + i * kernel_width + j) * channels + channel);
                for (int l = 0; l < LANES; ++l) total.lane[l] += part.lane[l];
            }
        }
        store(x, row * width + column, total);
    }
}
