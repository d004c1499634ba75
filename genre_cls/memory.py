"""Memory that one training step frees is kept for the next, instead of being given back and fetched anew."""

import ctypes
import sys

# Of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
MOST = 2**31 - 1  # bytes at the heap's end that are kept; what mallopt takes is an int


def keep_freed() -> None:
    """Let this process keep what it frees from now on; where the C library is not glibc, nothing changes.

    glibc maps every large block apart and unmaps it when it is freed. A step of a CNN allocates its feature maps anew,
    and each of their pages would be faulted in and zeroed at every step, which takes longer than to pool them. The
    price is memory: where maps are large, up to half as much again. What has been kept so far goes back: of models that
    follow each other, each would leave more in pieces that the next cannot use.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc and hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, MOST)
        libc.malloc_trim(0)
