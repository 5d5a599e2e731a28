"""Memory of freed tensors goes back to the system."""

import ctypes
import sys

MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of mallopt(3)."""
LARGE_BYTES = 4 * 1024 * 1024


def give_back_large() -> bool:
    """Lets glibc map tensors of 4 MB and more one by one, so that each leaves the process when it is freed.

    Left to itself it raises that bound to 32 MB and keeps what lies between others: training with batches of changing
    shape then grows without end (a hypernetwork's from 3 to 12 GB in an hour).

    Returns:
        Whether it is so now; False where the C library is another one.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL("libc.so.6").mallopt(MMAP_THRESHOLD, LARGE_BYTES))
    except (OSError, AttributeError):
        return False
