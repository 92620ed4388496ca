// The kernels of an implicit GEMM, for whichever Product the file before defines: see tiles.cuh.
// VECTORS=1 wants channels (of a group) that are multiples of 4 on both sides, and addresses of 16 bytes.

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS) forward(
    const REAL* __restrict__ x, const REAL* __restrict__ kernel, const REAL* __restrict__ bias, REAL* __restrict__ y,
    int activation, REAL slope, int images, int height, int width, int channels, int out_height, int out_width,
    int out_channels, int kernel_h, int kernel_w, int stride_h, int stride_w, int top, int left, int dilation_h,
    int dilation_w, int groups) {
    correlate<Product<true, false>, false, VECTORS>(x, kernel, y, Epilogue{bias, activation, slope}, SIZES);
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS) adjoint(
    const REAL* __restrict__ y, const REAL* __restrict__ kernel, const REAL* __restrict__ bias, REAL* __restrict__ x,
    int activation, REAL slope, int images, int height, int width, int channels, int out_height, int out_width,
    int out_channels, int kernel_h, int kernel_w, int stride_h, int stride_w, int top, int left, int dilation_h,
    int dilation_w, int groups) {
    correlate<Product<true, true>, true, VECTORS>(y, kernel, x, Epilogue{bias, activation, slope}, SIZES);
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS) kernel_gradient(
    const REAL* __restrict__ x, const REAL* __restrict__ grad, REAL* __restrict__ out, long long range, int images,
    int height, int width, int channels, int out_height, int out_width, int out_channels, int kernel_h, int kernel_w,
    int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w, int groups) {
    sum_over_pixels<Product<false, false>, VECTORS>(x, grad, out, range, SIZES);
}
