"""Which rows teach a site's model: everyone's, its own, similar ones too, or its cluster's."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data


class Global(ClassifierMixin, BaseEstimator):
    """One model from all sites' rows, used at every site: the floor of the other strategies.

    All strategies take the `sites` of the rows in `fit` and `predict_proba`, and any classifier
    with `predict_proba` over features such as embeddings. Without `sites` there is one site.

    A model tuned on fewer rows takes fewer optimiser steps; with `match_steps` its epochs are
    raised until it takes as many as the global model, so that a difference is due to the data. This
    concerns estimators with `epochs` and `batch_size` (`SoftProbe`), or `max_iter` and `batch_size`
    (`MLPClassifier`), also as the last step of a pipeline; others find their optimum anyway.

    Source: Jiang et al. 2024, "Generalization in Healthcare AI" (arXiv 2402.10965), which compares
    global, local, instance-based augmented and cluster-based fine-tuning. Its similarity, number of
    neighbours and number of clusters are not public; ours are stated in each class.

    Args:
        estimator: what is fitted; None is logistic regression.
        match_steps: see above.
        random_state: of what a strategy draws itself (clusters, random neighbours).

    Attributes:
        classes_: (K,) the labels.
        global_: the model from all rows, which also serves sites never seen in training.
        models_: the models of each site (or cluster), by its name.
        fell_back_: sites (or clusters) without all classes in their training rows: they use
            `global_`.

    >>> rng = np.random.default_rng(0)
    >>> X, sites = rng.normal(size=(300, 4)), np.repeat(["A", "B", "C"], 100)
    >>> y = (X[:, 0] * np.where(sites == "C", -1, 1) > 0).astype(int)  # C reads it the other way
    >>> at_c = sites == "C"
    >>> for strategy in (Global(), Local()):
    ...     said = strategy.fit(X, y, sites).predict(X[at_c], sites[at_c])
    ...     print(round((said == y[at_c]).mean()))
    0
    1
    """

    def __init__(
        self, estimator: Any = None, *, match_steps: bool = True, random_state: Any = 0
    ) -> None:
        self.estimator = estimator
        self.match_steps = match_steps
        self.random_state = random_state

    def fit(
        self,
        X: Float[Any, "n d"],
        y: Shaped[Any, " n"],
        sites: Shaped[Any, " n"] | None = None,
    ) -> Global:
        """Fit the global model and whatever models the strategy has beside it."""
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        places = _sites(sites, len(X))
        self.global_ = self._new().fit(X, y)
        self.models_: dict[Any, Any] = {}
        self.fell_back_: list[Any] = []
        self._fit_others(X, y, places)
        return self

    def training_rows(
        self, X: Float[Any, "n d"], sites: Shaped[Any, " n"], site: Any
    ) -> Int[NDArray[np.int64], " rows"]:
        """Which training rows teach the model of `site`, sorted: for tuning any model of your own.

        >>> Global().training_rows(np.eye(3), np.array(["A", "B", "A"]), "A")
        array([0, 1, 2])
        """
        return np.arange(len(sites))

    def predict_proba(
        self, X: Float[Any, "n d"], sites: Shaped[Any, " n"] | None = None
    ) -> Float[NDArray[np.float64], "n classes"]:
        """Probability of each class, in the order of `classes_`, by each row's model."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        routes = self._route(X, _sites(sites, len(X)))
        probabilities = np.zeros((len(X), len(self.classes_)))
        for route in np.unique(routes):
            rows = routes == route
            probabilities[rows] = self.models_.get(route, self.global_).predict_proba(X[rows])
        return probabilities

    def predict(
        self, X: Float[Any, "n d"], sites: Shaped[Any, " n"] | None = None
    ) -> Shaped[NDArray[Any], " n"]:
        """The most probable class of each row."""
        best = self.predict_proba(X, sites).argmax(1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def _fit_others(self, X: NDArray, y: NDArray, sites: NDArray) -> None:
        """The models beside the global one: here none."""

    def _route(self, X: NDArray, sites: NDArray) -> NDArray:
        """Which of `models_` each row goes to."""
        return sites

    def _new(self, rows: int | None = None, of: int | None = None) -> Any:
        """A fresh estimator, its epochs matched to those of `of` rows when it gets `rows`."""
        if self.estimator is None:
            from sklearn.linear_model import LogisticRegression

            return LogisticRegression(max_iter=1000)
        model = clone(self.estimator)
        if self.match_steps and rows is not None and of is not None:
            model.set_params(**matched_epochs(model, rows, of))
        return model

    def _fit_one(self, name: Any, X: NDArray, y: NDArray, rows: NDArray, start: Any = None) -> None:
        if len(np.unique(y[rows])) < len(self.classes_):
            self.fell_back_.append(name)
            return
        model = self._new(len(rows), len(X))
        if start is not None:
            epochs = {k: v for k, v in model.get_params().items() if _is_epochs(k)}
            model = copy.deepcopy(start).set_params(**epochs, **_warm(start))
        self.models_[name] = model.fit(X[rows], y[rows])


class Local(Global):
    """One model per site from its rows alone.

    Args:
        estimator: as in `Global`.
        init: "pretrained" starts each model afresh (on the frozen features), "global" goes on from
            the global model's weights; the latter needs an estimator with `warm_start`. It then
            takes the global model's steps and its own: compare with a global model trained longer.
        match_steps: as in `Global`.
        random_state: as in `Global`.
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        init: Literal["pretrained", "global"] = "pretrained",
        match_steps: bool = True,
        random_state: Any = 0,
    ) -> None:
        super().__init__(estimator, match_steps=match_steps, random_state=random_state)
        self.init = init

    def training_rows(
        self, X: Float[Any, "n d"], sites: Shaped[Any, " n"], site: Any
    ) -> Int[NDArray[np.int64], " rows"]:
        """The site's own rows."""
        return np.flatnonzero(np.asarray(sites) == site)

    def _fit_others(self, X: NDArray, y: NDArray, sites: NDArray) -> None:
        if self.init not in ("pretrained", "global"):
            raise ValueError(f"init is 'pretrained' or 'global', not '{self.init}'")
        start = self.global_ if self.init == "global" else None
        if start is not None and not _warm(start):
            raise ValueError("init='global' needs an estimator with warm_start")
        for site in np.unique(sites):
            self._fit_one(site, X, y, self.training_rows(X, sites, site), start)


class NearestAugment(Global):
    """One model per site from its rows and the most similar rows of other sites.

    The similarity of another site's row is its highest cosine with any row of the site. With
    `k=0` this is `Local`, with `k` at least the number of other rows `Global`.

    Args:
        estimator: as in `Global`.
        k: how many rows of other sites are added; None takes `ratio`.
        ratio: added rows as a multiple of the site's own.
        similarity: "cosine", or "random": as many rows drawn at random, the control.
        match_steps: as in `Global`.
        random_state: as in `Global`.
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        k: int | None = None,
        ratio: float = 1.0,
        similarity: Literal["cosine", "random"] = "cosine",
        match_steps: bool = True,
        random_state: Any = 0,
    ) -> None:
        super().__init__(estimator, match_steps=match_steps, random_state=random_state)
        self.k = k
        self.ratio = ratio
        self.similarity = similarity

    def training_rows(
        self, X: Float[Any, "n d"], sites: Shaped[Any, " n"], site: Any
    ) -> Int[NDArray[np.int64], " rows"]:
        """The site's own rows and those added to them."""
        if self.similarity not in ("cosine", "random"):
            raise ValueError(f"similarity is 'cosine' or 'random', not '{self.similarity}'")
        own = np.asarray(sites) == site
        others = np.flatnonzero(~own)
        count = self.k if self.k is not None else round(self.ratio * own.sum())
        if count < 0:
            raise ValueError(f"k and ratio are at least 0, not {self.k} and {self.ratio}")
        if self.similarity == "random":
            chosen = check_random_state(self.random_state).permutation(others)[:count]
        else:
            unit = _unit(X)
            closest = (unit[others] @ unit[own].T).max(1, initial=-1.0)
            chosen = others[np.argsort(-closest, kind="stable")[:count]]
        return np.sort(np.concatenate([np.flatnonzero(own), chosen]))

    def _fit_others(self, X: NDArray, y: NDArray, sites: NDArray) -> None:
        for site in np.unique(sites):
            self._fit_one(site, X, y, self.training_rows(X, sites, site))


class ClusterRoute(Global):
    """One model per cluster of rows, whatever their site; test rows go to their cluster's model.

    Clusters are k-means on features of length 1, so by cosine.

    Args:
        estimator: as in `Global`.
        clusters: how many, at most the number of rows.
        match_steps: as in `Global`.
        random_state: as in `Global`.
    """

    def __init__(
        self,
        estimator: Any = None,
        *,
        clusters: int = 4,
        match_steps: bool = True,
        random_state: Any = 0,
    ) -> None:
        super().__init__(estimator, match_steps=match_steps, random_state=random_state)
        self.clusters = clusters

    def _fit_others(self, X: NDArray, y: NDArray, sites: NDArray) -> None:
        from sklearn.cluster import KMeans

        self.kmeans_ = KMeans(
            min(self.clusters, len(X)), n_init=3, random_state=check_random_state(self.random_state)
        ).fit(_unit(X))
        for cluster in range(self.kmeans_.n_clusters):
            self._fit_one(cluster, X, y, np.flatnonzero(self.kmeans_.labels_ == cluster))

    def _route(self, X: NDArray, sites: NDArray) -> NDArray:
        clusters: NDArray = self.kmeans_.predict(_unit(X))
        return clusters


def matched_epochs(estimator: Any, rows: int, of: int) -> dict[str, int]:
    """The parameter that makes `rows` rows take as many optimiser steps as `of` rows would.

    Empty for an estimator without epochs and batches.

    >>> from sklearn.neural_network import MLPClassifier
    >>> matched_epochs(MLPClassifier(max_iter=10, batch_size=20), rows=40, of=200)
    {'max_iter': 50}
    """
    parameters = estimator.get_params()
    for name, epochs in parameters.items():
        if not _is_epochs(name):
            continue
        size = parameters.get(name.rpartition("__")[0] + "__batch_size", None)
        size = parameters.get("batch_size", size) if "__" not in name else size
        if size is None or (name.endswith("max_iter") and parameters.get("solver") == "lbfgs"):
            continue
        size = 200 if size == "auto" else int(size)  # scikit-learn's "auto" is at most 200
        steps = epochs * math.ceil(of / min(size, of))
        return {name: max(1, round(steps / math.ceil(rows / min(size, rows))))}
    return {}


def _is_epochs(name: str) -> bool:
    return name.rpartition("__")[2] in ("epochs", "max_iter")


def _warm(model: Any) -> dict[str, bool]:
    return {k: True for k in model.get_params() if k.rpartition("__")[2] == "warm_start"}


def _unit(X: NDArray) -> NDArray:
    """Rows of length 1 in float64; zeros stay."""
    X = np.asarray(X, dtype=np.float64)
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)


def _sites(sites: Any, n: int) -> NDArray:
    places = np.zeros(n, dtype=int) if sites is None else np.asarray(sites)
    if places.shape != (n,):
        raise ValueError(f"sites name one site for each of {n} rows, not {places.shape}")
    return places
