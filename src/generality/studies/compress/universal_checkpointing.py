"""Universal checkpointing: does a training go on as if its layout of processes had never changed?

Protocol (Lian et al. 2024, arXiv 2406.18820). A small language model is trained with AdamW; halfway
its state is cut up as the processes of one layout would hold it (tensor, pipeline and data
parallelism, ZeRO 1 to 3), put together to the universal form, cut up for another layout, and put
together by that one's processes, all through files. Training goes on and its losses are compared
with those of a run that was never interrupted. `score` is minus the largest difference of a loss
(0 is perfect). Floor: only the weights are restored. Ceiling: the uninterrupted run. Controls that
err as home-made converters do: `concatenated` (parts of fused projections are joined in the order
of ranks), `no-step` (the optimizer counts from 0), `no-rng` (the data begin anew).

Differences from the paper, each with its effect: one process plays all ranks one after another, so
each layout computes the same losses and exactness is to the bit (real processes sum in other
orders; tests/test_reshard.py trains FSDP, tensor- and pipeline-parallel ones over gloo and finds
curves equal to float tolerance); 50 thousand parameters instead of 350 million to 176 billion; no
mixture of experts; the time of saving, converting and loading is not compared.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from generality.benchmarks.worlds import ChainPrograms, solution
from generality.claims import Claim, Row, equivalent, greater
from generality.lab import Lab
from generality.models.fused_decoder import FusedDecoder
from generality.studies.study import Paper
from generality.weights import (
    LayoutSpec,
    ParamRule,
    TrainingState,
    load_training_state,
    open_training_state,
    save_training_state,
    training_state,
)

PAPER = Paper(
    "Universal Checkpointing: Efficient and Flexible Checkpointing for Large Scale Distributed "
    "Training",
    arxiv="2406.18820", year=2024,
)  # fmt: skip
FACTORS = ("source", "target")

RULES = (
    ParamRule(r"embedding\.weight", "vocab", tied=True),
    ParamRule(r"layers\.\d+\.qkv\.weight", "subparams", sizes=(2, 1, 1)),
    ParamRule(r"layers\.\d+\.gate_up\.weight", "subparams", sizes=(1, 1)),
    ParamRule(r"layers\.\d+\.(out|down)\.weight", "row"),
    ParamRule(r"layers\.\d+\.norm[12]\.weight|norm\.weight", "replicated"),
)


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    layouts: tuple[str, ...] = (
        "tp=1",
        "tp=2 dp=2 zero=1",
        "tp=4 pp=2",
        "dp=3 zero=3",
        "tp=2 pp=2 dp=3 zero=2",
    )  # every ordered pair of them is tried
    before: int = 30  # updates before the change
    after: int = 20  # updates after it
    batch_size: int = 8  # sequences
    length: int = 24  # characters
    width: int = 32
    seeds: int = 10  # a result that is the same on every seed needs many to be shown

    def __post_init__(self) -> None:
        for layout in self.layouts:
            LayoutSpec.parse(layout)


SCALES = {
    "smoke": Config(layouts=("tp=1", "tp=2 pp=2 dp=3 zero=2"), before=3, after=3, seeds=2),
    "small": Config(),
    "full": Config(
        layouts=(
            "tp=1", "tp=2 pp=2 dp=2 zero=1", "tp=1 dp=8 zero=3", "tp=4 pp=2", "tp=8",
            "pp=2 dp=4 zero=2",
        ),
        before=100, after=100, width=1024, length=512, batch_size=16,
    ),
}  # fmt: skip

CLAIMS = (
    Claim("Losses go on as in the uninterrupted run, whatever the two layouts",
          equivalent("universal", "ceiling", margin=1e-6)),
    Claim("Every weight and every state of the optimizer is restored",
          equivalent("universal", 0.0, margin=1e-9, on="state_error")),
    Claim("Weights without the optimizer's state do not do it", greater("universal", "floor")),
    Claim("Nor does joining fused projections in the order of ranks",
          greater("universal", "concatenated")),
    Claim("Nor does an optimizer that forgets its step", greater("universal", "no-step")),
    Claim("Nor do data that begin anew", greater("universal", "no-rng")),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Every seed, every ordered pair of layouts."""
    items = [(config, seed) for seed in lab.seeds(config.seeds)]
    for rows in lab.map(pairs, items, description="Training on"):
        yield from rows


def pairs(lab: Lab, item: tuple[Config, int]) -> list[Row]:
    """All pairs and all controls of one seed."""
    return [Row(**row) for row in lab.step(measured, *item)]


def measured(config: Config, seed: int) -> list[dict[str, Any]]:
    """How far losses and states are from those of the run that goes on."""
    text = characters(seed)
    training = Training(config, text, seed)
    training.run(config.before)
    state = training.state()
    parts = {name: dict(kept) for name, kept in state.parameters.items()}
    wanted = training.run(config.after)
    rows = []

    def row(method: str, source: str, target: str, restored: TrainingState) -> None:
        fresh = Training(config, text, seed, restored)
        wrong = max(
            (restored.parameters[name][key] - tensor).abs().max().item()
            if key in restored.parameters[name] else tensor.abs().max().item()
            for name, kept in parts.items() for key, tensor in kept.items()
        )  # fmt: skip
        losses = fresh.run(config.after)
        error = max(abs(a - b) for a, b in zip(losses, wanted, strict=True))
        rows.append(
            {"method": method, "seed": seed, "source": source, "target": target, "score": -error,
             "ceiling": 0.0, "state_error": wrong}
        )  # fmt: skip

    for source, target in itertools.permutations(config.layouts, 2):
        row("universal", source, target, passed(state, source, target))
        if "tp=1" not in source and "tp=" in source:
            row("concatenated", source, target, passed(state, source, target, naive=True))
    weights = {name: {"weight": kept["weight"]} for name, kept in parts.items()}
    stepless = {name: {**kept, "step": torch.zeros(())} for name, kept in parts.items()}
    dataless = {key: value for key, value in state.extra.items() if key != "rng"}
    row("weights-only", "any", "any", TrainingState(weights, state.extra))
    row("no-step", "any", "any", TrainingState(stepless, state.extra))
    row("no-rng", "any", "any", TrainingState(parts, dataless))
    floor = next(each["score"] for each in rows if each["method"] == "weights-only")
    return [{**each, "floor": floor} for each in rows]


def passed(state: TrainingState, source: str, target: str, naive: bool = False) -> TrainingState:
    """The state after it was on disk as one layout's parts, the universal form, another's parts."""
    with tempfile.TemporaryDirectory() as home:
        first, middle, last = (Path(home, name) for name in ("first", "middle", "last"))
        save_training_state(state, first, to=LayoutSpec.parse(source), rules=RULES)
        if naive:
            told = json.loads((first / "layout.json").read_text())
            for rule in told["rules"]:
                if rule["kind"] == "subparams":
                    rule |= {"kind": "column", "sizes": []}
            (first / "layout.json").write_text(json.dumps(told))
        save_training_state(open_training_state(first), middle)
        spec = LayoutSpec.parse(target)
        save_training_state(open_training_state(middle), last, to=spec, rules=RULES)
        found = open_training_state(last)
        return TrainingState({k: dict(v) for k, v in found.parameters.items()}, dict(found.extra))


class Training:
    """One training that can be stopped and gone on with."""

    def __init__(
        self, config: Config, text: Tensor, seed: int, resumed: TrainingState | None = None
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = FusedDecoder(int(text.max()) + 1, config.width)
        self.config, self.text = config, text
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        self.draws = torch.Generator().manual_seed(seed)
        if resumed is None:
            return
        moments = any(len(kept) > 1 for kept in resumed.parameters.values())
        extra = load_training_state(resumed, self.model, self.optimizer if moments else None)
        if "rng" in extra:
            self.draws.set_state(extra["rng"])

    def state(self) -> TrainingState:
        """All of it."""
        found = training_state(self.model, self.optimizer, rng=self.draws.get_state())
        parameters = {
            name: {key: tensor.clone() for key, tensor in kept.items()}
            for name, kept in found.parameters.items()
        }
        return TrainingState(parameters, found.extra)

    def run(self, steps: int) -> list[float]:
        """Losses of so many updates."""
        losses = []
        for _ in range(steps):
            last = len(self.text) - self.config.length - 1
            starts = torch.randint(last, (self.config.batch_size, 1), generator=self.draws)
            rows = self.text[starts + torch.arange(self.config.length + 1)]
            logits = self.model(rows[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses


def characters(seed: int) -> Int[Tensor, " n"]:
    """A text of worked-out programs, as numbers of its characters."""
    chains = ChainPrograms().sample(200, (1, 3), seed=seed)
    text = "\n".join(f"{chain.prompt} {solution(chain)}" for chain in chains)
    numbers = {character: i for i, character in enumerate(sorted(set(text)))}
    return torch.tensor([numbers[character] for character in text])
