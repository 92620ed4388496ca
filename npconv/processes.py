"""Worker processes: replicas that compute apart, each with an interpreter of its own.

    weights, images -> shared memory -> [process: forward, loss, backward] -> gradients in shared memory

Threads of one process take turns at its interpreter. A small network is a few hundred short calls a step, and each turn
costs some microseconds: two threads then gain a third, where two processes gain three quarters. So a network that has
been trained for a few steps by threads, and will be for more, goes on in forked processes. They compute what the
threads computed, in the same order: the same bits. Linux only; NPCONV_PROCESSES=0 leaves all work to threads.

Whatever happens to a process, threads compute again what it has not answered (forked.py says what it may not do to the
one that it was forked from).
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import select
import sys
import time
import traceback
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from .backends import backend
from .backends.base import Array
from .backends.cpu.workers import processes_allowed
from .forked import Forked
from .losses import Loss
from .module import Module
from .replica import Replica, laid_out_like

if TYPE_CHECKING:
    from multiprocessing.connection import Connection  # not at run time: Pyodide has none

PATIENCE = 0.001  # seconds that a process asks again and again before it sleeps: being woken takes a tenth of this
LARGE = 4_000_000_000  # multiply-adds of a step beside which the turns do not count
FIRST_ANSWER = 30.0  # seconds, and twenty times as long as our own part takes: no answer by then, and there is none
LOOK_UP = 5.0  # seconds after which a process that waits looks whether the one that forked it still lives


class Busy(RuntimeError):
    """Other threads compute: what they hold, a lock of the BLAS perhaps, a forked process would find held for ever."""


def possible(network: Module, loss: Loss) -> bool:
    """Whether processes may compute with copies of this network."""
    if not processes_allowed():
        return False
    if sys.platform != "linux" or not backend().can_fork or not _may_have_children():
        return False
    return computes_alone(network, loss)


def _may_have_children() -> bool:
    """Whether this Python has multiprocessing, and its rule is kept: a daemonic process may have no children."""
    try:
        from multiprocessing import connection, current_process  # noqa: F401  # connection is what a Team needs
    except ImportError:
        return False
    return not current_process().daemon


def computes_alone(network: Module, loss: Loss) -> bool:
    """Whether a step depends on nothing but parameters, buffers and the batch, and changes nothing else.

    So only modules of this library, and none that draws numbers: what a module of one's own remembers, or a generator,
    would go on in a copy, or stand still in a recording.
    """
    parts = [*network.modules(), loss]
    if any(type(part).__module__.partition(".")[0] != "npconv" for part in parts):
        return False
    wrapped = any(
        name in vars(part) for part in parts for name in ("forward", "backward", "evaluate", "value", "gradient")
    )
    return not wrapped and all(type(m).fork_generator is Module.fork_generator for m in network.modules())


class Team:
    """Processes for all workers but the first, which is this process.

    `x` and `target` are a batch like those to come: a share of it has `most` images at most. Raises `Busy` while other
    threads compute, OSError where no process is to be had.
    """

    def __init__(self, network: Module, workers: list[Replica], x: Array, target: Array, most: int) -> None:
        from multiprocessing.connection import Pipe

        self._workers, self._process = workers, os.getpid()
        self._ours: list[Connection] = []
        self._processes: list[Forked] = []
        self._proven = False  # whether all have answered once
        self.close = weakref.finalize(self, _close, self._ours, self._processes, self._process)
        # Whoever changes the network's structure gets another team: which arrays there are need not be asked again.
        self._parameters, self._buffers = list(network.parameters()), list(network.named_buffers())
        self._weights = [laid_out_like(array, shared(array.size, array.dtype)) for array in self._arrays()]
        self._inputs = [(shared_images(x, most), shared_images(target, most)) for _ in workers[1:]]
        try:
            with backend().paused():
                if not backend().idle:
                    raise Busy
                backend().release_memory()  # what the threads used
                for worker, images in zip(workers[1:], self._inputs, strict=True):
                    worker.lay_gradients(shared)
                    ours, theirs = Pipe()
                    self._ours.append(ours)
                    with theirs:
                        serve = partial(_serve, self._process, theirs, worker, network, self._weights, images)
                        Forked(serve, theirs.fileno(), self._processes)
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether it can be asked: not closed, and this is the process that started it."""
        return self.close.alive and os.getpid() == self._process

    def fits(self, x: Array, target: Array, shares: list[list[slice]]) -> bool:
        """Whether this batch has the images that the team was made for, and no more of them."""
        if len(shares) > len(self._workers):
            return False
        most = max(slices[-1].stop - slices[0].start for slices in shares)
        pairs = zip((x, target), self._inputs[0], strict=True)
        return all(
            most <= len(room) and array.shape[1:] == room.shape[1:] and array.dtype == room.dtype
            for array, room in pairs
        )

    def gradients(self, x: Array, target: Array, shares: list[list[slice]]) -> list[float] | None:
        """The losses of the shares; their gradients are in the workers' arrays. None if a process has died.

        Raises what a worker raised.
        """
        try:
            return self._gradients(x, target, shares)
        except (EOFError, ConnectionError):  # killed, for want of memory perhaps: threads can do it again
            self.close()
            return None
        except BaseException as error:
            was_closed = not self.close.alive
            self.close()  # an answer may be on its way: what comes next must not take it for its own
            if was_closed and isinstance(error, Exception):  # at the interpreter's exit, beside a thread that trains
                return None
            raise

    def _arrays(self) -> list[Array]:
        """All that the network computes with: parameters and buffers."""
        arrays = [parameter.data for parameter in self._parameters]
        return arrays + [getattr(module, name) for _, module, name in self._buffers]

    def _gradients(self, x: Array, target: Array, shares: list[list[slice]]) -> list[float]:
        for room, array in zip(self._weights, self._arrays(), strict=True):
            room[...] = array
        used = list(zip(self._ours, self._inputs, shares[1:], strict=False))
        for connection, (room_x, room_target), slices in used:
            start, count = slices[0].start, slices[-1].stop - slices[0].start
            room_x[:count] = x[start : start + count]
            room_target[:count] = target[start : start + count]
            moved = [(part.start - start, part.stop - start) for part in slices]
            connection.send((count, moved, len(x)))
        began = time.monotonic()
        first = backend().serially(partial(self._workers[0].gradients, x, target, shares[0], len(x)))
        if not self._proven:
            ended = time.monotonic()
            self._await([connection for connection, _, _ in used], ended + FIRST_ANSWER + 20 * (ended - began))
        answers = [_received(connection) for connection, _, _ in used]
        for error in answers:
            if isinstance(error, BaseException):
                raise error
        self._proven = self._proven or len(used) == len(self._ours)
        return [first, *answers]

    def _await(self, connections: list[Connection], until: float) -> None:
        """EOFError if one of them has no answer by then: it waits for what a thread held when it was forked."""
        for connection in connections:
            if not connection.poll(max(0.0, until - time.monotonic())):
                raise EOFError


def shared(size: int, dtype: Any) -> Array:
    """A 1-D array of zeros in memory that forked processes share."""
    dtype = backend().xp.dtype(dtype)
    return backend().xp.frombuffer(mmap.mmap(-1, max(1, size * dtype.itemsize)), dtype, size)


def shared_images(x: Array, count: int) -> Array:
    """Shared room for `count` images like those of x (N, C, H, W), channels-last; for anything else in C order."""
    room = shared(count * (x.size // len(x)), x.dtype)
    if x.ndim != 4:
        return room.reshape(count, *x.shape[1:])
    _, c, h, w = x.shape
    return room.reshape(count, h, w, c).transpose(0, 3, 1, 2)


def _serve(
    parent: int,
    connection: Connection,
    worker: Replica,
    network: Module,
    weights: list[Array],
    inputs: tuple[Array, Array],
) -> None:
    """The life of a worker process: until the other end of its pipe is gone, or the process that forked it."""
    gc.freeze()  # looking for garbage among what was inherited would copy all of it
    _compute_with(weights, network, worker.network)
    while True:
        try:
            message = _received(connection, parent)
        except (EOFError, OSError):
            return
        if message is None:
            return
        count, parts, batch = message
        x, target = (room[:count] for room in inputs)
        slices = [slice(*part) for part in parts]
        answer: Any
        try:
            answer = backend().serially(partial(worker.gradients, x, target, slices, batch))
        except BaseException as error:
            answer = _sendable(error)
        try:
            connection.send(answer)
        except OSError:  # nobody waits for it any more
            return


def _received(connection: Connection, parent: int | None = None) -> Any:
    """The next message: it is on its way most of the time, and then asking for it is faster than being woken.

    EOFError if the process `parent` has ended: its end of the pipe may live on in another process.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    until = time.perf_counter() + PATIENCE
    while not poll.poll(0) and time.perf_counter() < until:
        pass
    while parent is not None and not poll.poll(LOOK_UP * 1000):
        if os.getppid() != parent:
            raise EOFError
    return connection.recv()


def _compute_with(weights: list[Array], network: Module, replica: Module) -> None:
    """Let the parameters and buffers of this process's copies be the shared arrays."""
    parameters = list(network.parameters())
    for parameter, room in zip(parameters, weights, strict=False):
        parameter.share(room)
    for (_, module, name), room in zip(replica.named_buffers(), weights[len(parameters) :], strict=True):
        vars(module)[name] = room


def _sendable(error: BaseException) -> BaseException:
    """The error, with where it happened in its text, for there is no traceback across processes."""
    where = "".join(traceback.format_exception(error))
    try:
        return type(error)(f"{error}\n\nin a worker process:\n{where}")
    except Exception:  # its constructor wants something else
        return RuntimeError(f"{type(error).__name__}: {error}\n\nin a worker process:\n{where}")


def _close(connections: list[Connection], processes: list[Forked], owner: int) -> None:
    ours = os.getpid() == owner  # else a copy of it: the workers are not its own
    try:
        for connection in connections:
            with contextlib.suppress(OSError):
                if ours:
                    connection.send(None)  # closing alone is not enough: a forked process may hold the same end
            connection.close()
        deadline = time.monotonic() + 1
        for process in processes if ours else ():
            process.join(max(0, deadline - time.monotonic()))
    finally:  # also after a second Ctrl-C
        for process in processes if ours else ():
            process.kill()
