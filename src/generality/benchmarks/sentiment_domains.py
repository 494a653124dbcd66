"""The sentiment benchmark's four domains as one `MultiDomain` of texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from generality.benchmarks.multi_domain import MultiDomain
from generality.benchmarks.sentiment import DOMAINS, LABEL_NAMES, load_sentiment
from generality.benchmarks.splits import stratified
from generality.errors import UserError, unknown


def sentiment_domains(
    *,
    split: str | None = None,
    per_domain: int | None = None,
    margin: float = 0.5,
    balanced: bool = False,
    seed: int = 0,
    path: str | Path | None = None,
) -> MultiDomain:
    """Texts rated negative (0) or positive (1) from the domains movie, amazon, nyt, tweets.

    Args:
        split: only the rows that `load_sentiment` puts into "train" or "test"; None for both. Use
            the splits to hold rows of a domain out, since sentences of one review would otherwise
            be on both sides.
        per_domain: so many rows of each domain, classes at their share; None for all.
        margin, balanced, path: see `load_sentiment`.
        seed: of which rows `per_domain` takes.

    Raises:
        UserError: as `load_sentiment`; an unknown split; a domain with fewer than `per_domain`.
    """
    splits = load_sentiment(margin=margin, balanced=balanced, path=path).splits
    if split is not None and split not in splits:
        raise unknown("split of the sentiment domains", split, splits)
    columns: dict[str, list] = {
        name: [value for part in ([split] if split else splits) for value in splits[part][name]]
        for name in ("text", "label", "domain")
    }
    names = tuple(DOMAINS)
    data = MultiDomain(
        inputs=columns["text"],
        labels=np.array(columns["label"]),
        domains=np.array([names.index(name) for name in columns["domain"]]),
        label_names=LABEL_NAMES,
        domain_names=names,
    )
    rows = [data.rows(name) for name in names]
    if per_domain is not None:
        for name, chosen in zip(names, rows, strict=True):
            if len(chosen) < per_domain:
                raise UserError(
                    f"The domain {name} has {len(chosen):,} rows, fewer than the {per_domain:,} "
                    "asked for of each domain."
                )
        rows = [chosen[stratified(data.labels[chosen], per_domain, seed)] for chosen in rows]
    return data.take(np.concatenate(rows))
