"""Methods that learn from unlabelled rows of the target: several hypotheses, of which one is taken.

DivDis and D-BAT train hypotheses that agree on the sources' labels and differ on unlabelled rows of
the target. What is trained is not an answer yet: one hypothesis has to be chosen, and no label of
the target may do it. Here it is the one that is right most often on held-out rows of the sources
(ties go to the first, for D-BAT the plain one), or, in the "-active" methods, on a few rows of the
target whose labels are asked for where the hypotheses differ most: as many as the other methods get
of the target's labels to train on, and instead of these. What an oracle would pick is measured
beside it, and marked as such.

Of the target only rows that nothing is scored on are seen: the inputs of its known half, and rows
without a label. Where a source is left out to choose by, it is the target, and its training rows
are the unlabelled ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.compare.domain_arms import Arm, Fold, candidate, mean, rows_of, sure
from generality.compare.domain_frozen import Hyper, Network, Views
from generality.compare.domain_methods import DOMAIN_METHODS
from generality.compare.domain_splits import split_domain
from generality.estimators import Hypotheses, disambiguate, fit_dbat, fit_divdis
from generality.estimators.soft_probe import moments, standardised
from generality.lab.threads import threads
from generality.measures import accuracy
from generality.models.multi_head import MultiHead
from generality.objectives import DBATLoss, DivDisLoss

HYPOTHESES = 2
_UNLABELLED_BATCH = 100


def measure_diverse(
    views: Views,
    labels: Int[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    domains: Int[np.ndarray, " n"],
    fold: Fold,
    methods: Mapping[str, Sequence[Hyper]],
    hypers: Sequence[Hyper],
    network: Network,
    inner: bool,
) -> dict[str, list[dict[str, float]]]:
    """What `domain_frozen.measure` does, for one kind of hypotheses: a memoised step.

    Candidates have `oracle_pick` beside the rest: the score of the hypothesis that is best on the
    target's known half.
    """
    known = np.isin(np.arange(len(labels)), rows_of(fold))
    centre = moments(np.asarray(views[""])[known])
    inputs = {view: standardised(features, *centre) for view, features in views.items()}
    return {
        name: _candidates(
            name, own, hypers, inputs, labels, groups, domains, fold, network, inner
        )
        for name, own in methods.items()
    }  # fmt: skip


def _candidates(
    name: str,
    own: Sequence[Hyper],
    hypers: Sequence[Hyper],
    inputs: Views,
    labels: np.ndarray,
    groups: np.ndarray,
    domains: np.ndarray,
    fold: Fold,
    network: Network,
    inner: bool,
) -> list[dict[str, float]]:
    active = DOMAIN_METHODS[name].active
    taught = replace(fold, sample=0) if active else fold  # labels are asked for, not trained on
    arms = taught.arms(labels, len(hypers), inner=False)
    said = _beliefs(name, own, hypers, inputs, labels, domains, fold, network, arms)
    picks = [
        _pick(each[""], fold, arm, labels, active=active)
        for each, arm in zip(said, arms, strict=True)
    ]

    def answer(place: int, rows: np.ndarray, view: str) -> np.ndarray:
        return said[place][view][picks[place]][rows]

    found = [
        candidate(answer, place, arm, fold, labels, groups, list(inputs))
        for place, arm in enumerate(arms)
    ]
    for row, arm, each in zip(found, arms, said, strict=True):
        if "score" in row:
            row["oracle_pick"] = _oracle(each[""], fold, arm, labels)
    if inner:
        nested, plain = taught.arms(labels, len(hypers), inner=True), {"": inputs[""]}
        of_nested = _beliefs(name, own, hypers, plain, labels, domains, fold, network, nested)
        left_out: dict[tuple[int, int], list[float]] = {}
        for arm, each in zip(nested, of_nested, strict=True):
            values = left_out.setdefault((arm.draw, arm.seed), [])
            if len(rows := fold.splits[arm.seed][arm.without].held):
                pick = _pick(each[""], fold, arm, labels, active=active)
                values.append(accuracy(each[""][pick][rows], labels[rows]))
        for row, arm in zip(found, arms, strict=True):
            row["leave-one-domain-out"] = mean(left_out[arm.draw, arm.seed])
    return found


def _beliefs(
    name: str,
    own: Sequence[Hyper],
    hypers: Sequence[Hyper],
    inputs: Views,
    labels: np.ndarray,
    domains: np.ndarray,
    fold: Fold,
    network: Network,
    arms: Sequence[Arm],
) -> list[dict[str, Float[np.ndarray, "k n classes"]]]:
    """What every hypothesis of each arm says of every row, by view."""
    said: list[Any] = [None] * len(arms)
    for places in _alike(arms):
        draw = arms[places[0]].draw
        trained = train_hypotheses(
            DOMAIN_METHODS[name].diverse, own[draw], hypers[draw], inputs[""], labels,
            [arms[place].rows for place in places],
            [_unlabelled(fold, arms[place], labels, domains) for place in places],
            [arms[place].seed for place in places], fold.classes, network,
        )  # fmt: skip
        beliefs = {view: trained.predict_proba(features) for view, features in inputs.items()}
        for at, place in enumerate(places):
            said[place] = {view: _sure(each[at]) for view, each in beliefs.items()}
    return said


def train_hypotheses(
    kind: str,
    own: Hyper,
    hyper: Hyper,
    inputs: Float[np.ndarray, "n dim"],
    labels: Int[np.ndarray, " n"],
    rows: Sequence[Sequence[Int[np.ndarray, " m"]]],
    unlabelled: Sequence[Int[np.ndarray, " u"]],
    seeds: Sequence[int],
    classes: int,
    network: Network,
) -> Hypotheses:
    """Hypotheses for several seeds with one draw of the hyper-parameters.

    Domains weigh alike: the rows of smaller ones are repeated. A hypothesis takes as many steps as
    any method's network, of as many labelled rows; D-BAT's are a network each.
    """
    balanced = [np.concatenate(_balanced(each)) for each in rows]
    x, u = np.stack([inputs[each] for each in balanced]), np.stack([inputs[e] for e in unlabelled])
    y = np.stack([labels[each] for each in balanced])
    batch = {"labelled": network.per_domain * len(rows[0]), "unlabelled": _UNLABELLED_BATCH}
    options: dict[str, Any] = {
        "seeds": seeds, "steps": network.steps, "batch_size": batch, "optimizer": "adam",
        "learning_rate": hyper["learning_rate"], "weight_decay": hyper["weight_decay"],
    }  # fmt: skip
    dim = inputs.shape[1]
    with threads(1):
        if kind == "dbat":
            return fit_dbat(
                lambda _seed: network.module(dim, classes), x, y, u, loss=DBATLoss(own["alpha"]),
                hypotheses=HYPOTHESES, **options,
            )  # fmt: skip
        loss = DivDisLoss(own["repulsion"], own["regularisation"])
        return fit_divdis(_heads(network, dim, classes), x, y, u, loss=loss, **options)


def refit_diverse(
    inputs: Float[np.ndarray, "n dim"],
    labels: Int[np.ndarray, " n"],
    domains: Int[np.ndarray, " n"],
    classes: int,
    name: str,
    hyper: Mapping[str, Hyper],
    network: Network,
) -> dict[str, Tensor]:
    """The chosen hypothesis' network, trained with seed 0 on the labelled rows of all domains.

    The unlabelled rows are those of domains without a label, or else all rows without one. A fifth
    of each domain is kept back to choose by; "-active" methods choose by the labelled rows of
    domains of which others are unlabelled, and train on the other domains, where there are such.
    """
    method = DOMAIN_METHODS[name]
    here = np.unique(domains[labels >= 0])
    silent = np.flatnonzero(labels < 0)
    new = silent[~np.isin(domains[silent], here)]
    others = new if len(new) else silent
    parts = {d: split_domain(labels, np.flatnonzero(domains == d), 0) for d in here}
    asked = np.intersect1d(here, domains[others]) if method.active else here[:0]
    sources = np.setdiff1d(here, asked)
    if not len(sources):
        asked, sources = here[:0], here
    trained = train_hypotheses(
        method.diverse, hyper["adapter"], hyper["trained"], inputs, labels,
        [[parts[d].train for d in sources]], [others], [0], classes, network,
    )  # fmt: skip
    said = _sure(trained.predict_proba(inputs)[0])
    if len(asked):
        groups = [np.flatnonzero((labels >= 0) & np.isin(domains, asked))]
    else:
        groups = [parts[d].held for d in sources if len(parts[d].held)]
    pick = _best(said, groups, labels)
    modules = trained.modules()
    if len(modules) > 1:
        return dict(modules[pick].state_dict())
    both: Any = modules[0]
    body = {f"featurizer.{key}": each for key, each in both.body.state_dict().items()}
    return {**body, **{f"head.{key}": each for key, each in both.heads[pick].state_dict().items()}}


def _sure(said: Float[np.ndarray, "k n classes"]) -> Float[np.ndarray, "k n classes"]:
    """`sure` of every hypothesis."""
    return np.stack([sure(each) for each in said])


def _heads(network: Network, dim: int, classes: int) -> Callable[[int], nn.Module]:
    def make(_seed: int) -> nn.Module:
        start = network.module(dim, classes)
        more = [nn.Linear(network.hidden, classes) for _ in range(HYPOTHESES - 1)]
        return MultiHead(start.featurizer, [start.head, *more])

    return make


def _alike(arms: Sequence[Arm]) -> list[list[int]]:
    """Places of arms that train together: of one draw, without the same source."""
    groups: dict[tuple[int, int], list[int]] = {}
    for place, arm in enumerate(arms):
        groups.setdefault((arm.draw, arm.without), []).append(place)
    return list(groups.values())


def _unlabelled(
    fold: Fold, arm: Arm, labels: np.ndarray, domains: np.ndarray
) -> Int[np.ndarray, " u"]:
    """Rows of the target, or of the source in its place, of which the inputs are seen."""
    place = fold.target if arm.without < 0 else arm.without
    split = fold.splits[arm.seed][place]
    seen = split.known if arm.without < 0 else split.train
    return np.concatenate([seen, np.flatnonzero((domains == place) & (labels < 0))])


def _balanced(rows: Sequence[Int[np.ndarray, " m"]]) -> list[Int[np.ndarray, " m"]]:
    """As many rows of each domain as the largest has, smaller ones repeated."""
    most = max(map(len, rows))
    return [np.resize(own, most) for own in rows]


def _pick(
    said: Float[np.ndarray, "k n classes"],
    fold: Fold,
    arm: Arm,
    labels: np.ndarray,
    *,
    active: bool,
) -> int:
    """The hypothesis taken, chosen without labels of the target but those asked for."""
    split = fold.splits[arm.seed]
    if not active:
        held = [split[d].held for d in fold.sources if d != arm.without]
        return _best(said, [rows for rows in held if len(rows)], labels)
    sample = fold.sampled(labels, arm.seed)
    if arm.without < 0:
        pool = np.setdiff1d(split[fold.target].known, sample.held)
    else:
        pool = split[arm.without].train
    return disambiguate(said[:, pool], labels[pool], budget=len(sample.train)).chosen


def _best(said: Float[np.ndarray, "k n classes"], groups: Sequence[Any], labels: np.ndarray) -> int:
    """The hypothesis of the best mean accuracy over groups of rows; the first of several."""
    each = [[accuracy(one[rows], labels[rows]) for rows in groups] for one in said]
    return int(np.array([mean(values) for values in each]).argmax()) if groups else 0


def _oracle(
    said: Float[np.ndarray, "k n classes"], fold: Fold, arm: Arm, labels: np.ndarray
) -> float:
    """Score of the hypothesis that labels of the target would pick."""
    split = fold.splits[arm.seed][fold.target]
    pick = _best(said, [split.known], labels)
    return accuracy(said[pick][split.score], labels[split.score])
