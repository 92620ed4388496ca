"""Which element each thread of an implicit GEMM touches, against whole numbers in Python; sizes beyond 2^32 too.

The kernels below hold nothing but the addresses: they run tiles.cuh's own loaders, with a base that is never read.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from standin.emulator import Module

from npconv.backends import ConvGeometry
from npconv.backends.gpu.conv_work import Work
from npconv.backends.gpu.launching import KERNELS

BM, BN, BK, THREADS = 64, 32, 16, 64
OUTSIDE = -1
PROBES = """
struct SharedTiles {};
#include "tiles.cuh"

struct Probe {
    static constexpr int BM = 64, BN = 32, BK = 16, THREADS = 64;
};

__device__ Sizes sizes_of(const int* sizes) {
    Sizes s;
    int* all[16] = {&s.images, &s.height, &s.width, &s.channels, &s.out_height, &s.out_width, &s.out_channels,
                    &s.kernel_h, &s.kernel_w, &s.stride_h, &s.stride_w, &s.top, &s.left, &s.dilation_h, &s.dilation_w,
                    &s.groups};
    for (int i = 0; i < 16; ++i) *all[i] = sizes[i];
    return s;
}

// Offsets of what one thread loads of the source, for `steps` tiles of terms: (steps, rows of a thread, THREADS, 4).
template <bool ADJOINT>
__device__ void source_offsets(long long first, int steps, int phase, int group, long long* found, const Sizes& s) {
    const Gather g = gather_of<ADJOINT>(s, phase);
    const REAL* base = reinterpret_cast<const REAL*>(1ll << 60);
    SourceRows<Probe, false> rows;
    rows.start(g, first, group);
    Walk at{0, 0, 0};
    step_walk(at, threadIdx.x % (Probe::BK / 4) * 4, g.per_source, g.across.taps);
    for (int step = 0; step < steps; ++step) {
        for (int i = 0; i < SourceRows<Probe, false>::EACH; ++i) {
            Walk k = at;
            for (int j = 0; j < 4; ++j) {
                const REAL* from = rows.element(base, g, i, k);
                found[((step * SourceRows<Probe, false>::EACH + i) * Probe::THREADS + threadIdx.x) * 4 + j] =
                    from == nullptr ? -1 : from - base;
                step_walk(k, 1, g.per_source, g.across.taps);
            }
        }
        step_walk(at, Probe::BK, g.per_source, g.across.taps);
    }
}

extern "C" __global__ void forward_source(long long first, int steps, int phase, int group, long long* found,
                                          const int* sizes) {
    source_offsets<false>(first, steps, phase, group, found, sizes_of(sizes));
}
extern "C" __global__ void adjoint_source(long long first, int steps, int phase, int group, long long* found,
                                          const int* sizes) {
    source_offsets<true>(first, steps, phase, group, found, sizes_of(sizes));
}

// Where position first + thread of a phase is written, and where the kernel has term k = thread (of channel 0).
extern "C" __global__ void adjoint_target(long long first, int phase, int group, long long* found, long long* weights,
                                          const int* sizes) {
    const Gather g = adjoint_gather(sizes_of(sizes), phase);
    const long long m = first + threadIdx.x;
    found[threadIdx.x] = m < positions_of(g) ? target_offset(g, m) : -1;
    Walk k{0, 0, 0};
    step_walk(k, threadIdx.x, g.per_source, g.across.taps);
    weights[threadIdx.x] = k.down < g.down.taps ? kernel_offset(g, sizes_of(sizes).kernel_w, k, 0,
                                                                group * g.per_source + k.channel, g.per_target,
                                                                sizes_of(sizes).out_channels)
                                                : -1;
}

// Offsets of what one thread loads of x for the kernel's gradient: (steps, pixels of a thread, THREADS, 4).
extern "C" __global__ void gradient_source(long long first, int m0, int steps, int group, long long* found,
                                           const int* sizes) {
    const Sizes s = sizes_of(sizes);
    const REAL* base = reinterpret_cast<const REAL*>(1ll << 60);
    typedef TapColumns<Probe, false> Taps;
    Taps taps;
    taps.start(s, m0, first, group);
    const Pixel by = pixel_at(Probe::BK, s.out_height, s.out_width);
    for (int step = 0; step < steps; ++step)
        for (int i = 0; i < Taps::EACH; ++i) {
            for (int j = 0; j < 4; ++j) {
                const REAL* from = taps.element(base, s, i, j);
                found[((step * Taps::EACH + i) * Probe::THREADS + threadIdx.x) * 4 + j] =
                    from == nullptr ? -1 : from - base;
            }
            step_pixel(taps.pixel[i], by, s.out_height, s.out_width);
        }
}
"""
SAME = ((1, 1), (1, 1))
GEOMETRIES = [
    ConvGeometry((3, 3), padding=SAME),
    ConvGeometry((3, 2), (2, 3), ((1, 0), (2, 1)), (1, 2)),
    ConvGeometry((4, 3), (2, 3), ((1, 1), (2, 1)), (2, 2), 2),
    ConvGeometry((5, 2), (4, 6), ((7, 9), (5, 1)), (6, 4), 3),
    ConvGeometry((2, 2), (3, 1), ((-1, 2), (1, -2))),
]
HUGE = [  # images, size, channels, outputs
    (40, (4096, 4096), 64, 32),  # 4.3e10 elements, 6.7e8 pixels
    (300, (4096, 4100), 3, 5),  # 5.0e9 pixels
    (3, (46341, 46341), 9, 2),  # one image has 2^31 pixels and some
    (70000, (32, 32), 2048, 2048),  # 1.5e11 elements in small images
]


@pytest.fixture(scope="module")
def probes() -> Module:
    parts = [(KERNELS / name).read_text() for name in ("common.cuh", "indices.cuh", "elements.cuh", "tiles.cuh")]
    parts[3] = "\n".join(line for line in parts[3].splitlines() if not line.startswith("#include"))
    probe = PROBES.replace('#include "tiles.cuh"', parts[3])
    return Module("\n".join([*parts[:3], probe]), ("-DREAL=float",))


def run(probes: Module, name: str, work: Work, found: Any, *args: Any) -> None:
    sizes = np.array(work.arguments, "int32")
    probes.get_function(name)((1, 1, 1), (THREADS, 1, 1), (*args, *found, sizes))


def small_work(geometry: ConvGeometry, images: int = 2) -> Work:
    size = (11, 13)
    return Work(images, size, 2 * geometry.groups, geometry.output_size(size), 3 * geometry.groups, geometry)


def huge_work(case: tuple[Any, ...], geometry: ConvGeometry) -> Work:
    images, size, channels, outputs = case
    return Work(images, size, channels, geometry.output_size(size), outputs, geometry)


def offset(image: int, pixel: tuple[int, int], channel: int, size: tuple[int, int], channels: int) -> int:
    """In (N, H, W, C), in Python's whole numbers; OUTSIDE if the pixel is not in the image."""
    if not (0 <= pixel[0] < size[0] and 0 <= pixel[1] < size[1]):
        return OUTSIDE
    return ((image * size[0] + pixel[0]) * size[1] + pixel[1]) * channels + channel


def forward_offset(work: Work, m: int, k: int, group: int) -> int:
    """What row m and column k of im2col's matrix (of one group) is."""
    g, channels = work.geometry, work.per_group[0]
    tap, c = divmod(k, channels)
    if tap >= g.taps or m >= work.out_pixels:
        return OUTSIDE
    image, rest = divmod(m, work.out_size[0] * work.out_size[1])
    out, taps = divmod(rest, work.out_size[1]), divmod(tap, g.kernel[1])
    pixel = [out[a] * g.stride[a] + taps[a] * g.dilation[a] - g.padding[a][0] for a in (0, 1)]
    return offset(image, (pixel[0], pixel[1]), group * channels + c, work.size, work.channels)


def phase_axis(work: Work, axis: int, phase: int) -> tuple[list[int], list[int]]:
    """The input pixels h with (h + padding) mod stride = phase, and the taps that can reach them, of all taps."""
    g = work.geometry
    pixels = range((phase - g.padding[axis][0]) % g.stride[axis], work.size[axis], g.stride[axis])
    taps = [k for k in range(g.kernel[axis]) if (k * g.dilation[axis] - phase) % g.stride[axis] == 0]
    return pixels, taps  # type: ignore[return-value]


def adjoint_terms(work: Work, m: int, phase: int) -> tuple[int, list[int], list[tuple[int, int]]]:
    """Of position m of a phase: the image, the input pixel (None beyond the last) and the taps of the phase."""
    axes = [phase_axis(work, axis, p) for axis, p in enumerate(divmod(phase, work.geometry.stride[1]))]
    taps = [(i, j) for i in axes[0][1] for j in axes[1][1]]
    counts = [len(axis[0]) for axis in axes]
    image, rest = divmod(m, max(1, counts[0] * counts[1]))
    row, column = divmod(rest, max(1, counts[1]))
    if m >= work.images * counts[0] * counts[1]:
        return work.images, [], taps
    return image, [axes[0][0][row], axes[1][0][column]], taps


def adjoint_offset(work: Work, m: int, k: int, phase: int, group: int) -> int:
    """The output pixel that saw position m by the tap of term k, and the channel of that term."""
    g, channels = work.geometry, work.per_group[1]
    image, pixel, taps = adjoint_terms(work, m, phase)
    tap, o = divmod(k, channels)
    if not pixel or tap >= len(taps):
        return OUTSIDE
    down, across = (divmod(pixel[a] + g.padding[a][0] - taps[tap][a] * g.dilation[a], g.stride[a]) for a in (0, 1))
    assert down[1] == across[1] == 0
    return offset(image, (down[0], across[0]), group * channels + o, work.out_size, work.out_channels)


def tile_of(steps: int) -> list[tuple[int, int, int, int, int]]:
    """(step, i, thread, row of the tile, term) of each quad that the threads load of a tile with terms across."""
    each, apart = BM * BK // 4 // THREADS, THREADS // (BK // 4)
    return [
        (step, i, t, t // (BK // 4) + i * apart, step * BK + t % (BK // 4) * 4)
        for step in range(steps)
        for i in range(each)
        for t in range(THREADS)
    ]


def boundaries(total: int) -> list[int]:
    """Firsts of tiles: the beginning, around 2^31 and 2^32 (if there are so many), and the end."""
    near = [0, 2**31 - BM // 2, 2**31 + BM, 2**32 - BM // 2, 2**32 - 1, 2**32 + 7 * BM, total // 3, total - BM // 2]
    return sorted({first for first in near if 0 <= first < total})


def check_source(probes: Module, work: Work, first: int, steps: int, adjoint: bool, phase: int, group: int) -> None:
    found = np.full((steps, BM * BK // 4 // THREADS, THREADS, 4), -7, "int64")
    name = "adjoint_source" if adjoint else "forward_source"
    run(probes, name, work, [found], np.int64(first), np.int32(steps), np.int32(phase), np.int32(group))
    for step, i, t, row, k in tile_of(steps):
        for j in range(4):
            m, term = first + row, k + j
            exact = adjoint_offset(work, m, term, phase, group) if adjoint else forward_offset(work, m, term, group)
            assert found[step, i, t, j] == exact, (step, i, t, j)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_convolution_reads_im2col(probes: Module, geometry: ConvGeometry) -> None:
    work = small_work(geometry)
    steps = math.ceil(geometry.taps * work.per_group[0] / BK) + 1
    for first in range(0, work.out_pixels, BM):
        check_source(probes, work, first, steps, False, 0, geometry.groups - 1)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_adjoint_reads_what_saw_each_pixel(probes: Module, geometry: ConvGeometry) -> None:
    work = small_work(geometry, images=1)
    for phase in range(work.phases):
        steps = math.ceil(geometry.taps * work.per_group[1] / BK) + 1
        check_source(probes, work, 0, steps, True, phase, geometry.groups - 1)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_phases_meet_each_pixel_once(probes: Module, geometry: ConvGeometry) -> None:
    """Over all phases: every input pixel is written once, and every tap of the kernel is read in one phase or none."""
    work = small_work(geometry, images=3)
    written: Counter[int] = Counter()
    for phase in range(work.phases):
        for first in range(0, work.gather(adjoint=True).positions, THREADS):
            found, weights = np.full(THREADS, -7, "int64"), np.full(THREADS, -7, "int64")
            run(probes, "adjoint_target", work, [found, weights], np.int64(first), np.int32(phase), np.int32(0))
            written.update(found[found >= 0].tolist())
            taps = adjoint_terms(work, first, phase)[2]
            for k in range(THREADS):
                tap, o = divmod(k, work.per_group[1])
                if tap < len(taps):
                    number = taps[tap][0] * geometry.kernel[1] + taps[tap][1]
                    assert weights[k] == number * work.per_group[0] * work.out_channels + o
                else:
                    assert weights[k] == OUTSIDE
    pixels = work.images * work.size[0] * work.size[1]
    assert written == Counter(range(0, pixels * work.channels, work.channels))


@pytest.mark.parametrize("case", HUGE)
def test_convolution_of_huge_images(probes: Module, case: tuple[Any, ...]) -> None:
    work = huge_work(case, GEOMETRIES[0])
    assert work.images * work.size[0] * work.size[1] * work.channels > 2**32
    for first in boundaries(work.out_pixels):
        check_source(probes, work, first, 2, False, 0, 0)


@pytest.mark.parametrize("case", HUGE)
def test_adjoint_of_huge_images(probes: Module, case: tuple[Any, ...]) -> None:
    work = huge_work(case, GEOMETRIES[1])
    for first in boundaries(work.gather(adjoint=True).positions)[::2]:
        check_source(probes, work, first, 1, True, 5, 0)
        found, weights = np.full(THREADS, -7, "int64"), np.full(THREADS, -7, "int64")
        run(probes, "adjoint_target", work, [found, weights], np.int64(first), np.int32(5), np.int32(0))
        for t in range(THREADS):
            image, pixel, _ = adjoint_terms(work, first + t, 5)
            exact = offset(image, (pixel[0], pixel[1]), 0, work.size, work.channels) if pixel else OUTSIDE
            assert found[t] == exact


@pytest.mark.parametrize("case", [None, *HUGE])
@pytest.mark.parametrize("geometry", GEOMETRIES[:2])
def test_gradient_reads_the_transpose_of_im2col(probes: Module, geometry: ConvGeometry, case: Any) -> None:
    work = small_work(geometry) if case is None else huge_work(case, geometry)
    each, quads, steps = BM * BK // 4 // THREADS, BM // 4, 3
    rows = geometry.taps * work.per_group[0]
    for first in boundaries(work.out_pixels):
        found = np.full((steps, each, THREADS, 4), -7, "int64")
        m0 = (rows - 1) // BM * BM
        run(probes, "gradient_source", work, [found], np.int64(first), np.int32(m0), np.int32(steps), np.int32(0))
        for step, i, t in np.ndindex(steps, each, THREADS):
            pixel = first + step * BK + t // quads + i * (THREADS // quads)
            if pixel >= work.out_pixels:
                continue  # the loop asks before it loads
            for j in range(4):
                assert found[step, i, t, j] == forward_offset(work, pixel, m0 + t % quads * 4 + j, 0), (step, i, t, j)
