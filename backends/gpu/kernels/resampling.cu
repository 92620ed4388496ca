// compile: REAL=float; LANES=1,4
// compile: REAL=double; LANES=1,2
// Nearest upsampling through tables, pixel shuffle, and their adjoints. Images (N, H, W, C).

#include "grid.cuh"

// large[n, i, j, c] = x[n, row_sources[i], column_sources[j], c]. rows = N OH, width = OW C / LANES.
extern "C" __global__ void nearest_forward(
    long long rows, int width, const REAL *x, const int *row_sources, const int *column_sources, REAL *large,
    int height, int image_width, int out_height, int channels) {
    const unsigned column = own_column();
    if (column >= width) return;
    const int out_x = column / channels, channel = column - out_x * channels, x_at = column_sources[out_x];
    for (long long row = own_row(); row < rows; row += row_step()) {
        const Row out = split_row(row, out_height);
        const int y_at = row_sources[out.line];
        store(large, row * width + column,
              load(x, vector_at(out.image, y_at, x_at, channel, height, image_width, channels)));
    }
}

// Sources never decrease, so the copies of pixel (y, x) are rows row_starts[y] to row_starts[y + 1] of the large image
// and columns likewise. Columns of copies are added up first, then these sums, as the reference does.
// rows = N H, width = W C / LANES.
extern "C" __global__ void nearest_backward(
    long long rows, int width, const REAL *grad, const int *row_starts, const int *column_starts, REAL *x_grad,
    int height, int out_height, int out_width, int channels) {
    const unsigned column = own_column();
    if (column >= width) return;
    const int x = column / channels, channel = column - x * channels;
    const int left = column_starts[x], right = column_starts[x + 1];
    for (long long row = own_row(); row < rows; row += row_step()) {
        const Row source = split_row(row, height);
        const int top = row_starts[source.line], bottom = row_starts[source.line + 1];
        Vector total = zero_vector();
        for (int j = left; j < right; ++j) {
            Vector sum = zero_vector();
            for (int i = top; i < bottom; ++i) {
                const Vector part = load(grad, vector_at(source.image, i, j, channel, out_height, out_width, channels));
                for (int l = 0; l < LANES; ++l) sum.lane[l] += part.lane[l];
            }
            for (int l = 0; l < LANES; ++l) total.lane[l] += sum.lane[l];
        }
        store(x_grad, row * width + column, total);
    }
}

// large[n, h r + a, w r + b, c] = x[n, h, w, (c r + a) r + b], r = factor.
// rows = N H r, width = W r C, of the large image.
extern "C" __global__ void pixel_shuffle(
    long long rows, int width, const REAL *x, REAL *large, int out_height, int image_width, int channels, int factor) {
    const unsigned column = own_column();
    if (column >= width) return;
    const int out_x = column / channels, channel = column - out_x * channels;
    const int x_at = out_x / factor, b = out_x - x_at * factor;
    for (long long row = own_row(); row < rows; row += row_step()) {
        const Row out = split_row(row, out_height);
        const int y = out.line / factor, a = out.line - y * factor;
        const int source = (channel * factor + a) * factor + b;
        large[row * width + column] = x[vector_at(out.image, y, x_at, source, out_height / factor, image_width,
                                                  channels * factor * factor)];
    }
}

// The inverse: x[n, h, w, (c r + a) r + b] = large[n, h r + a, w r + b, c].
// rows = N H, width = W C r^2, of the small image.
extern "C" __global__ void pixel_unshuffle(
    long long rows, int width, const REAL *large, REAL *x, int height, int image_width, int channels, int factor) {
    const unsigned column = own_column();
    if (column >= width) return;
    const int deep = channels * factor * factor;
    const int out_x = column / deep, part = column - out_x * deep;
    const int channel = part / (factor * factor), a = part / factor % factor, b = part % factor;
    for (long long row = own_row(); row < rows; row += row_step()) {
        const Row out = split_row(row, height);
        x[row * width + column] = large[vector_at(out.image, out.line * factor + a, out_x * factor + b, channel,
                                                  height * factor, image_width * factor, channels)];
    }
}
