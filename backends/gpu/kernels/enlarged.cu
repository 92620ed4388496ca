// The kernel of the transposed convolution that is a nearest upsampling and a convolution in one, and its adjoint:
//
//     K[m, o, c] = sum of W[t, c, o] over the taps t with 0 <= m - D (k - 1 - t) < s         along each axis
//     dW[t, c, o] = sum over r in 0..s-1 of dK[r + D (k - 1 - t), o, c]                      likewise
//
// for a scale s, a kernel of k taps and a dilation D (see backends/cpu/upsample.py). W is (KH, KW, C, O) in memory, and
// K (MH, MW, O, C), as the kernels of convolutions want it. One thread an element; both arrays are small.

struct Spread {
    int kernel, scale, dilation;
    __device__ int start(int tap) const { return dilation * (kernel - 1 - tap); }
};

extern "C" __global__ void enlarge(
    long long count, const REAL* __restrict__ kernel, REAL* __restrict__ large, int inputs, int outputs, int kernel_h,
    int kernel_w, int scale_h, int scale_w, int dilation_h, int dilation_w) {
    const Spread down{kernel_h, scale_h, dilation_h}, across{kernel_w, scale_w, dilation_w};
    const int width = scale_w + dilation_w * (kernel_w - 1);
    for (GRID_STRIDE(i, count)) {
        const int c = i % inputs, o = i / inputs % outputs;
        const int place = i / inputs / outputs, row = place / width, column = place % width;
        REAL sum = 0;
        for (int t = 0; t < kernel_h; ++t) {
            if (row < down.start(t) || row >= down.start(t) + scale_h) continue;
            for (int u = 0; u < kernel_w; ++u)
                if (column >= across.start(u) && column < across.start(u) + scale_w)
                    sum += kernel[((long long)(t * kernel_w + u) * inputs + c) * outputs + o];
        }
        large[i] = sum;
    }
}

extern "C" __global__ void enlarge_backward(
    long long count, const REAL* __restrict__ large, REAL* __restrict__ kernel, int inputs, int outputs, int kernel_h,
    int kernel_w, int scale_h, int scale_w, int dilation_h, int dilation_w) {
    const Spread down{kernel_h, scale_h, dilation_h}, across{kernel_w, scale_w, dilation_w};
    const int width = scale_w + dilation_w * (kernel_w - 1);
    for (GRID_STRIDE(i, count)) {
        const int o = i % outputs, c = i / outputs % inputs, tap = i / outputs / inputs;
        const int top = down.start(tap / kernel_w), left = across.start(tap % kernel_w);
        REAL sum = 0;
        for (int r = 0; r < scale_h; ++r)
            for (int q = 0; q < scale_w; ++q)
                sum += large[((long long)((top + r) * width + left + q) * outputs + o) * inputs + c];
        kernel[i] = sum;
    }
}
