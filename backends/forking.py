"""What a forked child must put right: it has one thread, and finds the locks as the others happened to hold them."""

from __future__ import annotations

import os
from collections.abc import Callable


def after_fork(renew: Callable[[], None]) -> None:
    """Call `renew` in every process that is forked from this one, before anything else runs there.

    It makes the locks of a module anew. Where there is no fork (Windows), there is nothing to do.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=renew)
