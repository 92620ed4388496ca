// Index arithmetic of the convolution kernels: which source pixel, tap and channel meet in which output element.
//
// A convolution goes from x (N, H, W, C) to y (N, OH, OW, O) with a kernel in memory as (KH, KW, C / G, O); all
// contiguous. Along one axis, output i and tap k read x at  i s + k d - p.
//
// Its adjoint, read as a gather: x at h gets y at i wherever  i s + k d - p = h.  Write h + p = s v + r with the phase
// r in 0..s-1. Then k d = r (mod s), whose solutions are k = k0 + q s / g, g = gcd(s, d), or none; and for one phase
//
//     h = h0 + v s          i = v + (h0 + p - k0 d) / s - q d / g
//
// which has the same form as the convolution itself: source = position * multiplier + offset + q * tap_move. So both
// directions are one kernel, and no thread divides per element: `Axis` is worked out once a block.
//
// Products of sizes are long long: pixels times channels can pass 2^31. Single coordinates are int.

struct Sizes {
    int images, height, width, channels, out_height, out_width, out_channels;
    int kernel_h, kernel_w, stride_h, stride_w, top, left, dilation_h, dilation_w, groups;
};

// From the arguments of a kernel, which all have these names.
#define SIZES                                                                                                   \
    Sizes {                                                                                                     \
        images, height, width, channels, out_height, out_width, out_channels, kernel_h, kernel_w, stride_h,     \
            stride_w, top, left, dilation_h, dilation_w, groups                                                 \
    }

// One axis of a gather: `count` output positions, and the taps that reach them.
struct Axis {
    int count;        // positions
    int place, step;  // position v is output pixel  place + v step
    int multiplier, offset, tap_move;  // tap q of position v reads source  v multiplier + offset + q tap_move
    int taps, tap, tap_step;           // tap q is kernel row  tap + q tap_step
    int limit;                         // source pixels
};

__device__ inline Axis forward_axis(int size, int out_size, int kernel, int stride, int before, int dilation) {
    return Axis{out_size, 0, 1, stride, -before, dilation, kernel, 0, 1, size};
}

__device__ inline Axis adjoint_axis(int size, int out_size, int kernel, int stride, int before, int dilation,
                                    int phase) {
    int a = stride, g = dilation;
    while (a != 0) {
        int rest = g % a;
        g = a;
        a = rest;
    }
    int place = ((phase - before) % stride + stride) % stride;
    int count = place < size ? (size - 1 - place) / stride + 1 : 0;
    int tap = 0, tap_step = stride / g;
    // k0 is among the first s / g taps, if the phase has taps at all
    while (tap < tap_step && (long long)tap * dilation % stride != phase) ++tap;
    int taps = tap < tap_step && tap < kernel ? (kernel - 1 - tap) / tap_step + 1 : 0;
    int offset = (int)((place + before - (long long)tap * dilation) / stride);  // exact where there are taps
    return Axis{count, place, stride, 1, offset, -(dilation / g), taps, tap, tap_step, out_size};
}

// Both axes, the images and their channels: source (N, SH, SW, SC) -> target (N, TH, TW, TC).
struct Gather {
    Axis down, across;
    int images, source_channels, target_height, target_width, target_channels;
    int per_source, per_target;  // channels of a group
};

__device__ inline Gather forward_gather(const Sizes& s) {
    return Gather{forward_axis(s.height, s.out_height, s.kernel_h, s.stride_h, s.top, s.dilation_h),
                  forward_axis(s.width, s.out_width, s.kernel_w, s.stride_w, s.left, s.dilation_w),
                  s.images, s.channels, s.out_height, s.out_width, s.out_channels,
                  s.channels / s.groups, s.out_channels / s.groups};
}

// `phase` counts stride_h * stride_w pairs of phases.
__device__ inline Gather adjoint_gather(const Sizes& s, int phase) {
    Gather g{adjoint_axis(s.height, s.out_height, s.kernel_h, s.stride_h, s.top, s.dilation_h, phase / s.stride_w),
             adjoint_axis(s.width, s.out_width, s.kernel_w, s.stride_w, s.left, s.dilation_w, phase % s.stride_w),
             s.images, s.out_channels, s.height, s.width, s.channels,
             s.out_channels / s.groups, s.channels / s.groups};
    if (g.down.taps == 0 || g.across.taps == 0) g.down.taps = g.across.taps = 0;
    return g;
}

template <bool ADJOINT>
__device__ inline Gather gather_of(const Sizes& s, int phase) {
    return ADJOINT ? adjoint_gather(s, phase) : forward_gather(s);
}

__device__ inline long long positions_of(const Gather& g) {
    return (long long)g.images * g.down.count * g.across.count;
}

// A pixel of a stack of images.
struct Pixel {
    int image, row, column;
};

// Number `index` of the pixels of images of this size. The divisions are of 32 bits wherever that is enough.
__device__ inline Pixel pixel_at(long long index, int height, int width) {
    if (index >> 32 == 0) {
        unsigned line = (unsigned)index / (unsigned)width, column = (unsigned)index - line * (unsigned)width;
        unsigned image = line / (unsigned)height;
        return Pixel{(int)image, (int)(line - image * (unsigned)height), (int)column};
    }
    long long line = index / width, image = line / height;
    return Pixel{(int)image, (int)(line - image * height), (int)(index - line * width)};
}

// The pixel `by` further on, for a `by` that is given as whole images, rows and columns: pixel_at(by, ...).
__device__ inline void step_pixel(Pixel& p, const Pixel& by, int height, int width) {
    p.column += by.column;
    if (p.column >= width) {
        p.column -= width;
        ++p.row;
    }
    p.row += by.row;
    if (p.row >= height) {
        p.row -= height;
        ++p.image;
    }
    p.image += by.image;
}

// Flat offset of channel 0 of a pixel in (N, height, width, channels). The row may lie outside.
__device__ inline long long pixel_offset(int image, int row, int column, int height, int width, int channels) {
    return (((long long)image * height + row) * width + column) * channels;
}

// Where channel 0 of position `m` of a gather is written.
__device__ inline long long target_offset(const Gather& g, long long m) {
    const Pixel at = pixel_at(m, g.down.count, g.across.count);
    return pixel_offset(at.image, g.down.place + at.row * g.down.step, g.across.place + at.column * g.across.step,
                        g.target_height, g.target_width, g.target_channels);
}

#define FAR_OUTSIDE (-(1 << 30))  // a row that no tap brings back into the image

__device__ inline bool within(int row, int column, int height, int width) {
    return (unsigned)row < (unsigned)height && (unsigned)column < (unsigned)width;  // one comparison does for < 0 too
}

// The reduction of a gather runs over k = (vertical tap, horizontal tap, channel), channels fastest. A thread walks
// it in fixed steps, by additions.
struct Walk {
    int channel, across, down;
};

__device__ inline void step_walk(Walk& k, int by, int channels, int taps_across) {
    k.channel += by;
    while (k.channel >= channels) {
        k.channel -= channels;
        if (++k.across == taps_across) {
            k.across = 0;
            ++k.down;
        }
    }
}

// Offset, in the kernel (KH, KW, C / G, O), of what tap (down, across) of a gather has for channel c and output o.
__device__ inline long long kernel_offset(const Gather& g, int kernel_w, const Walk& k, int c, int o, int per_channel,
                                          int outs) {
    int tap = (g.down.tap + k.down * g.down.tap_step) * kernel_w + g.across.tap + k.across * g.across.tap_step;
    return ((long long)tap * per_channel + c) * outs + o;
}
