// compile: REAL=float; LANES=1,4
// compile: REAL=double; LANES=1,2
// Mean squared error and mean absolute error over all elements, and their gradients.
//
// Forward in two passes, in float64: a block adds up a fixed set of elements as a fixed tree into one partial sum, then
// one block adds up the partial sums. No atomics: the same bits every time.

#include "grid.cuh"

enum Loss { SQUARED, ABSOLUTE };

// The difference is rounded to REAL, as in the reference; all else is float64.
__device__ inline double term(REAL prediction, REAL target, int loss) {
    const double difference = static_cast<REAL>(prediction - target);
    return loss == SQUARED ? difference * difference : difference < 0 ? -difference : difference;
}

extern "C" __global__ void loss_partial(
    long long count, const REAL *prediction, const REAL *target, double *partial, int loss) {
    __shared__ double scratch[32];
    const long long vectors = count / LANES;
    double total = 0;
    for (long long v = own_element(); v < vectors; v += element_step()) {
        const Vector p = load(prediction, v), t = load(target, v);
        for (int l = 0; l < LANES; ++l) total += term(p.lane[l], t.lane[l], loss);
    }
    for (long long i = vectors * LANES + own_element(); i < count; i += element_step())
        total += term(prediction[i], target[i], loss);
    total = block_sum(total, scratch);
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

// One block: the sum of the partial sums, over the number of elements.
extern "C" __global__ void loss_mean(int parts, const double *partial, double *mean, long long count) {
    __shared__ double scratch[32];
    double total = 0;
    for (int part = threadIdx.x; part < parts; part += blockDim.x) total += partial[part];
    total = block_sum(total, scratch);
    if (threadIdx.x == 0) *mean = total / count;
}

// Squared: 2 (p - t) / count; absolute: sign(p - t) / count, 0 where p - t is NaN. `factor` is 2 or 1 over count.
__device__ inline REAL slope_of(REAL difference, REAL factor, int loss) {
    if (loss == ABSOLUTE) difference = difference > 0 ? REAL(1) : difference < 0 ? REAL(-1) : REAL(0);
    return difference * factor;
}

extern "C" __global__ void loss_backward(
    long long count, const REAL *prediction, const REAL *target, REAL *grad, REAL factor, int loss) {
    const long long vectors = count / LANES;
    for (long long v = own_element(); v < vectors; v += element_step()) {
        Vector p = load(prediction, v);
        const Vector t = load(target, v);
        for (int l = 0; l < LANES; ++l) p.lane[l] = slope_of(p.lane[l] - t.lane[l], factor, loss);
        store(grad, v, p);
    }
    for (long long i = vectors * LANES + own_element(); i < count; i += element_step())
        grad[i] = slope_of(prediction[i] - target[i], factor, loss);
}
