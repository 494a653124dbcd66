"""Every rule that combines the heads of source domains, measured on the same networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from generality.benchmarks.domain_vectors import Domains
from generality.estimators.drm import (
    DiscriminatorSelector,
    DomainSelector,
    EntropySelector,
    PrototypeSelector,
    PseudoLabelRefit,
)
from generality.estimators.test_time import evaluate_online
from generality.measures import refit_ceiling
from generality.models import MultiHead, combine_heads
from generality.models.named_networks import hidden_network


def combine_domain_heads(
    states: Mapping[str, Mapping[str, Tensor]],
    widths: Sequence[int],
    classes: int,
    source: tuple[Float[np.ndarray, "n dim"], Int[np.ndarray, " n"]],
    checks: Domains,
    streams: Domains,
    settings: Sequence[Mapping[str, float]],
    *,
    batch: int = 32,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy of every way to combine the heads, in each domain; and the ceilings.

    Args:
        states: weights of `hidden_network`s: "erm" and "coral" with one head, "drm" and
            "coral+drm" with one for each source and a global one, side by side as one wide head.
        widths: of the networks.
        classes: how many there are.
        source: training inputs of the sources, and the domain of each.
        checks: what was held out of the sources; DRM-T's setting is chosen on it.
        streams: the targets.
        settings: of `PseudoLabelRefit` (DRM-T).
        batch: of the targets' stream.
        seed: of its order.

    Returns:
        `accuracy`: by method and domain, of "erm", "coral", "coral+drm", the heads weighed by
        "entropy", "argmin" entropy, "discriminator", "prototypes" or "uniform", "global-head",
        "drm-t", and of "best-head", a choice in hindsight; `ceilings`: `refit_ceiling` on DRM's
        features of each target.

    Source: Zhang et al. 2023 (arXiv 2208.08661), section 4.
    """
    models = {}
    for name, state in states.items():
        network: Any = hidden_network(source[0].shape[1], widths, len(state["head.bias"]))
        network.load_state_dict(state)
        models[name] = MultiHead.from_wide_head(network.featurizer, network.head, classes)
    with torch.inference_mode():
        seen = models["drm"].features(torch.from_numpy(source[0]))
    seen = seen.clone()
    selectors: dict[str, DomainSelector] = {
        "entropy": EntropySelector(1.0), "argmin": EntropySelector(float("inf")),
        "discriminator": DiscriminatorSelector(seen, source[1]),
        "prototypes": PrototypeSelector(seen, source[1]),
    }  # fmt: skip
    accuracy: dict[str, dict[str, float]] = {}
    for name, (X, y) in {**checks, **streams}.items():
        with torch.inference_mode():
            x, truth = torch.from_numpy(X), torch.from_numpy(y)
            heads, z = models["drm"](x), models["drm"].features(x)
            mixed = {
                "erm": models["erm"](x)[0], "coral": models["coral"](x)[0],
                "coral+drm": combine_heads(models["coral+drm"](x), "entropy"),
                "global-head": heads[-1], "uniform": combine_heads(heads, "uniform"),
            }  # fmt: skip
            for rule, selector in selectors.items():
                weights = selector.weights(z, heads)
                mixed[rule] = combine_heads(heads, "weights", weights=weights)
            hits = {
                rule: (p.argmax(-1) == truth).float().mean().item() for rule, p in mixed.items()
            }
            own = (heads[:-1].argmax(-1) == truth).float().mean(-1)
        for rule, hit in {**hits, "best-head": own.max().item()}.items():
            accuracy.setdefault(rule, {})[name] = hit
    accuracy["drm-t"] = refit_on_stream(
        models["drm"], settings, checks, streams, batch=batch, seed=seed
    )
    with torch.inference_mode():
        ceilings = {
            name: refit_ceiling(models["drm"].features(torch.from_numpy(X)).numpy(), y)
            for name, (X, y) in streams.items()
        }
    return {"accuracy": accuracy, "ceilings": ceilings}


def refit_on_stream(
    model: MultiHead,
    settings: Sequence[Mapping[str, Any]],
    checks: Domains,
    streams: Domains,
    *,
    batch: int = 32,
    seed: int = 0,
) -> dict[str, float]:
    """DRM-T's accuracy by domain, with the setting best on what was held out of the sources."""

    def online(options: Mapping[str, Any], data: Domains) -> dict[str, float]:
        adapter = PseudoLabelRefit(model, **options)
        found = evaluate_online(adapter, data, batch_size=batch, seed=seed)
        return {name: score.accuracy for name, score in found.items()}

    tried = [online(options, checks) for options in settings]
    best = int(np.argmax([np.mean(list(each.values())) for each in tried]))
    return {**tried[best], **online(settings[best], streams)}
