"""A whole encoder tuned for all sites and for one of them, in as many steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from generality.estimators.fine_tune_strategies import Global, Local
from generality.lab import Lab, TrainConfig
from generality.objectives import soft_cross_entropy


def tune_for_site(
    lab: Lab,
    encoder: str,
    site: str,
    texts: Sequence[str],
    labels: Int[np.ndarray, " n"],
    sites: Sequence[str],
    asked: Sequence[str],
    *,
    epochs: float,
    learning_rate: float = 2e-4,
    layer: int = -1,
    max_length: int = 256,
    seed: int = 0,
) -> dict[str, Float[np.ndarray, "m 2"]]:
    """Class probabilities of a site's texts, by the encoder tuned on all rows and on its own.

    Args:
        lab: keeps both trainings.
        encoder: a name as in `lab.finetune`.
        site: whose own rows "local" is tuned on; "global" on all.
        texts: of all sites.
        labels: 0 or 1.
        sites: of every text.
        asked: texts of the site to be tested.
        epochs: of the global model; the local one takes as many steps.
        learning_rate: of Adam.
        layer: hidden state classified, as in `lab.finetune`.
        max_length: tokens of a text.
        seed: of both.
    """
    where, found = np.asarray(sites), {}
    for method, strategy in {"global": Global(), "local": Local()}.items():
        rows = np.arange(len(texts))[strategy.training_rows(np.zeros((len(texts), 1)), where, site)]
        tuned = lab.finetune(
            encoder, [texts[row] for row in rows], np.eye(2)[labels[rows]],
            objective=soft_cross_entropy, seed=seed, layer=layer, max_length=max_length,
            predict={"test": list(asked)},
            config=TrainConfig(
                epochs=epochs * len(texts) / len(rows), learning_rate=learning_rate
            ),
        )  # fmt: skip
        found[method] = tuned.probabilities["test"]
    return found
