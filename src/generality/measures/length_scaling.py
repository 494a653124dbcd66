"""How time and memory grow with the length of a sequence."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from generality.measures.memory_of import memory_of


@dataclass(frozen=True)
class LengthScaling:
    """Cost at each length, and the power of the length that it follows.

    Attributes:
        lengths: as asked.
        seconds: median time of a call at each length.
        peak: bytes, see `memory_of`.
        saved: bytes, see `memory_of`.
        time_exponent: slope of log seconds over log length: 1 is linear, 2 quadratic.
        memory_exponent: that of peak bytes.
    """

    lengths: list[int]
    seconds: list[float]
    peak: list[int]
    saved: list[int]
    time_exponent: float
    memory_exponent: float


def length_scaling(
    make: Callable[[int], Callable[[], Any]],
    lengths: Sequence[int],
    *,
    repeats: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> LengthScaling:
    """Time and memory of calls on sequences of several lengths, with their log-log slopes.

    Args:
        make: from a length to a call on inputs of that length, which are made beforehand.
        lengths: two or more, rising; far apart, as short ones mostly measure overhead.
        repeats: timed calls at each length, after one that counts memory and warms up.
        clock: seconds; `time.process_time` on a machine with other work (then use one thread).

    Raises:
        ValueError: fewer than two lengths.

    >>> import torch
    >>> def square(length):
    ...     x = torch.ones(length, 4)
    ...     return lambda: (x @ x.T).sum()
    >>> round(length_scaling(square, [200, 400, 800], repeats=1).memory_exponent, 2)
    2.0
    """
    if len(set(lengths)) < 2:
        raise ValueError("an exponent needs two lengths or more")
    seconds, used = [], []
    for length in lengths:
        call = make(length)
        used.append(memory_of(call))
        taken = []
        for _ in range(repeats):
            start = clock()
            call()
            taken.append(clock() - start)
        seconds.append(statistics.median(taken))
    peak = [use.peak for use in used]
    slopes = [float(np.polyfit(np.log(lengths), np.log(y), 1)[0]) for y in (seconds, peak)]
    return LengthScaling(list(lengths), seconds, peak, [use.saved for use in used], *slopes)
