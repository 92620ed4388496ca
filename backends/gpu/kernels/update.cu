// compile: REAL=float; LANES=1,4
// compile: REAL=double; LANES=1,2
// The steps of the optimizers, in place, with the reference's formulas; one thread LANES elements.
//
// Options come as arguments (sgd, adam), or lie in device memory as float64 (sgd_device, adam_device), where a captured
// graph finds what changed since its capture: the learning rate and the step above all.
//
// `velocity` is null without momentum, `largest` without AMSGrad.

#include "grid.cuh"

// dampened = 1 - dampening.
struct Sgd {
    REAL lr, momentum, dampened, weight_decay;
    bool moving, nesterov;
};

__device__ inline void sgd_element(REAL &data, REAL grad, REAL &velocity, const Sgd &options) {
    REAL step = options.weight_decay != 0 ? grad + options.weight_decay * data : grad;
    if (options.moving) {
        velocity = velocity * options.momentum + options.dampened * step;
        step = options.nesterov ? step + options.momentum * velocity : velocity;
    }
    data -= options.lr * step;
}

__device__ inline void sgd_all(long long count, REAL *data, const REAL *grad, REAL *velocity, const Sgd &options) {
    const long long vectors = count / LANES;
    for (long long v = own_element(); v < vectors; v += element_step()) {
        Vector values = load(data, v), moving = velocity ? load(velocity, v) : zero_vector();
        const Vector slopes = load(grad, v);
        for (int l = 0; l < LANES; ++l) sgd_element(values.lane[l], slopes.lane[l], moving.lane[l], options);
        store(data, v, values);
        if (velocity) store(velocity, v, moving);
    }
    for (long long i = vectors * LANES + own_element(); i < count; i += element_step()) {
        REAL moving = velocity ? velocity[i] : REAL(0);
        sgd_element(data[i], grad[i], moving, options);
        if (velocity) velocity[i] = moving;
    }
}

extern "C" __global__ void sgd(
    long long count, REAL *data, const REAL *grad, REAL *velocity, REAL lr, REAL momentum, REAL dampened,
    REAL weight_decay, int nesterov) {
    sgd_all(count, data, grad, velocity, Sgd{lr, momentum, dampened, weight_decay, velocity != nullptr, nesterov != 0});
}

// options: lr, step, momentum, dampening, weight_decay. At the first step the velocity (zeros before it) becomes the
// gradient, whatever the dampening.
extern "C" __global__ void sgd_device(
    long long count, REAL *data, const REAL *grad, REAL *velocity, const double *options, int nesterov) {
    const double dampened = options[1] <= 1 ? 1 : 1 - options[3];
    sgd_all(count, data, grad, velocity,
            Sgd{static_cast<REAL>(options[0]), static_cast<REAL>(options[2]), static_cast<REAL>(dampened),
                static_cast<REAL>(options[4]), velocity != nullptr, nesterov != 0});
}

// rise1 = 1 - beta1, rise2 = 1 - beta2; rate = lr / (1 - beta1^step), root = sqrt(1 - beta2^step): rounded once.
struct Adam {
    REAL rate, root, rise1, beta2, rise2, eps, weight_decay;
    bool amsgrad;
};

__device__ inline float root_of(float x) { return sqrtf(x); }
__device__ inline double root_of(double x) { return sqrt(x); }

__device__ inline void adam_element(
    REAL &data, REAL grad, REAL &first, REAL &second, REAL &largest, const Adam &options) {
    if (options.weight_decay != 0) grad = grad + options.weight_decay * data;
    first += options.rise1 * (grad - first);
    second = second * options.beta2 + (options.rise2 * grad) * grad;  // grad * grad may overflow where this does not
    REAL moment = second;
    if (options.amsgrad) {
        if (second > largest || is_nan(second)) largest = second;
        moment = largest;
    }
    data -= options.rate * (first / (root_of(moment) / options.root + options.eps));
}

__device__ inline void adam_all(
    long long count, REAL *data, const REAL *grad, REAL *first, REAL *second, REAL *largest, const Adam &options) {
    const long long vectors = count / LANES;
    for (long long v = own_element(); v < vectors; v += element_step()) {
        Vector values = load(data, v), m = load(first, v), s = load(second, v);
        Vector most = largest ? load(largest, v) : zero_vector();
        const Vector slopes = load(grad, v);
        for (int l = 0; l < LANES; ++l)
            adam_element(values.lane[l], slopes.lane[l], m.lane[l], s.lane[l], most.lane[l], options);
        store(data, v, values);
        store(first, v, m);
        store(second, v, s);
        if (largest) store(largest, v, most);
    }
    for (long long i = vectors * LANES + own_element(); i < count; i += element_step()) {
        REAL most = largest ? largest[i] : REAL(0);
        adam_element(data[i], grad[i], first[i], second[i], most, options);
        if (largest) largest[i] = most;
    }
}

extern "C" __global__ void adam(
    long long count, REAL *data, const REAL *grad, REAL *first, REAL *second, REAL *largest, REAL rate, REAL root,
    REAL rise1, REAL beta2, REAL rise2, REAL eps, REAL weight_decay) {
    adam_all(count, data, grad, first, second, largest,
             Adam{rate, root, rise1, beta2, rise2, eps, weight_decay, largest != nullptr});
}

// options: lr, step, beta1, beta2, eps, weight_decay. The powers are taken once a block.
extern "C" __global__ void adam_device(
    long long count, REAL *data, const REAL *grad, REAL *first, REAL *second, REAL *largest, const double *options) {
    __shared__ REAL corrections[2];
    if (threadIdx.x == 0) {
        corrections[0] = static_cast<REAL>(options[0] / (1 - pow(options[2], options[1])));
        corrections[1] = static_cast<REAL>(sqrt(1 - pow(options[3], options[1])));
    }
    __syncthreads();
    adam_all(count, data, grad, first, second, largest,
             Adam{corrections[0], corrections[1], static_cast<REAL>(1 - options[2]), static_cast<REAL>(options[3]),
                  static_cast<REAL>(1 - options[3]), static_cast<REAL>(options[4]), static_cast<REAL>(options[5]),
                  largest != nullptr});
}
