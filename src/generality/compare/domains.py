"""Which method survives a domain that it never saw?

Protocol. Rows carry a class and a domain (a hospital, a country, a camera). Each domain in turn is
the *target*: everything is trained on the others, the *sources*, and scored on it. For each seed,

- each source keeps a fifth of its rows, classes in proportion, from training (*held*);
- the target's labelled rows are split in half, *known* and *score*. Every number on the target
  comes from `score`.
- Floor: plain training on the sources pooled in equal parts (empirical risk minimisation, "erm").
- Ceiling: the same training with labels of `known`, on it alone or beside the sources, with the
  same draws; a fifth of `known` kept back chooses among these.
- Every method trains the same network for the same number of steps, with the same number of draws
  of its hyper-parameters: draw 0 its defaults, the others at random from its declared ranges. What
  all methods have (learning rate, weight decay) is the same for all of them in a draw.
- A candidate (a method with one draw) is chosen by `select`, a criterion that sees no label of the
  target (`selection.CRITERIA`; "oracle" does, and is there to measure the others). The others are
  computed too, and how well each would have chosen is reported.
- Methods that adapt at test time read the rows they are asked about in a random order, in batches,
  and answer each batch before they learn from it; they start anew for every set of rows.
- Features are standardised by the sources' rows.
- Where one has a few labelled rows of the target (`target_labels`), so many of `known` are given
  to every method, the floor included: four fifths are trained on as one more domain, the others
  are there to choose by ("target-sample"). The oracle then chooses by the rest of `known`.
- Where rows have no label, methods that learn from unlabelled rows of the target take part. Left
  out, a domain gives them the inputs of `known` and its own unlabelled rows; the saved winner has
  those of the table. See `domain_diverse`.

The winner is the method with the best mean criterion over targets and seeds. It is trained once
more on the rows of all domains, with its draw of the best mean criterion, and saved.

Where `target` names a domain whose labels are not known, its rows are not scored: the winner is
still chosen on the sources, and saved.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from generality.claims import Row
from generality.compare import domain_conclusions as conclusions
from generality.compare.domain_arms import Fold
from generality.compare.domain_checks import check_table
from generality.compare.domain_diverse import measure_diverse
from generality.compare.domain_features import FeatureRecipe, feature_views
from generality.compare.domain_frozen import Network, ceiling, measure
from generality.compare.domain_methods import (
    ALGORITHMS,
    DOMAIN_METHODS,
    FEWEST_UNLABELLED,
    FLOOR,
    applicable,
    hypers_of,
)
from generality.compare.domain_splits import split_domains
from generality.compare.domain_table import DomainTable
from generality.compare.domain_tuned import (
    Tuned,
    ceiling_tuned,
    how_tuned,
    input_views,
    measure_tuned,
    refit_tuned,
)
from generality.compare.domain_winner import refit
from generality.compare.selection import CELL, CRITERIA, chosen, report_criteria
from generality.errors import UserError, unknown
from generality.gap import gap_recovered
from generality.lab import Lab, RunRecord, open_run, read_run, run_directory, write_json
from generality.lab.fingerprint import fingerprint
from generality.lab.runs import write_atomically

FEWEST_SAMPLE = 5
"""Labelled rows of a target that can be split into some to train on and one to choose by."""


def compare_domains(
    table: DomainTable,
    *,
    target: str | None = None,
    recipe: FeatureRecipe | None = None,
    tuning: str = "probe",
    methods: Sequence[str] | None = None,
    select: str = "held-out-source",
    seeds: int = 3,
    draws: int = 4,
    network: Network | None = None,
    drop_duplicates: bool = False,
    target_labels: int = 0,
    lab: Lab,
    root: Path = Path("runs"),
    source: str = "your data",
    on_row: Callable[[Row], None] | None = None,
) -> RunRecord:
    """Run the tournament into a folder below `root`; see the module for the protocol.

    Args:
        table: what `read_domain_table`, `open_domain_table` or `DomainTable.of` gives.
        target: the one domain to leave out; None leaves out each in turn.
        recipe: the backbone of texts and images.
        tuning: "probe" (a small network on frozen features), or for texts and images "lora" or
            "full".
        methods: names from `DOMAIN_METHODS`; None for all that apply. "erm" always runs.
        select: name from `selection.CRITERIA`.
        seeds: how many splits.
        draws: of each method's hyper-parameters, the defaults included.
        network: what is trained on the features, and for how long.
        drop_duplicates: leave out rows that also occur in another domain.
        target_labels: labelled rows of each target that one has and may train on.
        lab: where the work is done.
        root: folder of all runs.
        source: what the table is called in titles.
        on_row: called with each row as it is known.

    Returns:
        The run, with the same files as a study's and `candidates.parquet`, everything that was
        trained; `directory / "best"` is the saved winner.

    Raises:
        UserError: for anything the user can put right.
    """
    recipe = recipe or FeatureRecipe.of(table.kind)
    recipe.check(table.kind)
    tuned = how_tuned(table, recipe, tuning, network)
    network = tuned.network if tuned else network or Network()
    if select not in CRITERIA:
        raise unknown("criterion", select, CRITERIA)
    if seeds < 1 or draws < 1:
        raise UserError(f"--seeds {seeds}, --draws {draws}: there must be at least one of each.")
    silent = int((table.labels < 0).sum())
    asked_for = DOMAIN_METHODS if methods is None else methods
    diverse = [
        name for name in asked_for if name in DOMAIN_METHODS and DOMAIN_METHODS[name].diverse
    ]
    learned_from = bool(diverse) and tuned is None and silent >= FEWEST_UNLABELLED
    table, targets, notes = check_table(
        table, target, drop_duplicates=drop_duplicates, keep_unlabelled=learned_from
    )
    folds = _folds(table, targets, seeds, target_labels)
    fewest = min(len(fold.sources) for fold in folds)
    together = fewest + bool(target_labels)
    names, left_out = applicable(
        methods,
        sources=together,
        tuned=tuned is not None,
        unlabelled=int((table.labels < 0).sum()) if learned_from else silent,
        sample=target_labels,
    )
    inner = fewest >= 3
    if select == "leave-one-domain-out" and not inner:
        raise UserError(
            f"--select leave-one-domain-out leaves a second domain out of the {fewest} that are "
            "trained on; it takes at least three (four domains). Choose another criterion."
        )
    if select == "target-sample" and not target_labels:
        raise UserError(
            "--select target-sample chooses by labelled rows of the target: say how many there "
            "are with --target-labels."
        )
    inner = inner and (tuned is None or select == "leave-one-domain-out")
    asked = {
        "study": "compare",
        "title": f"Which method holds up on a domain it never saw, in {source}?",
        "scale": "own",
        "seeds": seeds,
        "config": {
            "source": source, "kind": table.kind, "columns": table.columns, "target": target,
            **recipe.to_dict(), "tuning": tuning, "methods": names, "select": select,
            "draws": draws,
            "hidden": network.hidden, "steps": network.steps, "per_domain": network.per_domain,
            "labels": table.label_names, "domains": table.domain_names,
            "rows": len(table.labels), "drop_duplicates": drop_duplicates,
            "target_labels": target_labels,
            "content": fingerprint(table.inputs, table.labels, table.domains)[:16],
        },
        "factors": ["target"],
        "floor_name": "plain training (erm)",
        "ceiling_name": "training with labels of the target",
        "references": [FLOOR],
    }  # fmt: skip
    directory = run_directory(root, asked)
    with open_run(directory, asked) as writer:
        views: dict[str, Any] = (
            dict(input_views(table)) if tuned else dict(feature_views(table, recipe, lab))
        )
        candidates = []
        results = _tournament(
            table, folds, names, views, tuned or network, draws, inner, select, lab
        )
        with closing(results):  # worker processes end with it, however it ends
            for found, rows in results:
                candidates += found
                for row in rows:
                    writer.append(row)
                    if on_row:
                        on_row(row)
        frame = pd.DataFrame(candidates).reindex(columns=_COLUMNS)
        table_of_rows = pd.DataFrame(writer.rows)
        write_atomically(directory / "candidates.parquet", lambda path: frame.to_parquet(path))
        criteria = report_criteria(frame)
        winner, draw = best_method(frame, select)
        hyper, best = hypers_of(winner, draws)[draw], directory / "best"
        if tuned:
            refit_tuned(table, winner, hyper, tuned, best, lab)
        else:
            refit(table, views[""], winner, hyper, network, recipe, best, lab)
        verdicts = conclusions.significance(table_of_rows, names)
        said = conclusions.sentences(
            table_of_rows,
            winner,
            select=select,
            criteria=criteria,
            table=table,
            targets=targets,
        )
        write_json(
            directory / "config.json",
            {
                **asked,
                "winner": winner,
                "conclusions": [*said, *_on_sample(target_labels), *left_out, *notes],
                "tables": conclusions.tables(table_of_rows, winner, verdicts, criteria, select),
            },
        )
        write_json(directory / "claims.json", [verdict.to_dict() for verdict in verdicts])
        write_json(directory / "environment.json", lab.environment())
    return read_run(directory)


def best_method(candidates: pd.DataFrame, select: str) -> tuple[str, int]:
    """The method whose chosen candidates have the best mean criterion, and its best draw.

    The first in the table wins a tie, and a method's first draw.
    """
    best = chosen(candidates, select, ["method", *CELL])
    means = best.groupby("method", sort=False)[select].mean()
    method = str(means.index[int(means.fillna(-1).to_numpy().argmax())])
    own = candidates[candidates["method"] == method].groupby("draw")[select].mean()
    return method, int(own.index[int(own.fillna(-1).to_numpy().argmax())])


def _folds(table: DomainTable, targets: Sequence[int], seeds: int, sample: int) -> list[Fold]:
    if sample and sample < FEWEST_SAMPLE:
        raise UserError(f"--target-labels {sample}: fewer than {FEWEST_SAMPLE} teach nothing.")
    for each in targets:
        if sample > table.labelled(each) // 2:
            raise UserError(
                f"--target-labels {sample}: '{table.domain_names[each]}' has "
                f"{table.labelled(each)} labelled rows, of which half are scored on; ask for at "
                f"most {table.labelled(each) // 2}."
            )
    count = len(table.domain_names)
    splits = split_domains(table.labels, table.domains, count, range(seeds))
    known = [domain for domain in range(count) if table.labelled(domain)]
    return [
        Fold(t, tuple(d for d in known if d != t), splits, len(table.label_names), sample)
        for t in targets
    ]


def _on_sample(count: int) -> list[str]:
    if not count:
        return []
    return [
        f"{count} labelled rows of the domain left out were given to every method, plain training "
        "included: what is recovered is a share of the gap that they left."
    ]


def _tournament(
    table: DomainTable,
    folds: Sequence[Fold],
    names: Sequence[str],
    views: dict[str, Any],
    network: Network | Tuned,
    draws: int,
    inner: bool,
    select: str,
    lab: Lab,
) -> Generator[tuple[list[dict[str, Any]], list[Row]]]:
    """Candidates and rows, target by target and algorithm by algorithm, as they are known."""
    items = [
        item for fold in folds for item in _items(table, fold, names, views, network, draws, inner)
    ]
    answers = lab.map(_step, items, description="Training on all domains but one")
    floors: dict[int, float | None] = {}
    tops: list[float] = []
    for item, answer in zip(items, answers, strict=True):
        fold = next(each for each in item if isinstance(each, Fold))
        if item[0] in (ceiling, ceiling_tuned):
            tops = answer
            continue
        place = table.domain_names[fold.target]
        found = [
            {"method": name, "target": place, "hyper": _told(name, int(each["draw"])), **each}
            for name, each_draw in answer.items()
            for each in each_draw
        ]
        best = chosen(pd.DataFrame(found).reindex(columns=_COLUMNS), select, ["method", "seed"])
        if FLOOR in answer:
            erm = best[best["method"] == FLOOR]
            floors = dict(zip(erm["seed"].astype(int), erm["score"], strict=True))
        ceilings = dict(enumerate(tops)) if "score" in found[0] else {}
        yield found, [_row(each, select, floors, ceilings) for each in best.to_dict("records")]


_COLUMNS = [
    "method", "target", "draw", "hyper", "seed", *CRITERIA, "score", "worst_group", "ece",
    "oracle_pick",
]  # fmt: skip


def _told(name: str, draw: int) -> str:
    """A draw's hyper-parameters as JSON."""
    return json.dumps(hypers_of(name, draw + 1)[draw])


def _step(lab: Lab, item: tuple[Any, ...]) -> Any:
    if item[0] in (measure_tuned, ceiling_tuned):  # of which every training is a step
        return item[0](lab, *item[1:])
    return lab.step(*item)


def _items(
    table: DomainTable,
    fold: Fold,
    names: Sequence[str],
    views: dict[str, Any],
    network: Network | Tuned,
    draws: int,
    inner: bool,
) -> list[tuple[Any, ...]]:
    """What is to be computed for one target: the ceiling, then methods by algorithm."""
    data, drawn = (views, table.labels), {name: hypers_of(name, draws) for name in names}
    trained = {name: [each["trained"] for each in hypers] for name, hypers in drawn.items()}
    frozen = isinstance(network, Network)
    items: list[tuple[Any, ...]] = []
    if len(fold.splits[0][fold.target].score):
        top = ceiling if frozen else ceiling_tuned
        items.append((top, *data, fold, trained[FLOOR], network))
    if not frozen:
        rest = [(fold, name, trained[name], network, inner) for name in names]
        return items + [(measure_tuned, *data, table.groups, *each) for each in rest]
    by_algorithm: dict[str, list[str]] = {}
    for name in names:
        method = DOMAIN_METHODS[name]
        by_algorithm.setdefault(method.diverse or method.algorithm, []).append(name)
    for kind, group in by_algorithm.items():
        own = {name: [each["adapter"] for each in drawn[name]] for name in group}
        if kind not in ALGORITHMS:
            own_rows = (table.groups, table.domains, fold, own, trained[group[0]])
            items.append((measure_diverse, *data, *own_rows, network, inner))
            continue
        items.append((measure, *data, table.groups, fold, own, trained[group[0]], network, inner))
    return items


def _row(
    each: dict[Any, Any], select: str, floors: dict[int, Any], ceilings: dict[int, float]
) -> Row:
    seed = int(each["seed"])
    floor, top = floors.get(seed), ceilings.get(seed)
    row = Row(
        method=each["method"],
        seed=seed,
        score=each["score"],
        floor=floor,
        ceiling=top,
        target=each["target"],
        select=each[select],
        worst_group=each["worst_group"],
        ece=each["ece"],
        draw=int(each["draw"]),
    )
    if np.isfinite(each["oracle_pick"]):
        row["oracle_pick"] = each["oracle_pick"]
    share = None if top is None else float(gap_recovered(floor, row["score"], top))
    return {**row, "recovered": share}
