"""Are generated domains the very domains that are to be tested on?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

Encode = Callable[[list[str]], Float[np.ndarray, "n dim"]]


def domain_overlap(
    generated: Sequence[str], targets: Sequence[str], encode: Encode, *, threshold: float = 0.6
) -> pd.DataFrame:
    """The target nearest to each generated domain, and whether it is too near to be a new one.

    A language model asked for new domains often names the benchmark's own ("sketch", "cartoon");
    accuracy should also be reported without those.

    Args:
        generated: names or descriptions of the domains.
        targets: names of the domains that are tested on.
        encode: from texts to vectors, such as `lambda texts: lab.embed("minilm-l6", texts)`.
        threshold: cosine similarity from which on they count as the same.

    Returns:
        Columns `domain`, `target` (the nearest), `similarity` in [−1, 1], `overlaps`.

    >>> letters = lambda texts: np.array([[t.count(c) for c in "aeiou"] for t in texts], float)
    >>> domain_overlap(["a sketch", "oil"], ["sketch"], letters, threshold=0.7)["overlaps"].tolist()
    [True, False]
    """
    if not targets:
        raise ValueError("there is no target to compare with")
    vectors = np.asarray(encode([*generated, *targets]), dtype=float)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    likeness = unit[: len(generated)] @ unit[len(generated) :].T
    nearest = likeness.argmax(1) if len(generated) else np.empty(0, int)
    similarity = likeness.max(1) if len(generated) else np.empty(0)
    return pd.DataFrame(
        {
            "domain": list(generated),
            "target": [targets[k] for k in nearest],
            "similarity": similarity,
            "overlaps": similarity >= threshold,
        }
    )
