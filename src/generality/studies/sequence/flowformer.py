"""Flowformer: does attention in linear time keep its skill when its sources compete for flow?

Protocol (Wu et al. 2022, arXiv 2202.06258). One small transformer encoder, in which only the
attention differs, learns to classify sequences: look a key up among pairs (`lookup`), read a digit
pixel by pixel (`digits`), at `full` work out a nested list (`list-ops`). Linear attention is
Flow-Attention without competition and allocation, so every arm but softmax is one part with other
options, from the same start. Floor: attention that is the mean of the values. Ceiling: softmax
attention. `entropy` is how spread out the first layer's attention is after training (1 is uniform),
of the matrix by which the values are multiplied, rows scaled to sum to 1; `entropy_start` is before
it.

Differences from the paper, each with its effect: two layers of width 32 and sequences of 9 to 65
tokens instead of Long Range Arena's 1k to 4k, WikiText and ImageNet (the cost of softmax is no
obstacle here, so quality is compared where all can run; time and memory over length are measured by
benchmarks/flow_attention.py, and tested); hundreds of updates, in which list-ops shows no gap (its
operators do not care for the order of what they are given, so that the mean, which sees how often
each token occurs, is as far as softmax: nesting is learned later), so it is left to `full`; no
Reformer, no Performer, no reinforcement learning. No clamp unless the arm's name says one:
with as many sinks as sources the released vision code's clamp at 1 cuts off every source above
the average. Longer sequences at test time than in training are not tried.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from generality.benchmarks import SequenceTask, list_ops, lookup, pixel_digits
from generality.claims import Claim, Row, greater, less
from generality.errors import UserError, unknown
from generality.lab import Lab, TrainConfig
from generality.measures import accuracy, attention_entropy, attention_rank
from generality.modules import FlowAttention
from generality.studies.study import Paper

PAPER = Paper(
    "Flowformer: Linearizing Transformers with Conservation Flows", arxiv="2202.06258", year=2022
)
FACTORS = ("task",)

_PLAIN = {"competition": False, "allocation": False}
ATTENTIONS: dict[str, dict[str, Any] | None] = {
    "softmax": None,
    "mean": {"kernel": "uniform", **_PLAIN},
    "linear-elu1": {"kernel": "elu1", **_PLAIN},
    "linear-sigmoid": {"kernel": "sigmoid", **_PLAIN},
    "flow": {},
    "flow-no-competition": {"competition": False},
    "flow-no-allocation": {"allocation": False},
    "flow-clamp-1": {"clamp": 1.0},
}
"""Options of `FlowAttention` by method; None: `nn.MultiheadAttention`."""

TASKS: dict[str, Callable[..., SequenceTask]] = {
    "lookup": lookup, "list-ops": list_ops, "digits": pixel_digits,
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    tasks: tuple[str, ...] = ("lookup", "digits")
    attentions: tuple[str, ...] = tuple(ATTENTIONS)
    layers: tuple[int, ...] = (1, 1)  # of each task's network
    width: int = 32
    heads: int = 2
    train: int = 16_000  # sequences; of digits at most 1300
    test: int = 400  # sequences
    steps: int = 350  # updates
    batch_size: int = 32
    learning_rates: tuple[float, ...] = (1e-2, 3e-3)  # of each task, AdamW, cosine to 0;
    # with them softmax learns its tasks and the mean does not, which is all they were tried on
    weight_decay: float = 0.01
    keys: int = 8  # of lookup
    list_length: int = 24  # tokens of list-ops
    list_depth: int = 2
    seeds: int = 4

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in TASKS:
                raise unknown("task", task, TASKS)
        for attention in self.attentions:
            if attention not in ATTENTIONS:
                raise unknown("attention", attention, ATTENTIONS)
        if not len(self.layers) == len(self.learning_rates) == len(self.tasks):
            raise UserError("layers and learning_rates name one number for each of tasks.")


SCALES = {
    "smoke": Config(
        tasks=("lookup",), attentions=("softmax", "mean", "flow", "linear-sigmoid"), layers=(1,),
        learning_rates=(1e-2,), width=8, train=64, test=32, steps=4, batch_size=16, seeds=2,
    ),
    "small": Config(),
    "full": Config(
        tasks=("lookup", "list-ops"), layers=(2, 1), width=256, heads=4, train=96_000, test=2_000,
        steps=20_000, batch_size=32, learning_rates=(5e-3, 5e-3), keys=2_000, list_length=2_000,
        list_depth=10, seeds=5,
    ),
}  # fmt: skip

CLAIMS = (
    Claim("Flow-Attention beats linear attention with the usual kernel (elu + 1)",
          greater("flow", "linear-elu1"),
          paper_says="Long Range Arena 56.48, linear attention 50.6 to 51.4"),
    Claim("It beats linear attention with its own kernel", greater("flow", "linear-sigmoid")),
    Claim("It beats attention that is a mean", greater("flow", "floor")),
    Claim("It beats softmax attention", greater("flow", "ceiling"), expected_at="full",
          paper_says="WikiText-103 perplexity 30.8 against 33.0; ImageNet 80.6 against 78.7"),
    Claim("Competition among sources helps", greater("flow", "flow-no-competition")),
    Claim("Allocation among sinks helps", greater("flow", "flow-no-allocation"),
          expected_at="full"),
    Claim("A clamp at 1 takes part of the competition's gain away",
          greater("flow", "flow-clamp-1"), expected_at="full"),
    Claim("Flow-Attention is less spread out than linear attention with its kernel",
          less("flow", "linear-sigmoid", on="entropy")),
    Claim("It is so before training too", less("flow", "linear-sigmoid", on="entropy_start")),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Every task and seed, all attentions beside their floor and ceiling."""
    items = [
        (config, task, layers, rate, seed)
        for task, layers, rate in zip(
            config.tasks, config.layers, config.learning_rates, strict=True
        )
        for seed in lab.seeds(config.seeds)
    ]
    for rows in lab.map(arms, items, description="Training"):
        yield from rows


def arms(lab: Lab, item: tuple[Config, str, int, float, int]) -> list[Row]:
    """All attentions on one task with one seed."""
    config, name, layers, rate, seed = item
    task = made(name, config, seed)
    found = {}
    for method in config.attentions:
        network = functools.partial(
            SequenceClassifier, attention=method, vocabulary=task.vocabulary, classes=task.classes,
            length=task.tokens.shape[1], width=config.width, heads=config.heads, layers=layers,
        )  # fmt: skip
        epochs = config.steps / -(-len(task.labels) // config.batch_size)
        fitted = lab.fit(
            network, task.tokens, task.labels, seed=seed, predict={"test": task.test_tokens},
            keep_weights=True,
            config=TrainConfig(
                epochs=epochs, batch_size=config.batch_size, optimizer="adamw", warmup=0.1,
                learning_rate=rate, weight_decay=config.weight_decay,
                max_grad_norm=1.0,
            ),
        )  # fmt: skip
        shown = torch.from_numpy(task.test_tokens[:32])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = network(seed).eval()
        start = spread(model, shown)
        model.load_state_dict(fitted.weights)
        found[method] = {
            "score": accuracy(fitted.probabilities["test"], task.test_labels),
            **spread(model, shown),
            **{f"{measure}_start": value for measure, value in start.items()},
        }
    floor, ceiling = (found.get(arm, {}).get("score") for arm in ("mean", "softmax"))
    shared = {"task": name, "seed": seed, "floor": floor, "ceiling": ceiling}
    return [Row(method=method, **shared, **measured) for method, measured in found.items()]


def made(name: str, config: Config, seed: int) -> SequenceTask:
    """One of the tasks, its sequences drawn by the seed."""
    if name == "digits":
        return pixel_digits(min(config.train, 1300), min(config.test, 497), seed=seed)
    if name == "lookup":
        return lookup(config.train, config.test, keys=config.keys, seed=seed)
    return list_ops(
        config.train, config.test, depth=config.list_depth, length=config.list_length, seed=seed
    )


class SequenceClassifier(nn.Module):
    """A transformer encoder with one kind of attention; the first token's state is classified."""

    def __init__(
        self, seed: int, *, attention: str, vocabulary: int, classes: int, length: int, width: int,
        heads: int, layers: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.randn(length, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        )  # fmt: skip
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))
        options = ATTENTIONS[attention]
        if options is not None:
            for layer in self._encoders():
                mine = FlowAttention(width, heads, batch_first=True, **options)
                mine.load_state_dict(layer.self_attn.state_dict())  # the same start for every arm
                layer.self_attn = mine

    def _encoders(self) -> list[Any]:
        return list(self.layers)

    def forward(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        x = self.tokens(ids) + self.places
        for layer in self._encoders():
            x = layer(x, src_key_padding_mask=ids == 0)
        logits: Tensor = self.head(x[:, 0])
        return logits


@torch.no_grad()
def spread(model: SequenceClassifier, ids: Int[Tensor, "batch length"]) -> dict[str, float]:
    """Entropy and rank of the first layer's attention, over true tokens."""
    layer, padding = model._encoders()[0], ids == 0
    x = layer.norm1(model.tokens(ids) + model.places)
    weights = layer.self_attn(
        x, x, x, key_padding_mask=padding, need_weights=True, average_attn_weights=False
    )[1]
    true = ~padding[:, None].expand(weights.shape[:3])
    return {
        "entropy": attention_entropy(weights)[true].mean().item(),
        "rank": attention_rank(weights).mean().item(),
    }
