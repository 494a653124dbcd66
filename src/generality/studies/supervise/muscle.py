"""Model updates: can a better model be tuned so that fewer of the old one's right answers are lost?

Protocol (Echterhoff et al. 2024, arXiv 2407.09435). An old and a new base model, one tokenizer,
are tuned on one task by one recipe: v1 and the plain update v2. A compatible update starts as v2
and is trained on the same data by MUSCLE's loss: towards v1 at the tokens it gets wrong, towards v2
at the others. The score is the negative flip rate (lower is better): the share of test items that
v1 has right and the update has wrong. Floor: that of the plain update. Ceiling: the least that an
update between the two accuracies can have. Panels: `chains`, arithmetic programs written out step
by step by decoders of 0.24M weights, the old base from a shorter pretraining and with other skills;
the new one at several points of its pretraining (`gap`); `texts`, news of five classes with linear
heads on two frozen encoders.

Controls: `seed-churn` (v2 with another seed: what an update breaks by chance), `continued` (v2
trained on plainly for as long as the compatible ones), `distill-average` (both versions as one
teacher, everywhere), `distill-old`, `focal`, and `ensemble` (both versions run, `texts` only).

Differences from the paper, each with its effect: models of 0.24M weights and a made-up task (errors
are at few tokens that matter); every weight is tuned, not LoRA of rank 128 (more churn from
tuning); last weights instead of the best by validation; λ of the arm with cross-entropy is not
stated there and 0.5 here. Flips are of exact answers; no summaries are written.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from generality.benchmarks import load_transfer_task
from generality.benchmarks.worlds import Chain, ChainPrograms, answer_of, solution
from generality.claims import Claim, Row, greater, less, monotone
from generality.errors import unknown
from generality.estimators.soft_probe import moments, standardised
from generality.lab import Lab, TrainConfig
from generality.lab.replicate import zero_head
from generality.measures.flips import flip_rows
from generality.objectives import UPDATE_LOSSES, CompatibleUpdate, UpdateObjective
from generality.studies.study import Paper
from generality.training.writer import Writer

PAPER = Paper("MUSCLE: A Model Update Strategy for Compatible LLM Evolution", arxiv="2407.09435",
              year=2024)  # fmt: skip
FACTORS = ("panel", "gap")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    panels: tuple[str, ...] = ("chains", "texts")
    size: str = "0.25M"  # of the decoders
    old_examples: int = 24_000  # the old base reads, about 27 tokens each
    new_examples: int = 48_000  # the new base reads
    gaps: tuple[float, ...] = (0.35, 0.37, 0.4)  # shares of the new base's pretraining
    old_operators: str = "+-*"  # skills of the old base, in equal shares
    new_operators: str = "+++---*"  # of the new one: one is rarer
    base_rate: float = 2e-3  # peak learning rate of pretraining
    steps: tuple[int, int] = (1, 3)  # of a program
    items: int = 400  # of the task
    test: int = 600
    epochs: int = 2  # over the items, for v1, v2 and each update
    rate: float = 5e-4  # peak learning rate of tuning
    updates: tuple[str, ...] = ("continued", "distill-old", "distill-average", "muscle")
    ablations: tuple[str, ...] = (  # at the first gap
        "muscle-ce", "old-right", "likelihood-token", "focal"
    )  # fmt: skip
    task: str = "bbc"  # of `texts`: or a sentiment domain
    texts: int = 300  # to learn from
    test_texts: int = 660
    words: int = 64  # of an article
    encoders: tuple[str, str] = ("bag-of-words", "minilm-l6")  # old, new
    layers: tuple[int, int] = (0, -1)  # hidden state read of each
    text_epochs: int = 10
    seeds: int = 5

    def __post_init__(self) -> None:
        for update in (*self.updates, *self.ablations):
            if update not in UPDATE_LOSSES:
                raise unknown("update", update, UPDATE_LOSSES)


SCALES = {
    "smoke": Config(
        size="0.05M", old_examples=64, new_examples=128, steps=(1, 1), items=32, test=20,
        task="movie", updates=("muscle",), ablations=(), texts=40, test_texts=40, words=16,
        gaps=(1.0,), layers=(0, 1), text_epochs=1, seeds=2, epochs=1,
    ),
    "small": Config(),
    "full": Config(size="5M", old_examples=400_000, new_examples=1_600_000, items=5_000,
                   test=5_000, steps=(1, 6), gaps=(0.35, 0.5, 1.0), texts=1_000),
}  # fmt: skip

CHAINS, FIRST = {"panel": "chains"}, {"panel": "chains", "gap": 0.35}
CLAIMS = (
    Claim("A plain update breaks more than its accuracies require",
          greater("plain", "ceiling", margin=0.005, where=CHAINS)),
    Claim("The smaller the update, the more it breaks",
          monotone("gap", direction="decreasing", where={**CHAINS, "method": "plain"})),
    Claim("MUSCLE breaks less than the plain update", less("muscle", "plain", where=CHAINS),
          paper_says="HellaSwag, Llama 1 -> 2: 10.27 -> 6.10 %"),
    Claim("MUSCLE breaks less than plain training for as long",
          less("muscle", "continued", where=CHAINS)),
    Claim("MUSCLE breaks less than another seed of the plain update does",
          less("muscle", "seed-churn", where=CHAINS)),
    Claim("It does so relative to what its accuracy makes likely",
          less("muscle", "plain", on="relative_flips", where=CHAINS)),
    Claim("It is more accurate than the plain update",
          greater("muscle", "plain", on="accuracy", where=CHAINS),
          paper_says="HellaSwag: 72.91 -> 79.53 %"),
    Claim("Where both versions are wrong, the same wrong answer is kept more often",
          greater("muscle", "plain", on="same_when_wrong", where=CHAINS)),
    Claim("The mask matters: MUSCLE breaks less than distilling from the old model everywhere",
          less("muscle", "distill-old", where=CHAINS)),
    Claim("A mask of the student's errors is better than one of the old model's right answers",
          less("muscle", "old-right", where=FIRST), paper_says="PIQA: -34.25 % against -19.76 %"),
    Claim("MUSCLE breaks less than distilling from the average of both versions",
          less("muscle", "distill-average", where=CHAINS)),
    Claim("MUSCLE breaks less with linear heads on real texts of five classes",
          less("muscle", "plain", where={"panel": "texts"})),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """The panels, one after the other."""
    for panel in config.panels:
        if panel not in PANELS:
            raise unknown("panel", panel, PANELS)
        for row in PANELS[panel](config, lab):
            yield Row(panel=panel, lower_is_better=True, **row)


def chains(config: Config, lab: Lab) -> Iterator[Row]:
    """Decoders that write programs out: two bases, then every update of every seed."""
    recipe = TrainConfig(epochs=1, warmup=0.05, optimizer="adamw", learning_rate=config.base_rate)
    old, new = (
        learned(lab, config, Writer.tiny(config.size), ChainPrograms(operators=operators).sample(
            count, config.steps, seed=0), recipe, 0, keep=kept)
        for operators, count, kept in (
            (config.old_operators, config.old_examples, ()),
            (config.new_operators, config.new_examples, [gap for gap in config.gaps if gap < 1]),
        )
    )  # fmt: skip
    items = [(config, old, gap, new.kept(gap) if gap < 1 else new, seed)
             for gap in config.gaps for seed in lab.seeds(config.seeds)]  # fmt: skip
    for rows in lab.map(chain_updates, items, description="Updating decoders"):
        yield from rows


def chain_updates(lab: Lab, item: tuple[Config, Writer, float, Writer, int]) -> list[Row]:
    """v1, v2 and every update of one seed at one size of the update."""
    config, old_base, gap, new_base, seed = item
    world = ChainPrograms(operators=config.old_operators)
    task = world.sample(config.items, config.steps, seed=2 * seed + 1)
    test = world.sample(config.test, config.steps, seed=2 * seed + 2)
    recipe = TrainConfig(epochs=config.epochs, batch_size=16, learning_rate=config.rate,
                         warmup=0.05, optimizer="adamw")  # fmt: skip
    tune = functools.partial(learned, lab, config, problems=task, recipe=recipe)
    v1, v2 = tune(old_base, seed=seed), tune(new_base, seed=seed)
    versions = {"plain": v2, "seed-churn": tune(new_base, seed=seed + config.seeds)}
    old, new = v1.model(), v2.model()
    first = gap == config.gaps[0]
    for update in (*config.updates, *(config.ablations if first else ())):
        wrap = functools.partial(CompatibleUpdate, old=old, new=new, loss=UPDATE_LOSSES[update])
        versions[update] = tune(v2, seed=seed, wrap=wrap)
    said = functools.partial(answered, lab, config, test=test)
    rows = flip_rows(said(v1), {name: said(each) for name, each in versions.items()},
                     np.array([int(chain.answer) for chain in test]), plain="plain")  # fmt: skip
    return [Row(seed=seed, gap=gap, **row) for row in rows]


def learned(lab: Lab, config: Config, writer: Writer, problems: Sequence[Chain],
            recipe: TrainConfig, seed: int, **options: Any) -> Writer:  # fmt: skip
    """The writer tuned on prompts and their solutions, with loss on every token as in the paper."""
    solutions = [solution(chain) for chain in problems]
    return writer.tuned(lab, [chain.prompt for chain in problems], solutions, config=recipe,
                        seed=seed, loss_on="all", **options)  # fmt: skip


def answered(lab: Lab, config: Config, writer: Writer, test: Sequence[Chain]) -> np.ndarray:
    """The number that a writer ends on for each program; −1 where it ends on none."""
    texts = writer.write(lab, [chain.prompt for chain in test], max_tokens=config.steps[1] + 4,
                         chunk=len(test), batch_size=250)  # fmt: skip
    ends = [answer_of(text) or "" for [text] in texts]
    return np.array([int(end) if end.isdigit() else -1 for end in ends])


def texts(config: Config, lab: Lab) -> Iterator[Row]:
    """Linear heads on two frozen encoders, all seeds of an arm trained together."""
    task = load_transfer_task(config.task, supervised=config.texts, transfer=config.texts,
                              test=config.test_texts, words=config.words)  # fmt: skip
    seeds = list(lab.seeds(config.seeds))
    rows = np.stack([task.halves(seed)[0] for seed in seeds])
    labels, test = task.one_hot(rows), task.test
    old, new = (
        standardised(raw, *moments(raw))
        for raw in (lab.embed(name, task.texts, layer=layer, max_length=2 * config.words)
                    for name, layer in zip(config.encoders, config.layers, strict=True))
    )  # fmt: skip

    def head(
        x: np.ndarray, targets: np.ndarray, loss: Any, start: Any = None, other: int = 0
    ) -> Any:
        module = zero_head(x.shape[1], task.classes) if start is None else functools.partial(
            started, weights=start)  # fmt: skip
        return lab.replicate(module, x, targets, rows=rows, loss=loss, epochs=config.text_epochs,
                             seeds=[seed + other for seed in seeds], optimizer="adam",
                             learning_rate=5e-4)  # fmt: skip

    plain = UpdateObjective("continued")
    first = np.concatenate([labels] * 3, -1)
    v1 = head(old, first, plain).predict_proba(old).numpy()
    trained = head(new, first, plain)
    v2, weights = trained.predict_proba(new).numpy(), trained.parameters["weight"]
    churned = head(new, first, plain, other=len(seeds)).predict_proba(new).numpy()
    versions = {"plain": v2, "seed-churn": churned, "ensemble": (v1 + v2) / 2}
    each = [np.take_along_axis(said, rows[..., None], 1) for said in (v1, v2)]
    targets = np.concatenate([labels, *each], -1)
    for update in (*config.updates, *config.ablations):
        found = head(new, targets, UpdateObjective(update), start=weights)
        versions[update] = found.predict_proba(new).numpy()
    for s, seed in enumerate(seeds):
        answers = {name: said[s, test].argmax(-1) for name, said in versions.items()}
        for row in flip_rows(v1[s, test].argmax(-1), answers, task.labels[test], plain="plain"):
            yield Row(seed=seed, gap=None, **row)


def started(seed: int, weights: torch.Tensor) -> nn.Module:
    """A head with the plain update's weights of this seed."""
    head = zero_head(weights.shape[2], weights.shape[1])
    with torch.no_grad():
        head.weight.copy_(weights[seed])
    return head


PANELS = {"chains": chains, "texts": texts}
