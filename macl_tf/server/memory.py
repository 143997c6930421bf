"""Memory of the process: what one batch of pictures has freed is there for the next."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

_TRIM, _MAP = -1, -3  # glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
_KEPT, _MAPPED = 256 << 20, 32 << 20  # bytes of free memory that stay, and of a block that is given back by itself
_SAID = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed() -> None:
    """Has glibc keep 256 MiB that are free, unless the environment says how much; elsewhere it does nothing.

    By default nearly all that a batch frees goes back to the system, which fills it with zeros, page by page, for the
    next.
    """
    if any(name in os.environ for name in _SAID):
        return
    with suppress(AttributeError, OSError, TypeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM, _KEPT)
        mallopt(_MAP, _MAPPED)
