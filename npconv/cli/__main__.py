"""`python -m npconv.cli`, for where the `npconv` program is not on the path."""

from __future__ import annotations

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
