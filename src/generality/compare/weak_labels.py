"""Which method learns best from your weak labels?

Protocol. There is exactly one kind of weak labels: a column of classes, columns of probabilities,
or a model; several columns of classes, or several models, are averaged. True labels may be known
for all rows, for some, or for none.

With truth for at least 100 rows, for each seed these rows are split at random, classes in
proportion, into *train* (50 %), *select* (20 %) and *report* (30 %).

- Every method trains the same student, with the same recipe, on the weak labels of `train`.
- Floor: accuracy of the weak labels on `report`. Score: accuracy of the student there. Ceiling:
  accuracy there of the same student trained on the true labels of the same `train` rows.
- The winner is the method with the best mean accuracy on `select`, over seeds; `report` takes no
  part in the choice. Because the parts of different seeds overlap, that choice has still seen rows
  that other seeds report on. The claims are therefore tested on the winner chosen anew in each
  seed by that seed's `select` part alone, and both numbers are given, with the regret: how much
  better the best method on `report` would have been.
- The winning method is then trained once more, on the weak labels of all rows, and saved. Rows
  without truth are used only here, because the ceiling could not have used them.

True labels thus serve to measure and to choose between a handful of methods, never to train.
Features are standardised, and tokens counted, over all texts; no label is involved.

With an old model (`old_model`) flips are counted against its answers instead of the weak labels',
methods join that learn from them too, and the winner is the method that breaks fewest of its right
answers on `select` among those within one standard error of the most accurate there. Without weak
labels the true ones of `train` teach, the floor is the old model's accuracy, and there is no
ceiling.

Without truth (or with less) students are trained on 70 % of the rows; their agreement with the
weak labels of the others and the cross-entropy of those are reported. No score, floor or ceiling
is known then, and `conclusions` says what follows.

A weak model without classes of its own (`bag-of-words`, a backbone) is fitted on half of the rows
with truth; these rows take no further part, since its labels there are too good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from jaxtyping import Float, Int

from generality.benchmarks import leaks, stratified
from generality.claims import Claim, Row, equivalent, greater, judge, less
from generality.compare import conclusions
from generality.compare.bootstrap import Bootstrap
from generality.compare.label_sources import listed
from generality.compare.leaderboard import leaderboard, winner
from generality.compare.lessons import Lessons
from generality.compare.methods import applicable
from generality.compare.students import Recipe, make_students
from generality.compare.weakly_labelled import FEWEST_TRUE, WeaklyLabelled, weakly_labelled
from generality.errors import UserError
from generality.gap import gap_recovered
from generality.lab import Lab, RunRecord, open_run, read_run, run_directory, write_json
from generality.lab.fingerprint import fingerprint
from generality.measures import (
    FlipReport,
    accuracy,
    ece,
    flip_report,
    student_supervisor_agreement,
)
from generality.objectives import soft_cross_entropy

SHARES = {"train": 0.5, "select": 0.2}  # the rest reports
_CHOSEN = "the winner"
_AS_ACCURATE = 0.02  # accuracy that an update may differ by and be as good
_JUDGED = ["method", "seed", "score", "floor", "ceiling"]


def compare_weak_labels(
    data: Dataset,
    *,
    text: str = "text",
    label: str | None = None,
    weak_label: str | Sequence[str] | None = None,
    weak_probabilities: str | Sequence[str] | None = None,
    weak_model: str | Sequence[str] | None = None,
    via: str | Sequence[str] | None = None,
    old_model: str | Sequence[str] | None = None,
    model: str = "minilm-l6",
    tuning: str = "probe",
    layer: int | None = None,
    pooling: str | None = None,
    methods: Sequence[str] | None = None,
    seeds: int = 5,
    epochs: int | None = None,
    max_length: int = 256,
    lab: Lab,
    root: Path = Path("runs"),
    source: str = "your data",
    on_row: Callable[[Row], None] | None = None,
) -> RunRecord:
    """Run the tournament into a folder below `root`; see the module for the protocol.

    Args:
        data: the table, with its columns as they are called in the file.
        text: the column of texts; missing ones count as empty.
        label: the column of true labels; blank where there is none.
        weak_label: the column of weak labels (classes, or probabilities), or several columns of
            classes, which are averaged.
        weak_probabilities: column or columns of class probabilities, as `read_probabilities`
            takes them; columns named like the classes (or `p_<class>`) may come in any order.
        weak_model: a saved classifier, a `transformers` sequence classifier (folder or
            `hf:org/name`), or a backbone to fit on half of the true labels; several are averaged.
        via: models between the weak labels and the student, weakest first, for the method
            "bootstrapped"; None leaves it out.
        old_model: a column (or columns) of the answers of the model in use, or the model itself
            as for `weak_model`, but with classes of its own; its right answers should be kept.
        model: the student's backbone.
        tuning: "probe", "lora" or "full".
        layer: hidden state that it reads; None is the last.
        pooling: "mean", "last" or "cls"; None is the model's own.
        methods: names from `METHODS`; None for all that apply.
        seeds: how many splits.
        epochs: passes over the training rows; None is 10 for probes and 2 otherwise.
        max_length: tokens of a text that are read.
        lab: where the work is done.
        root: folder of all runs.
        source: what the table is called in titles.
        on_row: called with each row as it is known.

    Returns:
        The run, with the same files as a study's; `directory / "best"` is the saved winner, and
        `config` also has `conclusions` (sentences) and `winner` (the method's name).

    Raises:
        UserError: for anything the user can put right.
    """
    recipe = Recipe(model, tuning, layer, pooling, epochs, max_length)
    recipe.check()
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: compare over at least one.")
    table = weakly_labelled(
        data, text=text, label=label, weak_label=weak_label,
        weak_probabilities=weak_probabilities, weak_model=weak_model, old_model=old_model,
        max_length=max_length, lab=lab,
    )  # fmt: skip
    measured = len(table.true_rows) >= FEWEST_TRUE
    if table.old is not None and not measured:
        raise UserError(
            f"Whether an update breaks what worked takes true labels for {FEWEST_TRUE} rows or "
            f"more (--label); there are {len(table.true_rows)}."
        )
    between = listed(via)
    names, left_out = applicable(
        methods, soft=table.soft, via=bool(between), old_model=table.old is not None
    )
    bootstrap = Bootstrap(lab, table.texts, recipe, between)
    asked = {
        "study": "compare",
        "title": f"Which method learns best from the weak labels of {source}?",
        "scale": "own",
        "seeds": seeds,
        "config": {
            "source": source, "text": text, "label": label, "weak_label": weak_label,
            "weak_probabilities": weak_probabilities, "weak_model": weak_model, "via": via,
            "old_model": old_model,
            "model": model, "tuning": tuning, "layer": layer, "pooling": pooling, "methods": names,
            "epochs": recipe.passes, "max_length": max_length, "labels": table.label_names,
            "rows": len(table.texts), "rows_with_truth": len(table.true_rows),
            "content": fingerprint(table.texts, table.weak, table.truth, table.old)[:16],
        },
        "command": _command(source, {
            "text": text, "label": label, "weak-label": weak_label,
            "weak-probabilities": weak_probabilities, "weak-model": weak_model, "via": via,
            "old-model": old_model,
            "model": model, "tuning": tuning, "layer": layer, "pooling": pooling,
            "methods": methods, "seeds": seeds, "epochs": epochs, "max-length": max_length,
        }),
        "factors": [],
        "floor_name": "the old model" if table.true_teacher else "the weak labels",
        "ceiling_name": "training on true labels",
        "references": [],
    }  # fmt: skip
    directory = run_directory(root, asked)
    with open_run(directory, asked) as writer:
        students = make_students(lab, table.texts, recipe, len(table.label_names))
        lessons = Lessons(students, bootstrap, recipe.passes, table.old)
        run = _with_truth if measured else _without_truth
        for row in run(table, names, lessons, lab.seeds(seeds)):
            writer.append(row)
            if on_row:
                on_row(row)
        rows = pd.DataFrame(writer.rows)
        saved, said, verdicts = (_measured if measured else _unmeasured)(table, names, rows)
        everything = np.arange(len(table.texts))
        objective, targets = lessons.of(saved, everything[None], table.weak[None])
        students.save(
            directory / "best",
            objective,
            everything,
            targets[0],
            {
                "method": saved, "seed": 0, "label_names": table.label_names, "text": text,
                "model": model, "tuning": tuning, "layer": layer, "pooling": pooling,
                "max_length": max_length, "epochs": recipe.passes, "rows": len(table.texts),
            },
        )  # fmt: skip
        notes = [*said, *left_out, *table.notes]
        write_json(directory / "config.json", {**asked, "winner": saved, "conclusions": notes})
        write_json(directory / "claims.json", verdicts)
        write_json(directory / "environment.json", lab.environment())
    return read_run(directory)


def parts(
    truth: Int[np.ndarray, " n"], seed: int
) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"], Int[np.ndarray, " c"]]:
    """Positions that train, select and report: 50, 20 and 30 %, classes in proportion.

    >>> [len(part) for part in parts(np.array([0, 1] * 50), seed=0)]
    [50, 20, 30]
    """
    everything = np.arange(len(truth))
    train = stratified(truth, round(SHARES["train"] * len(truth)), seed)
    rest = np.setdiff1d(everything, train)
    select = rest[stratified(truth[rest], round(SHARES["select"] * len(truth)), seed)]
    return train, select, np.setdiff1d(rest, select)


def _split(
    truth: np.ndarray, rows: np.ndarray, seeds: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Train, select and report rows, each stacked over seeds."""
    each = [parts(truth, seed) for seed in seeds]
    train, select, report = (rows[np.stack(part)] for part in zip(*each, strict=True))
    return train, select, report


def _with_truth(
    table: WeaklyLabelled,
    names: Sequence[str],
    lessons: Lessons,
    seeds: Sequence[int],
) -> Iterator[Row]:
    train, select, report = _split(table.truth[table.true_rows], table.true_rows, seeds)
    held = np.concatenate([select, report], axis=1)
    border = select.shape[1]
    students = lessons.students
    best = students.predict(soft_cross_entropy, train, table.one_hot(train), held)[:, border:]
    for name in names:
        objective, targets = lessons.of(name, train, table.weak[train])
        said = students.predict(objective, train, targets, held)
        for s, seed in enumerate(seeds):
            truth, weak = table.truth[report[s]], table.weak[report[s]]
            student = said[s, border:]
            agreement = student_supervisor_agreement(student, weak, truth)
            before = weak if table.old is None else table.old[report[s]]
            flips = flip_report(before, student, truth)
            row = Row(
                method=name,
                seed=seed,
                score=accuracy(student, truth),
                floor=accuracy(before if table.true_teacher else weak, truth),
                ceiling=None if table.true_teacher else accuracy(best[s], truth),
                select=accuracy(said[s, :border], table.truth[select[s]]),
                ece=ece(student, truth),
                agreement=agreement.overall,
                copied_errors=_known(agreement.where_wrong),
                negative_flips=flips.negative,
                positive_flips=flips.positive,
                weak_loss=cross_entropy(student, weak),
            )
            if table.old is not None:
                row |= _kept(table, select[s], said[s, :border], before, flips, truth)
            known = row["ceiling"] is not None
            levels = (row["floor"], row["score"], row["ceiling"])
            yield {**row, "recovered": _known(float(gap_recovered(*levels))) if known else None}


def _kept(
    table: WeaklyLabelled,
    select: Int[np.ndarray, " n"],
    said: Float[np.ndarray, "n classes"],
    before: Float[np.ndarray, "m classes"],
    flips: FlipReport,
    truth: Int[np.ndarray, " m"],
) -> Row:
    """What an update kept of the old model's answers, and what it is chosen by."""
    assert table.old is not None
    right = accuracy(said, table.truth[select])
    return Row(
        old_score=accuracy(before, truth),
        relative_flips=_known(flips.relative),
        inconsistent=flips.inconsistent,
        select_flips=flip_report(table.old[select], said, table.truth[select]).negative,
        select_error=math.sqrt(right * (1 - right) / len(select)),
    )


def _without_truth(
    table: WeaklyLabelled,
    names: Sequence[str],
    lessons: Lessons,
    seeds: Sequence[int],
) -> Iterator[Row]:
    everything = np.arange(len(table.texts))
    train, select, held = _split(table.weak.argmax(1), everything, seeds)
    train = np.concatenate([train, select], axis=1)
    for name in names:
        objective, targets = lessons.of(name, train, table.weak[train])
        said = lessons.students.predict(objective, train, targets, held)
        for s, seed in enumerate(seeds):
            weak = table.weak[held[s]]
            yield Row(
                method=name,
                seed=seed,
                score=None,
                floor=None,
                ceiling=None,
                recovered=None,
                agreement=student_supervisor_agreement(said[s], weak).overall,
                weak_loss=cross_entropy(said[s], weak),
            )


def _measured(
    table: WeaklyLabelled, names: Sequence[str], rows: pd.DataFrame
) -> tuple[str, list[str], list[dict[str, Any]]]:
    """The method to save, the conclusions and the verdicts."""
    truth = table.truth[table.true_rows]
    seeds = sorted(rows["seed"].unique())
    train, _, report = _split(truth, table.true_rows, seeds)
    if table.old is not None:
        said = conclusions.of_update(leaderboard(rows), rows)
    else:
        said = conclusions.with_truth(
            leaderboard(rows), rows, table.truth[report], table.label_names
        )
    if unused := len(table.texts) - len(truth):
        said.append(
            f"{unused} rows have no truth: they took part only in the training that was saved."
        )
    leaked = leaks(*([table.texts[row] for row in part[0]] for part in (train, report)))
    if leaked.share > 0.01:
        said.append(
            f"{leaked.share:.0%} of the texts of the report part also occur in the train part "
            "(seed 0): scores on really new texts may be lower. Drop duplicates to be sure."
        )
    saved = winner(rows)
    assert saved is not None
    claims = _update_claims(names) if table.old is not None else _claims(names)
    return saved, said, [verdict.to_dict() for verdict in judge(claims, _chosen(rows), factors=())]


def _unmeasured(
    table: WeaklyLabelled, names: Sequence[str], rows: pd.DataFrame
) -> tuple[str, list[str], list[dict[str, Any]]]:
    saved = next((name for name in conclusions.DEFAULTS if name in names), names[0])
    known = table.true_rows
    said = conclusions.without_truth(
        leaderboard(rows), saved, table.weak[known].argmax(1), table.truth[known], FEWEST_TRUE
    )
    return saved, said, []


def _claims(names: Sequence[str]) -> list[Claim]:
    """Claims on the winner that each seed chooses for itself."""
    chosen = "The winner (chosen by each seed's select part)"
    claims = [Claim(f"{chosen} beats the weak labels", greater(_CHOSEN, "floor"))]
    for rival, called in (
        ("naive", "naive training on the weak labels"),
        (conclusions.CONTROL, "the trivial control, label smoothing"),
    ):
        if rival in names and len(names) > 1:
            claims.append(Claim(f"{chosen} beats {called}", greater(_CHOSEN, rival)))
    return claims


def _update_claims(names: Sequence[str]) -> list[Claim]:
    """Claims on what the winner of each seed keeps of the old model's answers."""
    chosen = "The winner (chosen by each seed's select part)"
    flips = "negative_flips"
    claims = [Claim(f"{chosen} is more accurate than the old model", greater(_CHOSEN, "old"))]
    for rival, called in (("naive", "naive training"), ("distill-average", "their average")):
        if rival in names and len(names) > 1:
            test = less(_CHOSEN, rival, on=flips)
            claims.append(Claim(f"{chosen} breaks fewer right answers than {called}", test))
    if "naive" in names and len(names) > 1:
        test = equivalent(_CHOSEN, "naive", margin=_AS_ACCURATE)
        claims.append(Claim(f"{chosen} is as accurate as naive training", test))
    return claims


def _chosen(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that claims are judged on, with each seed's own winner as one more method."""
    every = pd.concat([rows, conclusions.seedwise(rows).assign(method=_CHOSEN)])
    if "old_score" not in rows:
        return every[_JUDGED]
    old = rows.drop_duplicates("seed").assign(method="old", score=rows["old_score"])
    return pd.concat([every, old])[[*_JUDGED, "negative_flips"]]


def cross_entropy(student: Float[np.ndarray, "n k"], weak: Float[np.ndarray, "n k"]) -> float:
    """Mean −Σ w log p, in nats: how unlikely the student finds the weak labels."""
    return float(-(weak * np.log(np.maximum(student, 1e-12))).sum(1).mean())


def _command(source: str, options: dict[str, Any]) -> list[str]:
    """What to type to get the same rows again."""
    words = ["generality", "compare", source]
    for name, value in options.items():
        if value is not None:
            listed = (
                value
                if isinstance(value, str) or not isinstance(value, Sequence)
                else ",".join(value)
            )
            words += [f"--{name}", str(listed)]
    return words


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
