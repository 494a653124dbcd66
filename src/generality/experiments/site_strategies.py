"""One model for all sites or one for each: every strategy on the same features."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from generality.estimators.fine_tune_strategies import ClusterRoute, Global, Local, NearestAugment

Rows = tuple[Float[np.ndarray, "n dim"], Int[np.ndarray, " n"], Sequence[str]]
"""Features, labels (0 or 1) and the site of each row."""


def site_scores(
    train: Rows,
    X_test: Float[np.ndarray, "m dim"],
    sites_test: Sequence[str],
    more: Rows | None = None,
    *,
    hidden: int = 32,
    epochs: int = 10,
    ratio: float = 1.0,
    clusters: int = 4,
    seed: int = 0,
) -> dict[str, Float[np.ndarray, " m"]]:
    """Scores of class 1 of every test row by every strategy.

    "global" is one perceptron of one hidden layer for all sites, "global-longer" the same for twice
    as long; "local" and "local-from-global" fit one for each site; "nearest" and "random-rows" add
    rows of other sites to its own; "cluster" fits one for each cluster of rows. "ceiling" (where
    there is `more`) is the global model with more rows of the test row's site.

    Args:
        train: rows of all sites.
        X_test: test features.
        sites_test: their sites.
        more: rows for the ceiling.
        hidden: units.
        epochs: of the global model, Adam at 1e-3, batches of 32; other models take as many steps.
        ratio: rows added, as a multiple of a site's own.
        clusters: how many.
        seed: of the weights, the order, the clusters and the random rows.

    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 3))
    >>> rows = X, (X[:, 0] > 0).astype(int), ["north", "south"] * 30
    >>> scores = site_scores(rows, X, rows[2], epochs=2, hidden=4, clusters=2)
    >>> sorted(scores)[:3], scores["global"].shape
    (['cluster', 'global', 'global-longer'], (60,))
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    X, y, sites = train
    mean, scale = X.mean(0), X.std(0) + 1e-6
    X, X_test = (X - mean) / scale, (X_test - mean) / scale
    where, where_test = np.array(sites), np.array(sites_test)
    options = {"batch_size": 32, "n_iter_no_change": 10**6, "random_state": seed}
    head = MLPClassifier((hidden,), max_iter=epochs, **options)
    longer = MLPClassifier((hidden,), max_iter=2 * epochs, **options)
    strategies = {
        "global": Global(head),
        "global-longer": Global(longer),
        "local": Local(head),
        "local-from-global": Local(head, init="global"),
        "nearest": NearestAugment(head, ratio=ratio),
        "random-rows": NearestAugment(head, ratio=ratio, similarity="random", random_state=seed),
        "cluster": ClusterRoute(head, clusters=clusters, random_state=seed),
    }
    scores = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="Got `batch_size`")  # a site of few rows
        for name, strategy in strategies.items():
            strategy.fit(X, y, where)
            scores[name] = strategy.predict_proba(X_test, where_test)[:, 1]
        if more is not None and len(more[0]):
            X_more, y_more, where_more = (more[0] - mean) / scale, more[1], np.array(more[2])
            scores["ceiling"] = np.full(len(X_test), np.nan)
            for site in np.unique(where_test):
                added, at = where_more == site, where_test == site
                ceiling = Global(head).fit(
                    np.concatenate([X, X_more[added]]), np.concatenate([y, y_more[added]])
                )
                scores["ceiling"][at] = ceiling.predict_proba(X_test[at])[:, 1]
    return scores
