"""Federated knowledge alignment: do matched features and voted labels beat averaging alone?

Protocol (FedKA, arXiv 2203.11635). Three clients hold labelled data of one domain each; the server
has unlabelled inputs of a fourth, which the clients see too: this is adaptation to a known target,
not generalization to an unknown one. Clients train, the server averages, and tunes the average on
the labels that most clients vote for. Scored after the last round, on a half of the target that
nobody saw. Floor: federated averaging of plain clients. Ceiling: the same, the server tuning on
the target's true labels instead of votes.

Differences from the paper, each with its effect: four styles of digits instead of five, smaller
(1,000 images a client), and a quarter of the network's width; 8 rounds of 10 + 10 batches instead
of 200 of 32 + 32, with the schedule of α compressed to them and Adam at 1e-3 instead of 3e-4 (all
learn less, and alignment has less time); the last round instead of the best one on the target's
labels (lower, honest scores); networks vote and are scored in eval mode; the tuned model is what
clients go on from (the notebook's clients go on from the bare average: "fedka-unshared"); texts of
four domains as MiniLM features instead of bags of words.

Two controls cost the same as FedKA: the average tuned on its own labels ("self-training"), and
voting without any alignment ("vote").
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from generality.benchmarks import folder_or_digits, sentiment_domains
from generality.claims import Claim, Row, greater
from generality.errors import UserError, unknown
from generality.lab import Lab
from generality.measures import group_effect, negative_transfer
from generality.models import DomainAdversarial, fedka_digits, mlp
from generality.studies.study import Paper
from generality.training.fedka import fit_fedka

PAPER = Paper(
    "Feature Distribution Matching for Federated Domain Generalization",
    arxiv="2203.11635",
    year=2022,
)
FACTORS = ("panel", "target", "uses_target_inputs")

# Whether there is a discriminator, whether features are matched, and what the server tunes on.
METHODS: dict[str, tuple[bool, bool, Any]] = {
    "fedavg": (False, False, None),
    "dann": (True, False, None),
    "dann+mmd": (True, True, None),
    "fedka": (True, True, "vote"),
    "fedka-unshared": (True, True, "vote"),
    "self-training": (True, True, "self"),
    "vote": (False, False, "vote"),
    "truth": (False, False, "truth"),
}
ALONE = ("isolated", "pooled-dann")
Part = tuple[Any, ...]


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    seeds: int = 5
    targets: tuple[str, ...] = ("mnist_over_photos",)  # styles of digits
    text_targets: tuple[str, ...] = ("movie", "tweets")
    methods: tuple[str, ...] = ("isolated", *METHODS, "pooled-dann")
    layout: str | None = None  # of `data_path`, see `read_images`
    data_path: str | None = None  # folder of 28-pixel images by domain and class; None: the digits
    examples: int = 1000  # images of each client
    text_examples: int = 500  # texts of each client
    test: int = 500  # examples of the target that methods are scored on
    width: int = 16  # channels of the first convolution
    rounds: int = 8
    batches: int = 10  # of each part of a client's round
    votes: int = 20  # batches of target inputs a round
    text_rounds: int = 8
    batch_size: int = 16
    learning_rate: float = 1e-3  # Adam
    watch_every: int = 3  # rounds from one measurement of the group effect to the next
    processes: bool = False  # every client in a process of its own

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in (*METHODS, *ALONE):
                raise unknown("method", method, [*METHODS, *ALONE])
        if min(self.seeds, self.examples, self.rounds, self.batches, self.votes) < 1:
            raise UserError("seeds, examples, rounds, batches and votes must not be 0.")
        if not self.methods or not (self.targets or self.text_targets):
            raise UserError("methods must not be empty, nor targets and text_targets both.")


SCALES = {
    "smoke": Config(
        seeds=2, targets=("uci",), text_targets=(), examples=64, test=36, width=8, rounds=2,
        batches=2, votes=2, methods=("isolated", "fedavg", "dann+mmd", "fedka", "truth"),
    ),
    "small": Config(),
    "full": Config(
        data_path="digit-five", width=64, examples=25_000, test=9_000, rounds=200,
        batches=32, votes=128, learning_rate=3e-4, watch_every=1, text_examples=1600,
        targets=("mnist", "mnistm", "usps", "svhn", "syn"),
        text_rounds=200, seeds=3,
    ),
}  # fmt: skip

DIGITS, TEXTS = {"panel": "digits"}, {"panel": "sentiment"}
CLAIMS = (
    Claim(
        "On digits, FedKA beats federated averaging on the target",
        greater("fedka", "fedavg", where=DIGITS),
        paper_says="+8.8 points on Digit-Five",
    ),
    Claim(
        "On texts, FedKA beats federated averaging on the target",
        greater("fedka", "fedavg", where=TEXTS),
        paper_says="+0.7 points on Amazon Review",
    ),
    Claim(
        "Federated averaging beats the mean of isolated clients", greater("fedavg", "isolated")
    ),
    Claim(
        "Embedding matching adds to the domain discriminator",
        greater("dann+mmd", "dann"),
    ),
    Claim("Voting adds to both", greater("fedka", "dann+mmd")),
    Claim(
        "Alignment adds to voting, on digits", greater("fedka", "vote", where=DIGITS)
    ),
    Claim(
        "Aggregation gains more in FedKA than in federated averaging (group effect)",
        greater("fedka", "fedavg", on="group_effect"),
        paper_says="about 4 times the gain",
    ),
    Claim(
        "The clients' vote is better than the mean client",
        greater("fedka", 0.0, on="vote_gain"),
    ),
    Claim(
        "The clients' vote teaches more than the average's own labels",
        greater("fedka", "self-training"),
    ),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of both panels: every target, seed and method."""
    panels = [("digits", config.targets, config.rounds)]
    panels += [("sentiment", config.text_targets, config.text_rounds)]
    items = [
        (config, panel, target, seed, rounds)
        for panel, targets, rounds in panels
        for target in targets
        for seed in lab.seeds(config.seeds)
    ]
    for rows in lab.map(target_rows, items, description="Federations"):
        yield from rows


def target_rows(lab: Lab, item: tuple[Config, str, str, int, int]) -> list[Row]:
    """One target and seed: every method, with floor and ceiling."""
    config, panel, target, seed, rounds = item
    every = parts(lab, config, panel, seed)
    unlabelled, labels, *test = every.pop(target)
    clients = [(inputs, own) for inputs, own, *_ in every.values()]
    make = functools.partial(
        network, panel=panel, inputs=unlabelled.shape[1], width=config.width,
        classes=10 if panel == "digits" else 2,
    )  # fmt: skip

    @functools.cache
    def result(method: str) -> dict[str, Any]:
        def federated(clients: list[Any], method: str, batches: int) -> dict[str, Any]:
            adversarial, matching, server = METHODS[method]
            return lab.step(
                fit_fedka, network=make, clients=clients, target=unlabelled, test=tuple(test),
                seed=seed, rounds=rounds, adversarial=adversarial, matching=matching,
                server=server, labels=labels if server == "truth" else None,
                broadcast="aggregate" if method == "fedka-unshared" else "updated",
                batches=batches, votes=config.votes, batch_size=config.batch_size,
                learning_rate=config.learning_rate, watch_every=config.watch_every,
                processes=config.processes, device=lab.device,
            )  # fmt: skip

        if method == "isolated":
            alone = [federated([one], "fedavg", config.batches)["score"] for one in clients]
            return {"score": float(np.mean(alone)), "alone": alone}
        if method == "pooled-dann":
            pooled = tuple(np.concatenate(arrays) for arrays in zip(*clients, strict=True))
            return federated([pooled], "dann", config.batches * len(clients))
        return federated(clients, method, config.batches)

    return [
        Row(
            method=method, seed=seed, panel=panel, target=target, score=result(method)["score"],
            floor=result("fedavg")["score"], ceiling=result("truth")["score"],
            negative_transfer=negative_transfer(
                result("isolated")["alone"], result(method)["score"]
            ),
            **watched(result(method)), uses_target_inputs=method not in ("isolated", "fedavg"),
        )
        for method in config.methods
    ]  # fmt: skip


def watched(found: dict[str, Any]) -> Row:
    """The group effect over all rounds, and how good the last round's vote was."""
    if "clients" not in found or found["clients"].shape[1] == 1:
        return Row(group_effect=None, vote=None, vote_gain=None)
    vote = float(found["vote"][-1])
    return Row(
        group_effect=group_effect(found["global"], found["clients"]), vote=vote,
        vote_gain=vote - float(found["clients"][-1].mean()),
    )  # fmt: skip


def network(seed: int, *, panel: str, inputs: int, width: int, classes: int) -> DomainAdversarial:
    """The paper's network of digits, or a perceptron for texts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if panel == "digits":
            return fedka_digits(inputs, classes, width=width)
        body = nn.Sequential(mlp(inputs, 100), nn.ReLU())
        return DomainAdversarial(body, mlp(100, classes), mlp(100, 2))


def parts(lab: Lab, config: Config, panel: str, seed: int) -> dict[str, Part]:
    """Of every domain, by name: inputs and labels to train on, and to test on."""
    if panel == "digits":
        count = config.examples + config.test
        data = folder_or_digits(config.data_path, layout=config.layout, per_domain=count)
        drawn = {}
        for name in data.domain_names:
            order = np.random.default_rng(seed).permutation(data.rows(name))
            ends = [order[: config.examples], order[config.examples :][: config.test]]
            pieces = [(np.asarray(data.inputs)[rows], data.labels[rows]) for rows in ends]
            drawn[name] = (*pieces[0], *pieces[1])
        return drawn
    halves = [
        sentiment_domains(split=split, per_domain=count)
        for split, count in (("train", config.text_examples), ("test", config.test))
    ]
    features = [np.array(lab.embed("minilm-l6", half.inputs, max_length=64)) for half in halves]
    return {
        name: tuple(
            piece[half.rows(name)]
            for half, found in zip(halves, features, strict=True)
            for piece in (found, half.labels)
        )
        for name in halves[0].domain_names
    }
