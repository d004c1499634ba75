"""Keep memory that one training step frees for the next, instead of returning it to the system each time."""

import ctypes
import sys

# Of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
MOST = 2**31 - 1  # bytes kept at the heap's end; the largest int that mallopt takes


def keep_freed() -> None:
    """Let this process keep what it frees from now on; no effect where the C library is not glibc.

    glibc maps every large block separately and unmaps it when it is freed. Each training step of a CNN allocates its
    feature maps again, so each of their pages would be faulted in and zeroed at every step, which takes longer than to
    pool them. The price is memory: where maps are large, up to half as much again. What was kept before this call is
    returned: otherwise each model leaves fragments that the next cannot use.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc and hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, MOST)
        libc.malloc_trim(0)
