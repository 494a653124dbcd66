"""How do base, size, number of experts and way of merging decide what survives a merge?

Protocol (Yadav et al. 2024, arXiv 2410.03617). From one base, all weights are tuned on each of
eight tasks: digits turned by 0°, 45°, …, 315°. Two, four or eight of these experts (drawn by the
seed) are merged by averaging, task arithmetic, TIES (k = 0.2) and DARE-TIES (p = 0.9), and tested
on their own tasks (held in) and on four angles that no expert saw (held out). Bases differ in what
they know (random weights; brief training on a few turned digits; long training on many) and in
width. λ is chosen for each merge on validation images of the held-in tasks. Held in, the floor is
the base and the ceiling each task's own expert; held out, the base and one model tuned on the union
of the tasks (multitask). `normalised` is the paper's number: accuracy over the expert's, or over
the base's held out. Control: one expert, the first drawn, for all tasks.

Differences from the paper, with their effect: perceptrons of 5,000 to 30,000 weights instead of
PaLM-2 of 1B to 64B (nothing about scale as such can show, and the bases' quality is of another
kind: a random one stands below "raw"); eight angles of one task instead of eight families of tasks
(experts interfere more, since the same digits turned by other angles contradict each other, and the
held-out angles lie between the held-in ones); the paper reports no λ, here it is tuned. A chance
base makes held-out ratios large: look at accuracies too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from generality.claims import Claim, Row, greater, interacts, less
from generality.errors import UserError
from generality.experiments.turned_digits import DigitParts, TurnedDigits
from generality.lab import Lab
from generality.lab.threads import threads
from generality.studies.study import Paper
from generality.weights import interference

PAPER = Paper("What Matters for Model Merging at Scale?", arxiv="2410.03617", year=2024)
FACTORS = ("panel", "base", "width", "experts")

WAYS: dict[str, dict[str, Any]] = {
    "average": {},
    "task-arithmetic": {},
    "ties": {"density": 0.2},
    "dare-ties": {"density": 0.1},
}


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    widths: tuple[int, ...] = (32, 128)  # hidden units of both layers
    bases: tuple[str, ...] = ("none", "weak", "strong")  # random weights, 150 or 1500 steps
    held_in: tuple[int, ...] = (0, 45, 90, 135, 180, 225, 270, 315)  # degrees
    held_out: tuple[int, ...] = (22, 67, 112, 157)  # degrees
    experts: tuple[int, ...] = (2, 4, 8)  # merged
    weak: tuple[int, int] = (100, 38)  # images at random angles, epochs: about 150 steps of 32
    strong: tuple[int, int] = (600, 79)  # about 1500 steps
    images: int = 600  # of each task that its expert is tuned on
    validation: int = 100  # of each held-in task, for λ
    test: int = 400  # of each task
    epochs: int = 11  # of each expert, about 200 steps; of the multitask model likewise
    learning_rate: float = 5e-4  # Adam
    lams: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)  # of task vectors weighed 1/M, and of TIES' mean
    seeds: int = 5  # bases, experts and which are drawn

    def __post_init__(self) -> None:
        if max(self.experts) > len(self.held_in) or min(self.experts) < 2:
            raise UserError(f"experts is 2 to {len(self.held_in)} models, the held-in tasks.")


SCALES = {
    "smoke": Config(
        widths=(16,), bases=("none", "weak"), experts=(2,), weak=(100, 4), images=100,
        test=100, epochs=2, lams=(1.0,), seeds=2,
    ),
    "small": Config(),
    "full": Config(widths=(32, 128, 512, 2048), experts=(2, 4, 6, 8), seeds=20),
}  # fmt: skip

IN, OUT = {"panel": "held-in"}, {"panel": "held-out"}
MERGED = {"method": [*WAYS]}
ON = "normalised"
CLAIMS = (
    Claim(
        "Eight experts of a strong base keep more of their skill than those of a random one",
        greater("strong", "none", by="base", on=ON, where={**IN, **MERGED, "experts": 8}),
    ),
    Claim(
        "They keep more than those of a weak base",
        greater("strong", "weak", by="base", on=ON, where={**IN, **MERGED, "experts": 8}),
    ),
    Claim(
        "A wider network keeps more of the skill of eight experts",
        greater(128, 32, by="width", on=ON, where={**IN, **MERGED, "experts": 8}),
    ),
    Claim(
        "Eight merged experts keep less of their skill than two",
        less(8, 2, by="experts", on=ON, where={**IN, **MERGED}),
    ),
    Claim(
        "More experts cost less when the base is strong",
        interacts(("experts", 8, 2), ("base", "strong", "none"), on=ON, where={**IN, **MERGED}),
    ),
    Claim(
        "More experts cost less in a wider network",
        interacts(("experts", 8, 2), ("width", 128, 32), on=ON, where={**IN, **MERGED}),
        expected_at="full",
    ),
    Claim(
        "Merged experts of a strong base beat it on tasks that none of them saw",
        greater("average", "floor", where={**OUT, "base": "strong"}),
    ),
    Claim(
        "Eight merged experts of a strong base beat the multitask model there",
        greater("average", "multitask", where={**OUT, "base": "strong", "experts": 8}),
        expected_at="full",
    ),
    Claim(
        "Ways of merging differ less in a wider network",
        less(128, 32, by="width", on="spread", where={**IN, "method": "average", "experts": 8}),
        expected_at="full",
    ),
    Claim(
        "Averaging beats one expert for all tasks",
        greater("average", "one-expert", where={**IN, "base": "strong"}),
    ),
    Claim(
        "What experts of a strong base learned conflicts less in sign than that of a random one",
        less("strong", "none", by="base", on="sign_conflict", where={**IN, "method": "average"}),
    ),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every seed, width and base: merges of each number of experts, in and out."""
    for seed in lab.seeds(config.seeds):
        for width in config.widths:
            for base in config.bases:
                for row in lab.step(cell, config, seed, width, base):
                    del row["lam"]  # chosen on validation images: in a claim it would be a setting
                    yield Row(seed=seed, width=width, base=base, **row)


def cell(config: Config, seed: int, width: int, base: str) -> list[dict[str, Any]]:
    """Bases, experts, multitask models and merges of one seed, width and base."""
    with threads(1):
        parts = DigitParts(
            config.strong[0], config.images, config.validation, config.test, config.epochs,
            config.learning_rate,
        )  # fmt: skip
        data = TurnedDigits((*config.held_in, *config.held_out), parts, seed)
        start = data.network(width)
        if base != "none":
            start = data.train_base(start, *(config.weak if base == "weak" else config.strong))
        tasks = len(config.held_in)
        experts = data.tune(start, [[task] for task in range(tasks)])
        drawn = [int(task) for task in np.random.default_rng(seed).permutation(tasks)]
        rows: list[dict[str, Any]] = []
        for count in config.experts:
            rows += merged(config, data, start, experts, drawn[:count])
        return rows


def merged(
    config: Config, data: TurnedDigits, start: Any, experts: list[Any], chosen: list[int]
) -> list[dict[str, Any]]:
    """Rows of one draw of experts: every way to merge them, in and out."""
    states = [experts[task].state_dict() for task in chosen]
    named = {"multitask": (data.tune(start, [chosen])[0], 1.0)}
    named["one-expert"] = (experts[chosen[0]], 1.0)
    for way, settings in WAYS.items():
        shares = {"weights": (1 / len(chosen),) * len(chosen)} if way == "task-arithmetic" else {}
        named[way] = data.best_merge(
            start, states, chosen, way, config.lams, seed=data.seed, **settings, **shares
        )
    own = float(np.mean([data.accuracy(experts[task], "test", [task]) for task in chosen]))
    seen = interference(states, start.state_dict())
    unseen = range(len(config.held_in), len(config.held_in) + len(config.held_out))
    rows = []
    for panel, tasks in (("held-in", chosen), ("held-out", [*unseen])):
        floor = data.accuracy(start, "test", tasks)
        scores = {how: data.accuracy(model, "test", tasks) for how, (model, _) in named.items()}
        ceiling = own if panel == "held-in" else scores["multitask"]
        divisor = own if panel == "held-in" else floor
        ways = [scores[way] / divisor for way in WAYS]
        rows += [
            {
                "method": method, "score": score, "floor": floor, "ceiling": ceiling,
                "panel": panel, "experts": len(chosen), "normalised": score / divisor,
                "lam": named[method][1], "spread": max(ways) - min(ways),
                "sign_conflict": seen.sign_conflict,
                "cosine": float(np.mean(seen.cosines[np.triu_indices(len(chosen), 1)])),
            }
            for method, score in scores.items()
        ]  # fmt: skip
    return rows
