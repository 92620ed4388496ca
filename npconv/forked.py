"""A forked child that computes for this process, and that nobody else can tell is there.

`multiprocessing` would do, but for what a fork that nobody has asked for must not do to the program around it:

- Its files stay its own. The child closes all that it inherits: a pipe that the program closes is closed.
- Its signals stay its own. No handler of the program ever runs in the child; Ctrl-C is for the program alone.
- Its buffers and exit handlers stay its own. The child ends with os._exit: nothing is written or printed twice.

From Python 3.12 on, a fork in a process with several threads warns: a child that waits for a lock which another thread
held would wait for ever. The child here uses the locks of `npconv` (made anew in it), of the C library (which looks
after its own) and of the BLAS; processes.py sees to it that no thread is at work in that, and to a child that waits all
the same.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable

KEPT = 3  # standard input, output and error


class Forked:
    """A child process that runs `work`, and ends. Of open files it keeps `file`, and the three standard ones.

    It is added to `known` beforehand: whoever is interrupted while it is being made can still end it.
    """

    def __init__(self, work: Callable[[], object], file: int, known: list[Forked]) -> None:
        if sys.version_info >= (3, 12):
            # The warning is shown as this module's. Not `catch_warnings`: that changes what all threads warn of.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=re.escape(__name__) + r"\Z")
        self._pids: list[int] = []
        self._ended = False
        known.append(self)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            # Another thread may have let Ctrl-C in. It raises its exception after a call has returned, which would be
            # that of os.fork, with the child's number. Within one call, the list has it by then.
            self._pids.extend(itertools.islice(iter(os.fork, None), 1))
            if self.pid == 0:
                _live(work, file, blocked)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    @property
    def pid(self) -> int:
        """The child's number."""
        return self._pids[0]

    def join(self, timeout: float) -> bool:
        """Wait for its end, `timeout` seconds at most; whether it has ended."""
        until, pause = time.monotonic() + timeout, 0.0002
        while not self._has_ended():
            if time.monotonic() >= until:
                return False
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        return True

    def kill(self) -> None:
        """End it now, if it has not ended."""
        if not self._has_ended():
            os.kill(self.pid, signal.SIGKILL)
            self.join(10)

    def _has_ended(self) -> bool:
        if not self._ended:
            if not self._pids:  # it was not even forked
                return True
            try:
                self._ended = os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
            except ChildProcessError:  # the program does not want to know of its children, or has waited itself
                self._ended = True
        return self._ended


def _live(work: Callable[[], object], file: int, blocked: set[int | signal.Signals]) -> None:
    """The child's life, which never comes back here."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        _close_all_but(file)
        work()
        status = 0
    finally:
        os._exit(status)


def _close_all_but(file: int) -> None:
    highest = 1023
    with contextlib.suppress(OSError):  # no /proc: then those that there usually are
        highest = max(map(int, os.listdir("/proc/self/fd")))
    os.closerange(KEPT, file)
    os.closerange(max(KEPT, file + 1), highest + 1)
