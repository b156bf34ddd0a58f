"""Where freed memory goes: kept for the next step of a training, or given back to the system.

By default glibc gives every large block back to the kernel when it is freed. The tensors of a training step are such
blocks: the kernel zeroes them anew, page by page, in every step, 80 to 200 thousand page faults in a step of a ViT-S.
"""

from __future__ import annotations

import ctypes
import os

# Of mallopt(3), as malloc.h numbers them.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_LARGEST = 2**31 - 1
_LIMITS = ("trim_threshold", "mmap_threshold", "mmap_max", "top_pad")
"""What a user may have set on purpose; other variables of glibc, such as the number of arenas, do not touch these."""


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, up to 2 GiB, and use it again.

    Does nothing under another C library than glibc, or where the user has set one of these limits by glibc's own
    variables (``MALLOC_TRIM_THRESHOLD_`` or ``glibc.malloc.trim_threshold`` in ``GLIBC_TUNABLES``, and so on).
    Peak memory stays what it was: the next step needs the same blocks.

    Returns:
        Whether it was set.
    """
    return _set({_MMAP_MAX: 0, _TRIM_THRESHOLD: _LARGEST})


def give_freed_memory_back() -> bool:
    """Let this process give large blocks back: for loader workers, of which one may meet a single huge sample.

    Blocks above 32 MiB are the system's again when they are freed, and so is what lies unused above 64 MiB at the end
    of the heap: glibc's own limits in a process that handles large blocks.

    Returns:
        Whether it was set.
    """
    return _set({_MMAP_MAX: 65536, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26})


def _set(values: dict[int, int]) -> bool:
    if _chosen_by_user() or not _is_glibc():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in values.items()])


def _chosen_by_user() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return any(f"MALLOC_{limit.upper()}_" in os.environ or f"glibc.malloc.{limit}=" in tunables for limit in _LIMITS)


def _is_glibc() -> bool:
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, ValueError, OSError):
        return False
