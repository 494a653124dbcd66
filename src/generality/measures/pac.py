"""How many environments make invariance hold on unseen ones, and what mass may violate it."""

from __future__ import annotations

import math


def pac_environments(
    gamma: float, delta: float, *, vc: float | None = None, log_class: float | None = None
) -> int:
    """Environments that suffice: with probability 1 − delta over their draw, whatever is invariant
    on all of them fails on at most a share `gamma` of the family they are drawn from.

    Give the complexity of the class of representations: `log_class`, the natural logarithm of its
    size, when it is finite (Occam's bound), or `vc`, the VC dimension of the sets of interventions
    that violate it (`vc_dimension`). The constants are the standard ones of realisable PAC
    learning (Blumer et al. 1989), not the paper's.

    Raises:
        ValueError: gamma or delta outside (0, 1); not exactly one complexity.

    >>> pac_environments(0.1, 0.05, log_class=math.log(28))
    64
    >>> pac_environments(0.1, 0.05, vc=10)
    5618
    """
    _check(gamma, delta)
    if (vc is None) == (log_class is None):
        raise ValueError("give vc or log_class, one of the two")
    if log_class is not None:
        return math.ceil((log_class + math.log(1 / delta)) / gamma)
    assert vc is not None
    return math.ceil(max(4 / gamma * math.log2(2 / delta), 8 * vc / gamma * math.log2(13 / gamma)))


def pac_gamma(
    environments: int, delta: float, *, vc: float | None = None, log_class: float | None = None
) -> float:
    """The inverse: the share that may violate it after this many environments, at most 1.

    >>> round(pac_gamma(40, 0.05, log_class=math.log(28)), 4)
    0.1582
    """
    _check(0.5, delta)
    if environments < 1:
        raise ValueError(f"there is at least one environment, not {environments}")
    if log_class is not None and vc is None:
        return min(1.0, (log_class + math.log(1 / delta)) / environments)
    low, high = 1e-12, 1.0 - 1e-12
    if pac_environments(high, delta, vc=vc, log_class=log_class) > environments:
        return 1.0
    for _ in range(200):  # pac_environments falls as gamma grows
        middle = math.sqrt(low * high)
        if pac_environments(middle, delta, vc=vc, log_class=log_class) <= environments:
            high = middle
        else:
            low = middle
    return high


def vc_dimension(parameters: int, *, degree: int = 3, inequalities: int = 1) -> float:
    """Upper bound for sets cut out by polynomial inequalities in this many real parameters.

    2 p log₂(8 e · degree · inequalities) (Goldberg and Jerrum 1995). For the sets {interventions
    where ‖g‖² > ε²} over representations of k × d numbers and k weights, p = k·d + k and ‖g‖² has
    twice the degree of g. With sites restricted to m nodes of in-degree q, p counts only what the
    interventions touch, and d does not enter.

    >>> round(vc_dimension(27, degree=6), 1)
    379.5
    """
    if parameters < 1 or degree < 1 or inequalities < 1:
        raise ValueError("parameters, degree and inequalities are at least 1")
    return 2 * parameters * math.log2(8 * math.e * degree * inequalities)


def _check(gamma: float, delta: float) -> None:
    if not 0 < gamma < 1 or not 0 < delta < 1:
        raise ValueError(f"gamma and delta are in (0, 1), not {gamma} and {delta}")
