// What the memory-bound kernels share: vectors of channels, and how threads are laid over images.
//
// Images lie channels-last: element (n, y, x, c) of (N, H, W, C) is number ((n H + y) W + x) C + c. A thread moves
// LANES elements at once, neighbours along the channels: 16 bytes where C and the addresses allow it, else one.
//
// Rows and columns: a kernel sees an image as `rows` rows (N H of them, as long long) of `width` vectors each
// (W C / LANES, an int). Threads lie along a row in x, so that neighbouring threads touch neighbouring addresses, and
// over rows in y, with a loop where the grid ends. A column is taken apart once a thread, a row with one division; only
// the row's number and flat offsets need 64 bits.

#ifndef LANES
#define LANES 1
#endif

struct alignas(LANES * sizeof(REAL)) Vector {
    REAL lane[LANES];
};

__device__ inline Vector constant_vector(REAL value) {
    Vector values;
    for (int l = 0; l < LANES; ++l) values.lane[l] = value;
    return values;
}

__device__ inline Vector zero_vector() { return constant_vector(0); }

__device__ inline Vector load(const REAL *array, long long vector) {
    return reinterpret_cast<const Vector *>(array)[vector];
}

// Values per channel, whose address need not suit a vector: parameters lie side by side in one array.
__device__ inline Vector load_channels(const REAL *array, int vector) {
    Vector values;
    for (int l = 0; l < LANES; ++l) values.lane[l] = array[vector * LANES + l];
    return values;
}

__device__ inline void store(REAL *array, long long vector, const Vector &value) {
    reinterpret_cast<Vector *>(array)[vector] = value;
}

__device__ inline unsigned own_column() { return blockIdx.x * blockDim.x + threadIdx.x; }

__device__ inline long long own_row() { return static_cast<long long>(blockIdx.y) * blockDim.y + threadIdx.y; }

__device__ inline long long row_step() { return static_cast<long long>(gridDim.y) * blockDim.y; }

__device__ inline long long own_element() { return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; }

__device__ inline long long element_step() { return static_cast<long long>(gridDim.x) * blockDim.x; }

// row = image * height + line. A division of 32 bits where the row has no more: it takes a third of the time.
struct Row {
    long long image;
    int line;
};

__device__ inline Row split_row(long long row, int height) {
    Row parts;
    parts.image = row >> 32 ? row / height : static_cast<unsigned>(row) / static_cast<unsigned>(height);
    parts.line = static_cast<int>(row - parts.image * height);
    return parts;
}

// The number of vector `channel` (of `channels` in a pixel) of pixel (line, x) of an image of height x width.
__device__ inline long long vector_at(
    long long image, int line, int x, int channel, int height, int width, int channels) {
    return ((image * height + line) * width + x) * channels + channel;
}
