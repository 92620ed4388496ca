"""One thread at a time trains a network: its gradients, its optimizer and its workers are one of each.

Two threads that took steps in turns would not fail, but the result would depend on who was faster. So the second one
gets an error. Any number may predict.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

from .backends.forking import after_fork
from .module import Module

P = ParamSpec("P")
R = TypeVar("R")


class _HasNetwork(Protocol):
    network: Module


S = TypeVar("S", bound=_HasNetwork)

_trained: WeakKeyDictionary[Module, tuple[threading.Thread, int]] = WeakKeyDictionary()  # by whom, how often entered
_lock = threading.Lock()


@contextmanager
def training_of(network: Module) -> Iterator[None]:
    """This thread trains `network` within the context; RuntimeError if another one is at it."""
    me, times = threading.current_thread(), 0
    try:  # an interrupt may come anywhere
        with _lock:
            thread, before = _trained.get(network, (me, 0))
            if thread is not me:
                raise RuntimeError(
                    f"the network is being trained in the thread {thread.name!r} already, and one thread at a time "
                    "can train it: give each thread a model of its own (copy.deepcopy(model)), or let them take turns "
                    "with a threading.Lock; predict may be called meanwhile"
                )
            times = before + 1
            _trained[network] = me, times
        yield
    finally:
        with _lock:
            if times > 1:
                _trained[network] = me, times - 1
            elif times == 1:
                _trained.pop(network, None)


def trains_alone(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A method that trains `self.network`: a second thread that calls it meanwhile gets a RuntimeError."""

    @functools.wraps(method)
    def alone(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        with training_of(self.network):
            return method(self, *args, **kwargs)

    return cast("Callable[Concatenate[S, P], R]", alone)


def _forked() -> None:
    """Only the thread that forked is in the child: nobody else trains anything there."""
    global _lock
    me: Any = threading.current_thread()
    _lock = threading.Lock()
    for network, (thread, _) in list(_trained.items()):
        if thread is not me:
            _trained.pop(network, None)


after_fork(_forked)
