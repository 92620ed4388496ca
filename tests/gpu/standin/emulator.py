"""CUDA kernels on the CPU: a .cu file compiled with g++ behind cuda_on_cpu.h, and called as CuPy's RawModule is.

`run_both_ways` is for tests of kernels: blocks and threads in order, then in the reverse order, with the same bits.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

HERE = Path(__file__).parent
CHECKS = "NPCONV_EMULATOR_CHECKS"  # 0: run kernels without checking their accesses to memory, several times faster
FOLDER = "NPCONV_EMULATOR_FOLDER"  # where compiled kernels are kept, if not in a temporary folder
COMPILER = ("g++", "-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-w", f"-I{HERE}")
HEADERS = ("runtime.h", "cuda_on_cpu.h")
RUNTIME = ("threads.cpp", "checks.cpp")
# The sanitizers' calls, without their libraries: checks.cpp has the functions.
SANITIZERS = "-fsanitize=thread,bounds,alignment,null,signed-integer-overflow,shift,integer-divide-by-zero"

_KERNEL = re.compile(
    r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^()]*(?:\([^()]*\))?[^()]*\)\s*)?(\w+)\s*\('
)
_DYNAMIC = re.compile(
    r"extern\s+__shared__\s+((?:__align__\s*\(\d+\)\s*|alignas\s*\(\d+\)\s*)?)([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;"
)


class EmulatorError(Exception):
    """A kernel did what a GPU would punish, or perhaps not: the text says what and where."""


class _Launch(ctypes.Structure):
    _fields_ = [("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared", ctypes.c_longlong),
                ("reversed", ctypes.c_int), ("arrays", ctypes.c_int),
                ("ranges", ctypes.c_void_p), ("kinds", ctypes.c_char_p), ("stacks", ctypes.c_void_p)]  # fmt: skip


_reversed = False


class Module:
    """The kernels of one source text, compiled; the texts of equal sources and options are compiled once."""

    def __init__(self, code: str, options: Sequence[str] = ()) -> None:
        self.names = tuple(dict.fromkeys(_KERNEL.findall(re.sub(r"//[^\n]*", "", code))))
        if not self.names:
            raise EmulatorError('the source has no kernel: write extern "C" __global__ void name(...)')
        body = _DYNAMIC.sub(r"\2* const \3 = reinterpret_cast<\2*>(npconv_emulator::dynamic_shared);", code)
        exports = "".join(f"NPCONV_EXPORT({name})\n" for name in self.names)
        text = f'#include "cuda_on_cpu.h"\nnamespace {{\n#line 1 "kernel.cu"\n{body}\n}}\n{exports}'
        # PyDLL keeps the interpreter's lock: one kernel runs at a time, and all share their stacks.
        self._library = ctypes.PyDLL(str(_compiled(text, tuple(o for o in options if o.startswith("-D")))))

    def get_function(self, name: str) -> Function:
        if name not in self.names:
            raise EmulatorError(f"the source has no kernel {name}, but {', '.join(self.names)}")
        return Function(self._library, name)


class Function:
    """One kernel, called as CuPy's: function(grid, block, args, shared_mem=bytes)."""

    def __init__(self, library: ctypes.PyDLL, name: str) -> None:
        self.name = name
        self.max_dynamic_shared_size_bytes = 48 * 1024
        self._launch = library[f"npconv_launch_{name}"]
        self._launch.restype = ctypes.c_char_p
        signature = library[f"npconv_signature_{name}"]
        signature.restype = ctypes.c_char_p
        letters = signature().decode()
        self.parameters = [letters[i : i + 2] for i in range(0, len(letters), 2)]

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
    ) -> None:
        """`args` are NumPy arrays (or objects with `data.ptr`), NumPy scalars, Python ints (long long) and floats."""
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise EmulatorError(f"kernel {self.name}: {shared_mem} bytes of shared memory need "
                                "max_dynamic_shared_size_bytes to be set")  # fmt: skip
        if len(args) != len(self.parameters):
            raise EmulatorError(f"kernel {self.name} has {len(self.parameters)} parameters, {len(args)} are given")
        values = [self._value(i, kind, arg) for i, (kind, arg) in enumerate(zip(self.parameters, args, strict=True))]
        pointers = (ctypes.c_void_p * max(1, len(values)))(*(value.ctypes.data for value in values))
        spans = [_span(arg) for arg in args if not isinstance(arg, (bool, int, float, np.generic))]
        ranges = np.array([(first, last - first) for first, last, _ in spans], dtype=np.int64).reshape(-1, 2)
        kinds = bytes(size for _, _, size in spans)
        how = _Launch(
            _three(grid),
            _three(block),
            shared_mem,
            _reversed,
            len(spans),
            ranges.ctypes.data,
            kinds,
            ctypes.addressof(_stacks()),
        )
        error = self._launch(pointers, ctypes.byref(how))
        if error:
            raise EmulatorError(f"kernel {self.name}: {error.decode()}")

    def _value(self, index: int, kind: str, arg: Any) -> np.ndarray:
        """The argument's bytes, as one element of an array; EmulatorError where CUDA would read garbage."""
        if isinstance(arg, (bool, int, float)):
            arg = np.float64(arg) if isinstance(arg, float) else np.int64(arg)
        is_scalar, dtype = isinstance(arg, np.generic), arg.dtype
        null = is_scalar and dtype == np.uint64 and arg == 0  # how a null pointer is passed
        given = "-" + _code(dtype) if is_scalar else "P" + _code(dtype)
        if not (kind == given or (kind[0] == "P" and (null or (kind == "PV" and not is_scalar)))):
            raise EmulatorError(f"kernel {self.name}: parameter {index} is {_spoken(kind)}, given is {_spoken(given)}")
        if is_scalar:
            return np.array([arg])
        address = arg.ctypes.data if isinstance(arg, np.ndarray) else arg.data.ptr
        return np.array([address], dtype=np.uint64)


@contextmanager
def reversed_order() -> Iterator[None]:
    """Within this context blocks, warps and threads run from the last to the first."""
    global _reversed
    before, _reversed = _reversed, True
    try:
        yield
    finally:
        _reversed = before


def run_both_ways(call: Callable[[], Any], *changed: np.ndarray) -> Any:
    """What `call` gives; EmulatorError if its bits, or those of the arrays it changes, depend on the threads' order."""
    before = [array.copy(order="K") for array in changed]
    result = call()
    first = [array.tobytes() for array in (*changed, *_arrays(result))]
    for array, old in zip(changed, before, strict=True):
        array[...] = old
    with reversed_order():
        second = [array.tobytes() for array in (*changed, *_arrays(call()))]
    for index, (one, other) in enumerate(zip(first, second, strict=True)):
        if one != other:
            raise EmulatorError(f"array {index} depends on the order of the threads: a race, or a missing barrier")
    return result


def _arrays(result: Any) -> list[Any]:
    values = result if isinstance(result, tuple) else (result,)
    return [value for value in values if hasattr(value, "tobytes")]


# What a Launcher needs of `xp` to launch kernels on NumPy arrays.
HOST = SimpleNamespace(
    RawModule=Module,
    cuda=SimpleNamespace(Device=lambda: SimpleNamespace(attributes={"MultiProcessorCount": 1})),
)


@cache
def _stacks() -> ctypes.c_char:
    """The first byte of memory for the stacks of as many threads as a block may have; what is used of it stays."""
    memory = mmap.mmap(-1, 1024 * 128 * 1024, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return ctypes.c_char.from_buffer(memory)  # which keeps the memory


def _three(size: tuple[int, ...]) -> Any:
    return (ctypes.c_uint * 3)(*(*size, 1, 1)[:3])


def _code(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "iu":
        return {1: "b", 2: "h", 4: "i", 8: "q"}[dtype.itemsize]
    return dtype.char if dtype.char in "fd?" else "V"


def _spoken(kind: str) -> str:
    names = {"f": "float", "d": "double", "b": "char", "h": "short", "i": "int", "q": "long long", "?": "bool"}
    name = names.get(kind[1], "structure")
    return f"a pointer to {name}" if kind[0] == "P" else f"a {name}"


def _span(array: Any) -> tuple[int, int, int]:
    """Where an array lies in memory: its first byte, the byte behind its last, and the bytes of an element."""
    array = array if isinstance(array, np.ndarray) else array.on_host
    first, last = byte_bounds(array) if array.size else (0, 0)
    return first, last, min(array.itemsize, 127)


def folder_of_compiled() -> Path:
    """Where what was compiled is kept from run to run; it is made, and must be this user's."""
    folder = Path(os.environ.get(FOLDER) or Path(tempfile.gettempdir()) / f"npconv-emulator-{os.getuid()}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise EmulatorError(f"{folder} is another user's: programs in it could be anything; set {FOLDER}")
    return folder


def _compiled(text: str, macros: tuple[str, ...]) -> Path:
    """The shared library of a source text; compiled at most once in a folder."""
    folder = folder_of_compiled()
    checked = (SANITIZERS,) if os.environ.get(CHECKS) != "0" else ()
    library = folder / f"{_key(text, *(_text(name) for name in (*HEADERS, *RUNTIME)), *macros, *checked)}.so"
    if not library.exists():
        runtime = [_object(folder, _text(name), ("-O2",)) for name in RUNTIME]
        main = _object(folder, text, (f"-I{_precompiled(folder, checked)}", *macros, *checked))
        _build(folder, [*COMPILER, "-shared", *map(str, (main, *runtime))], library)
        main.unlink(missing_ok=True)
    return library


@cache
def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _precompiled(folder: Path, options: tuple[str, ...]) -> Path:
    """A folder with cuda_on_cpu.h as the compiler has it in memory: half of the time that a kernel takes to compile.

    Where it does not fit (a macro of the kernel's that the header has a word for), the compiler takes the header.
    """
    made = folder / _key(*map(_text, HEADERS), *options) / f"{HEADERS[-1]}.gch"
    if not made.exists():
        made.parent.mkdir(exist_ok=True)
        _build(folder, [*COMPILER, *options, "-x", "c++-header", str(HERE / HEADERS[-1])], made)
    return made.parent


def _object(folder: Path, text: str, options: tuple[str, ...]) -> Path:
    made = folder / f"{_key(text, *map(_text, HEADERS), *options)}.o"
    if not made.exists():
        source = made.with_suffix(f".{os.getpid()}.cpp")
        source.write_text(text, encoding="utf-8")
        _build(folder, [*COMPILER[:-1], *options, COMPILER[-1], "-c", str(source)], made)
        source.unlink()
    return made


def _build(folder: Path, command: list[str], made: Path) -> None:
    """Run the compiler; the result is moved to its name at once, as another process may be making the same."""
    if shutil.which(command[0]) is None:
        raise EmulatorError(f"the emulator needs {command[0]}")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        result = Path(scratch) / made.name
        done = subprocess.run([*command, "-o", str(result)], capture_output=True, text=True)
        if done.returncode != 0:
            raise EmulatorError(f"g++ refuses the kernel:\n{done.stderr[:4000]}")
        os.replace(result, made)


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join((*COMPILER, *parts)).encode()).hexdigest()[:24]
