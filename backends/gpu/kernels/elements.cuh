// Loads and stores of neighbouring elements, and what follows the sum of a convolution.
//
// A quad is 4 neighbouring channels: one instruction of 16 bytes in float, two in double. VECTOR says that all quads
// are whole and their addresses multiples of 16 bytes; otherwise they are moved element by element.

template <int COUNT>
struct alignas(COUNT * sizeof(REAL) < 16 ? COUNT * sizeof(REAL) : 16) Lanes {
    REAL v[COUNT];
};
using Quad = Lanes<4>;

__device__ inline Quad zero_quad() { return Quad{{0, 0, 0, 0}}; }

__device__ inline Quad load_quad(const REAL* from) { return *reinterpret_cast<const Quad*>(from); }

// The first `count` (any int) of four elements, zeros for the others.
template <bool VECTOR>
__device__ inline Quad load_some(const REAL* from, int count) {
    Quad quad = zero_quad();
    if (VECTOR) {
        if (count > 0) quad = load_quad(from);
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (i < count) quad.v[i] = from[i];
    }
    return quad;
}

// What follows the sum: bias, then 0: nothing, 1: relu, 2: leaky relu with `slope`. NaN stays NaN.
struct Epilogue {
    const REAL* bias;  // may be null
    int activation;
    REAL slope;

    __device__ REAL operator()(REAL value, int channel) const {
        if (bias != nullptr) value += bias[channel];
        if (activation == 1) return value <= 0 ? REAL(0) : value;
        if (activation == 2) return value > 0 ? value : value * slope;
        return value;
    }
};

template <int WIDTH, bool VECTOR>
__device__ inline void store_some(REAL* to, const Lanes<WIDTH>& values, int count) {
    if (VECTOR) {
        if (count > 0) *reinterpret_cast<Lanes<WIDTH>*>(to) = values;
    } else {
#pragma unroll
        for (int i = 0; i < WIDTH; ++i)
            if (i < count) to[i] = values.v[i];
    }
}
