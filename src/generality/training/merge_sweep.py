"""Settings of a merge chosen on data, and the result beside its models, base and multitask."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generality.errors import UserError
from generality.gap import gap_recovered
from generality.measures import response_logprob
from generality.selection.training_files import plain_pair, read_records
from generality.weights import Recipe, merge, open_checkpoint, search_merge
from generality.weights.checkpoint_stream import AdaptedCheckpoint, Checkpoint
from generality.weights.merge_checks import check_mergeable, home
from generality.weights.merge_models import merger_of, open_fisher
from generality.weights.merge_recipe import FROM_BASE, SPARSE

LAMS = (0.3, 0.5, 0.7, 1.0)
DENSITIES = (0.1, 0.2, 0.5, 1.0)
LEANS = (0.25, 0.5, 0.75)  # of two models, the second one's share


@dataclass(frozen=True)
class Exam:
    """Prompts with the responses wanted, by task; half to choose by and half to report.

    Attributes:
        choose: task → (prompts, responses).
        report: the same for the other half.
        held_out: tasks that nothing is chosen by.
    """

    choose: dict[str, tuple[list[str], list[str]]]
    report: dict[str, tuple[list[str], list[str]]]
    held_out: tuple[str, ...]


def read_exam(
    data: str | Path, *, task: str = "task", held_out: Sequence[str] = (), limit: int = 200
) -> Exam:
    """Reads prompts and responses with a column that names the task of each.

    Every second example of a task is to choose by, up to `limit` of each half.

    Raises:
        UserError: no such column, too few examples, or an unknown held-out task.
    """
    tasks: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for record in read_records(data):
        pair = plain_pair(record, data)
        named = str((record.content or {}).get(task, ""))
        if not named:
            raise UserError(
                f"Record {record.number} of {data} has no column '{task}' that names its task."
            )
        tasks[named].append(pair)
    if unknown := set(held_out) - tasks.keys():
        raise UserError(f"{data} has no task '{min(unknown)}'; known: {', '.join(sorted(tasks))}.")
    if not set(tasks) - set(held_out):
        raise UserError("Every task is held out: leave one to choose by.")
    small = min(tasks, key=lambda name: len(tasks[name]))
    if len(tasks[small]) < 4:
        raise UserError(f"The task '{small}' has {len(tasks[small])} examples; 4 are the least.")

    def half(first: int) -> dict[str, tuple[list[str], list[str]]]:
        halves = {name: pairs[first::2][:limit] for name, pairs in tasks.items()}
        return {name: ([p for p, _ in h], [r for _, r in h]) for name, h in halves.items()}

    return Exam(half(0), half(1), tuple(held_out))


def candidates(recipe: Recipe, models: int) -> list[Recipe]:
    """The settings that are tried where they were not given: λ, density, and for two their weights.

    >>> len(candidates(Recipe("ties"), 3)), len(candidates(Recipe("ties", density=0.2), 3))
    (16, 4)
    """
    from_base = recipe.rule in FROM_BASE
    sparse = recipe.rule in SPARSE
    lams = LAMS if from_base and recipe.lam is None else (recipe.lam,)
    densities = DENSITIES if sparse and recipe.density is None else (recipe.density,)
    leans: Sequence[Any] = (recipe.weights,)
    if recipe.weights is None and models == 2 and recipe.method != "layerwise":
        total = 2 if from_base else 1
        leans = [(total * (1 - share), total * share) for share in LEANS]
    made = [
        replace(recipe, lam=lam, density=density, weights=weights)
        for lam, density, weights in itertools.product(lams, densities, leans)
    ]
    return made


def sweep_merges(
    models: Sequence[str | Path],
    exam: Exam,
    recipe: Recipe,
    *,
    base: str | Path | None = None,
    multitask: str | Path | None = None,
    fisher: Sequence[str | Path] = (),
    search: int = 0,
    device: str = "cpu",
    progress: Any = None,
) -> tuple[Recipe, dict[str, Any]]:
    """The best settings by half of an exam, and the table of the other half.

    Scores are mean log-probabilities of a response's tokens, in nats, averaged over tasks.
    Everything is in memory: models of which two fit there.

    Args:
        models: that are merged, of one architecture.
        exam: of `read_exam`.
        recipe: what is fixed; see `candidates` for the rest.
        base: what they were tuned from.
        multitask: a model tuned on all tasks at once, for comparison.
        fisher: of "fisher": a folder of safetensors for each model.
        search: merges that a layer-wise search (`search_merge`) may try; 0 for none.
        device: where models run.
        progress: called with (merges tried, merges in all).

    Returns:
        The chosen recipe, and a report: scores of every candidate on the first half; on the second,
        of the merge, each model, the base, multitask: each task's, held in, held out, and the
        share recovered of the way from the base to each task's best expert.

    Raises:
        UserError: as `merge_models`.
    """
    under = None if base is None else str(base)
    opened = [open_checkpoint(model, base=under) for model in models]
    root: Checkpoint | None = open_checkpoint(base) if base is not None else None
    if root is None and isinstance(opened[0], AdaptedCheckpoint):
        root = opened[0].base
    if search and recipe.method not in ("average", *FROM_BASE):
        raise UserError(f"--search merges what models learned: {recipe.method} does not do that.")
    if root is None and (recipe.method in FROM_BASE or search):
        what = "--search" if search else recipe.method
        raise UserError(f"{what} adds to the models' base: name it by --base.")
    taught = [] if multitask is None else [open_checkpoint(multitask, base=under)]
    check_mergeable([*([] if root is None else [root]), *opened, *taught])
    informations = open_fisher(fisher)
    merger_of(opened, recipe, base=root, fisher=informations)  # or says why not, before models load
    scorer = Scorer(home(root or opened[0]), exam, device)
    held_in = [task for task in exam.choose if task not in exam.held_out]
    tried: list[tuple[float, Recipe]] = []
    options = [] if search else candidates(recipe, len(opened))
    merges = len(options)
    for number, option in enumerate(options, 1):
        merged = merge_by(opened, root, option, informations)
        scores = scorer(merged, exam.choose, held_in)
        tried.append((_mean(scores, held_in), option))
        if progress is not None:
            progress(number, len(options))
    if search:
        inner = recipe.method if recipe.method in FROM_BASE[:-1] else recipe.inner
        found = search_merge(
            opened, root or {}, lambda s: _mean(scorer(s, exam.choose, held_in), held_in),
            method=inner, granularity=recipe.granularity, budget=search, seed=recipe.seed,
            lam=1.0 if recipe.lam is None else recipe.lam, density=recipe.density,
            variant=recipe.variant,
        )  # fmt: skip
        chosen = replace(
            recipe, method="layerwise", inner=inner, groups=found.groups, weights=None,
            lam=1.0 if recipe.lam is None else recipe.lam,
        )  # fmt: skip
        tried, merges = [(found.score, chosen)], len(found.scores)
    score, chosen = max(tried, key=lambda each: each[0])
    named: dict[str, Mapping[str, Tensor]] = {
        "merged": merge_by(opened, root, chosen, informations)
    }
    named |= {each.name: each for each in opened}
    if root is not None:
        named["base"] = root
    if taught:
        named["multitask"] = taught[0]
    table = {who: scorer(state, exam.report, list(exam.report)) for who, state in named.items()}
    return chosen, {
        "chosen_by": score,
        "merges": merges,
        "tried": [
            {"score": s, "lam": r.scale, "density": r.kept, "weights": r.weights} for s, r in tried
        ],
        "table": [_line(who, scores, table, exam) for who, scores in table.items()],
    }


def merge_by(
    experts: Sequence[Mapping[str, Tensor]],
    base: Mapping[str, Tensor] | None,
    recipe: Recipe,
    fisher: Sequence[Mapping[str, Tensor]] = (),
) -> dict[str, Tensor]:
    """The merge that a recipe describes, in memory."""
    settings = {name: getattr(recipe, name) for name in recipe.__dataclass_fields__}
    return merge(experts, settings.pop("method"), base=base, fisher=fisher, **settings)


class Scorer:
    """Scores weights of one architecture on an exam."""

    def __init__(self, folder: Path, exam: Exam, device: str) -> None:
        from generality.models import load_model, load_tokenizer

        self.model = load_model(str(folder), device=device)
        self.tokenizer = load_tokenizer(str(folder))

    def __call__(
        self,
        state: Mapping[str, Tensor],
        half: Mapping[str, tuple[list[str], list[str]]],
        tasks: Sequence[str],
    ) -> dict[str, float]:
        """Task → mean log-probability of the responses' tokens."""
        own: Any = self.model.state_dict()
        prefix = f"{self.model.base_model_prefix}."  # files of a body alone have it not
        with torch.no_grad():
            for name in state:
                place = name if name in own else prefix + name
                if place in own:  # else what transformers leaves as well, such as old masks
                    own[place].copy_(state[name])
        return {
            task: float(response_logprob(self.model, self.tokenizer, *half[task]).nanmean())
            for task in tasks
        }


def _mean(scores: Mapping[str, float], tasks: Sequence[str]) -> float:
    return float(np.mean([scores[task] for task in tasks])) if tasks else float("nan")


def _line(
    who: str, scores: dict[str, float], table: Mapping[str, dict[str, float]], exam: Exam
) -> dict[str, Any]:
    inside = [task for task in scores if task not in exam.held_out]
    experts = [s for name, s in table.items() if name not in ("merged", "base", "multitask")]
    line = {
        "model": who, "held_in": _mean(scores, inside), "held_out": _mean(scores, exam.held_out),
        "tasks": scores, "recovered": None,
    }  # fmt: skip
    if "base" in table:
        best = _mean({task: max(e[task] for e in experts) for task in inside}, inside)
        share = gap_recovered(_mean(table["base"], inside), _mean(scores, inside), best)
        line["recovered"] = None if np.isnan(share) else float(share)
    return line
