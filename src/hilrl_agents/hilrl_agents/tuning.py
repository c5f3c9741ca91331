"""Process settings that make learning on a CPU fast."""

import ctypes

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # glibc, malloc.h


def tune_process(threads: int = 1) -> bool:
    """Pins torch's threads and lets malloc keep freed memory; call once, before learning.

    glibc gives every freed tensor above 128 KB back to the kernel and pays page faults to get it again: some
    1 900 faults, a third of the time of an update. More threads than free cores slow an update from
    milliseconds to seconds.

    Args:
        threads: of torch's operations.

    Returns:
        Whether malloc could be set (not on another C library).
    """
    torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {_M_MMAP_THRESHOLD: 1 << 25, _M_TRIM_THRESHOLD: 1 << 29, _M_TOP_PAD: 1 << 26}
    return all(mallopt(key, value) == 1 for key, value in settings.items())
