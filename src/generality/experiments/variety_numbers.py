"""Every number about the variety of a data set that a language model can be asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from generality.measures import (
    GVendi,
    LabelEntropy,
    MeanPerplexity,
    MeanStates,
    vendi_score,
    word_variety,
)
from generality.training.writer import Writer


def variety_numbers(
    ds: Sequence[Mapping[str, Any]],
    proxies: Mapping[str, Writer],
    *,
    labels: str,
    dim: int = 1024,
    side: int = 64,
) -> dict[str, float]:
    """Numbers about one data set, each growing with its variety; compare sets of equal size.

    Args:
        ds: records with `prompt` and `response`.
        proxies: models that give gradients, each under the name of its `GVendi`; the first also
            gives states and perplexity, as `embedding_vendi` and `perplexity`.
        labels: the column whose entropy is `<labels>_entropy`.
        dim: numbers of a projected gradient.
        side: see `ProjectedGradients`.

    >>> ds = [{"prompt": f"{a} ?", "response": f"=> {a}", "skill": "copy"} for a in "ab"]
    >>> found = variety_numbers(ds, {"g_vendi": Writer.tiny("0.05M")}, labels="skill", dim=32)
    >>> 1 < found["g_vendi"] < 2, found["skill_entropy"]
    (True, 0.0)
    """
    models = {name: writer.model() for name, writer in proxies.items()}
    first = next(iter(proxies))
    found = {
        name: GVendi(model, proxies[name].tokenizer, dim, side=side).score(ds)
        for name, model in models.items()
    }
    asked = models[first], proxies[first].tokenizer
    return found | {
        "embedding_vendi": vendi_score(MeanStates(*asked).features(ds)),
        **word_variety(f"{record['prompt']} {record['response']}" for record in ds),
        "perplexity": MeanPerplexity(*asked)(ds),
        f"{labels}_entropy": LabelEntropy(labels=labels)(ds),
    }
