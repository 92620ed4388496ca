// compile: REAL=float; LANES=1,4
// compile: REAL=double; LANES=1,2
// Padding of height and width, and its adjoint as a gather. The modes are numbered
//
//     0 zeros      1234 -> 00123400        1 reflect    1234 -> 32123432
//     2 replicate  1234 -> 11123444        3 circular   1234 -> 34123412
//
// Zeros also crops, with negative padding. x (N, H, W, C), padded (N, PH, PW, C).

#include "grid.cuh"

enum Mode { ZEROS, REFLECT, REPLICATE, CIRCULAR };

// The pixel that the padded one at `position` (0 is the image's first pixel) copies, along one axis; -1 if none.
__device__ inline int source_of(int position, int length, int mode) {
    if (position >= 0 && position < length) return position;
    if (mode == ZEROS) return -1;
    if (mode == REPLICATE) return position < 0 ? 0 : length - 1;
    if (mode == REFLECT) return position < 0 ? -position : 2 * (length - 1) - position;
    return position < 0 ? position + length : position - length;
}

// rows = N PH, width = PW C / LANES: one thread a vector of the padded image.
extern "C" __global__ void pad_forward(
    long long rows, int width, const REAL *x, REAL *padded, int height, int image_width, int padded_height,
    int channels, int top, int left, int mode) {
    const unsigned column = own_column();
    if (column >= width) return;
    const int out_x = column / channels, channel = column - out_x * channels;
    const int x_at = source_of(out_x - left, image_width, mode);
    for (long long row = own_row(); row < rows; row += row_step()) {
        const Row out = split_row(row, padded_height);
        const int y_at = source_of(out.line - top, height, mode);
        Vector value = zero_vector();
        if (x_at >= 0 && y_at >= 0)
            value = load(x, vector_at(out.image, y_at, x_at, channel, height, image_width, channels));
        store(padded, row * width + column, value);
    }
}

// How many places along one axis may hold a copy of pixel `source`, and the k-th of them in increasing order, counted
// in the padded image, which is `padded` long; -1 where there is none.
__device__ inline int places(int source, int length, int before, int padded, int mode) {
    if (mode == ZEROS) return 1;
    if (mode != REPLICATE) return 3;
    const int first = source == 0 ? 0 : before + source;
    const int last = source == length - 1 ? padded - 1 : before + source;
    return last - first + 1;
}

__device__ inline int place(int k, int source, int length, int before, int padded, int mode) {
    int at = before + source;
    if (mode == REPLICATE) at = (source == 0 ? 0 : at) + k;
    if (mode == CIRCULAR) at += (k - 1) * length;
    if (mode == REFLECT) {
        // The first and the last pixel are the mirrors: they have no second copy at their own end.
        if (k == 0) at = source == 0 ? -1 : before - source;
        if (k == 2) at = source == length - 1 ? -1 : before + 2 * (length - 1) - source;
    }
    return at >= 0 && at < padded ? at : -1;
}

// Each pixel adds up the gradients of its copies: those of a row first, then the rows, as the reference does.
// rows = N H, width = W C / LANES: one thread a vector of the image.
extern "C" __global__ void pad_backward(
    long long rows, int width, const REAL *grad, REAL *x_grad, int height, int image_width, int padded_height,
    int padded_width, int channels, int top, int left, int mode) {
    const unsigned column = own_column();
    if (column >= width) return;
    const int x = column / channels, channel = column - x * channels;
    const int across = places(x, image_width, left, padded_width, mode);
    for (long long row = own_row(); row < rows; row += row_step()) {
        const Row source = split_row(row, height);
        const int down = places(source.line, height, top, padded_height, mode);
        Vector total = zero_vector();
        for (int p = 0; p < down; ++p) {
            const int y_at = place(p, source.line, height, top, padded_height, mode);
            if (y_at < 0) continue;
            Vector sum = zero_vector();
            for (int q = 0; q < across; ++q) {
                const int x_at = place(q, x, image_width, left, padded_width, mode);
                if (x_at < 0) continue;
                const Vector part =
                    load(grad, vector_at(source.image, y_at, x_at, channel, padded_height, padded_width, channels));
                for (int l = 0; l < LANES; ++l) sum.lane[l] += part.lane[l];
            }
            for (int l = 0; l < LANES; ++l) total.lane[l] += sum.lane[l];
        }
        store(x_grad, row * width + column, total);
    }
}
