"""How many threads a job computes with.

Small trainings are fastest on one thread: the arithmetic of a step is shorter than waking a
second core. Large matrix products want them all. And two jobs of two threads each on two cores
are several times slower than two jobs of one. So every job says what it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


def available_cores() -> int:
    """Cores this process may use (affinity respected)."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with `count` threads in torch and BLAS inside the block, then as before.

    >>> with threads(1):
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)
