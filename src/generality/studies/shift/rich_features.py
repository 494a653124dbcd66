"""Rich features: do invariance penalties work once a network has more than the easiest feature?

Protocol (Zhang et al. 2022, arXiv 2203.15516). Coloured digits: the colour says the label better
than the shape in two training environments and against it in a third. ColoredMNIST has the shape as
the weaker cue, its inverse as the stronger. Test: the same digits with colours that contradict the
label at .9, .1 and .5; the score is the worst of the three accuracies. A penalty (V-REx, IRMv1)
trains a network from random weights, from an early stopped plain training ("erm-init"), from rich
features ("rfc") or a head on them ("rfc-frozen"). All whole networks take as many steps as rich
features take together. Floor: plain training, as many steps. Ceiling: plain training where the
colour says nothing ("oracle"). Controls: "erm-rfc-frozen", a head on rich features without penalty;
"ensemble", the mean of the rounds' networks; "pi", predict-then-interpolate.

The penalty's weight is the one with the best worst accuracy on fresh digits coloured as in training
(`score`), which favours colour; `oracle_score` is that of the weight best in the test.

Differences from the paper, each with its effect: 800 digits an environment instead of 25,000 and
100 units instead of 390 (more of the label noise is learnt; every accuracy lower, the ceiling near
.63 instead of .72); learning rate 1e-3 and fewer steps instead of 5e-4 (whole networks feel the
penalty for less long); two weights instead of five; l2 1e-4 is the inverse's, as in the paper, but
its rounds take the other panel's steps. Camelyon17, and so the claims on variance and on three
rounds, is not run; `rounds` is a setting.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from generality.benchmarks.colored_panel import COLOURINGS, ColoredPanel
from generality.claims import Claim, Row, greater, interacts
from generality.errors import UserError, unknown
from generality.experiments import RichPlan, construct_starts, train_from, train_plain
from generality.lab import Lab
from generality.studies.study import Paper

PAPER = Paper(
    "Rich Feature Construction for the Optimization-Generalization Dilemma",
    arxiv="2203.15516", year=2022,
)  # fmt: skip
FACTORS = ("data",)

# share of wrong labels, P(colour contradicts the label) in training, l2
PANELS: dict[str, tuple[float, tuple[float, float], float]] = {
    "colored": (0.25, (0.1, 0.2), 1.1e-3),
    "inverse": (0.1, (0.2, 0.25), 1e-4),
}
STARTS = ("random", "erm-init", "rfc", "rfc-frozen")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    seeds: int = 5
    panels: tuple[str, ...] = ("colored", "inverse")
    penalties: tuple[str, ...] = ("vrex", "irm")
    starts: tuple[str, ...] = STARTS
    inverse_starts: tuple[str, ...] = ("rfc-frozen",)
    images: str = "mnist"  # 5,000 of it; at full the hub's 70,000
    per_environment: int = 800  # digits of each training environment
    held_out: int = 400  # digits of each environment that weights are chosen on
    test: int = 1000  # digits, each shown in three colourings
    width: int = 100  # of two hidden layers
    rounds: int = 2
    learning_rate: float = 1e-3  # Adam
    first_steps: int = 30  # of round 0, which must not remember wrong labels
    inverse_first_steps: int = 90
    discover_steps: int = 250  # of each later round
    distill_steps: int = 250
    penalised_steps: int = 300  # of a whole network on rich features
    frozen_steps: int = 1000  # of a head
    oracle_steps: int = 200
    weights: tuple[float, ...] = (1e3, 1e4)

    def __post_init__(self) -> None:
        for panel in self.panels:
            if panel not in PANELS:
                raise unknown("panel", panel, PANELS)
        for start in (*self.starts, *self.inverse_starts):
            if start not in STARTS:
                raise unknown("start", start, STARTS)
        if self.rounds < 2 or self.seeds < 1 or not self.weights:
            raise UserError("There are at least two rounds, a seed and a weight.")


SCALES = {
    "smoke": Config(
        seeds=2, panels=("colored",), per_environment=60, held_out=40, test=60, width=16,
        first_steps=5, discover_steps=5, distill_steps=5, penalised_steps=5, frozen_steps=5,
        oracle_steps=5, weights=(1e4,),
    ),
    "small": Config(),
    "full": Config(
        seeds=10, inverse_starts=STARTS, images="ylecun/mnist", per_environment=25_000,
        held_out=5000, test=10_000, width=390, learning_rate=5e-4, first_steps=51,
        inverse_first_steps=151, discover_steps=501, distill_steps=501, penalised_steps=1001,
        frozen_steps=3001, oracle_steps=501, weights=(1e3, 5e3, 1e4, 5e4, 1e5),
    ),
}  # fmt: skip

COLORED, INVERSE = {"data": "colored"}, {"data": "inverse"}
CLAIMS = (
    Claim(
        "V-REx on rich features beats V-REx from random weights",
        greater("vrex-rfc-frozen", "vrex-random", where=COLORED),
        paper_says="69.9 against 53.1",
    ),
    Claim(
        "IRM on rich features beats IRM from random weights",
        greater("irm-rfc-frozen", "irm-random", where=COLORED),
        paper_says="69.9 against 54.0",
    ),
    Claim(
        "V-REx on rich features beats V-REx from an early stopped plain training",
        greater("vrex-rfc-frozen", "vrex-erm-init", where=COLORED),
        expected_at="full",
        paper_says="69.9 against 69.3",
    ),
    Claim(
        "V-REx on rich features beats plain training",
        greater("vrex-rfc-frozen", "floor", where=COLORED),
    ),
    Claim(
        "It is the penalty, not the features alone: V-REx beats plain training of the same head",
        greater("vrex-rfc-frozen", "erm-rfc-frozen", where=COLORED),
        paper_says="69.9 against 35.6",
    ),
    Claim(
        "With the weight best in the test, too, V-REx on rich features beats V-REx from random",
        greater("vrex-rfc-frozen", "vrex-random", on="oracle_score", where=COLORED),
    ),
    Claim(
        "Where the surer cue is the shape, V-REx on rich features beats predict-then-interpolate",
        greater("vrex-rfc-frozen", "pi", where=INVERSE),
        paper_says="84.0 against 51.0",
    ),
    Claim(
        "What V-REx gains over predict-then-interpolate depends on which cue is the surer",
        interacts(("method", "vrex-rfc-frozen", "pi"), ("data", "inverse", "colored")),
    ),
)


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every panel, method and seed."""
    seeds = list(lab.seeds(config.seeds))
    for data in config.panels:
        starts = config.inverse_starts if data == "inverse" else config.starts
        arms = [(p, s) for s in starts for p in config.penalties]
        arms += [("erm", "rfc-frozen")] if "rfc-frozen" in starts else []
        panel, plan = panel_and_plan(config, data)
        with lab.progress.task(f"Training on {data} digits") as report:
            found = lab.step(train_plain, plan, panel, seeds)
            report(1, len(arms) + 2)
            rich = lab.step(construct_starts, plan, panel, seeds)
            found |= rich["found"]
            report(2, len(arms) + 2)
            for done, (penalty, start) in enumerate(arms, 3):
                state = rich["starts"]["erm-init" if start == "erm-init" else "rfc"]
                found[f"{penalty}-{start}"] = lab.step(
                    train_from, plan, panel, None if penalty == "erm" else penalty, start,
                    state if start != "random" else None,
                    (1.0,) if penalty == "erm" else config.weights, seeds,
                )  # fmt: skip
                report(done, len(arms) + 2)
        rows = {name: list(map(chosen, *accuracies)) for name, accuracies in found.items()}
        for (name, each), seed in itertools.product(rows.items(), seeds):
            if name != "oracle":
                yield Row(
                    method=name, seed=seed, data=data, floor=rows["erm"][seed]["score"],
                    ceiling=rows["oracle"][seed]["score"], **each[seed],
                )  # fmt: skip


def panel_and_plan(config: Config, data: str) -> tuple[ColoredPanel, RichPlan]:
    """The digits of a panel, and how long everything is trained on them."""
    noise, flips, l2 = PANELS[data]
    panel = ColoredPanel(
        noise, flips, config.images, config.per_environment, config.held_out, config.test
    )
    plan = RichPlan(
        width=config.width, rounds=config.rounds, learning_rate=config.learning_rate, l2=l2,
        first_steps=config.inverse_first_steps if data == "inverse" else config.first_steps,
        discover_steps=config.discover_steps, distill_steps=config.distill_steps,
        penalised_steps=config.penalised_steps, frozen_steps=config.frozen_steps,
        oracle_steps=config.oracle_steps,
    )  # fmt: skip
    return panel, plan


def chosen(held_out: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """One seed's accuracies by weight and environment: those of the weight chosen, and the best."""
    best = int(held_out.min(1).argmax())
    return {
        "score": float(test[best].min()),
        "oracle_score": float(test.min(1).max()),
        "held_out": float(held_out[best].min()),
        **{name: float(value) for name, value in zip(COLOURINGS, test[best], strict=True)},
    }
