"""Weak readers, strong debaters and strong students of simulated debates, all seeds at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn
from torch.func import functional_call, vmap

from generality.benchmarks.worlds.fact_debate import FactQuestions, fact_debate, fact_questions
from generality.lab import Lab, Replicas
from generality.objectives import soft_cross_entropy

Labels = Float[np.ndarray, "seeds n classes"]


class FactDebaters:
    """A world of `fact_questions` for each seed, and the models that learn in it.

    The strong model is a network of one hidden layer that has learnt a few answers beforehand: as
    debater it quotes what it counts on (input times gradient of its log-odds), as student its
    hidden units are what a linear head reads. The weak model is a linear classifier on the visible
    facts and on what was said (`FactTalk.features`).

    Args:
        lab: where the work is done.
        facts: of a question.
        relevant: those its answer depends on.
        visible: those the weak model sees.
        sizes: questions that the strong model learnt beforehand, that the weak model learns, that
            it labels, and of the test.
        seeds: how many worlds.
        hidden: units of the strong model.
        flag_accuracy: see `fact_debate`.
        temperature: likewise.
        epochs: of every training.
        learning_rate: of Adam, batch 32.

    Attributes:
        truth: one-hot true answers of all questions, (seeds, n, 2).
        supervised: rows from which the weak model learns.
        transfer: rows that it labels.
        test: rows on which all is scored.
        debater_accuracy: of the strong model as it debates, on the test rows, (seeds,).
    """

    def __init__(
        self,
        lab: Lab,
        *,
        facts: int = 24,
        relevant: int = 9,
        visible: int = 6,
        sizes: tuple[int, int, int, int] = (150, 600, 1000, 1000),
        seeds: int = 5,
        hidden: int = 32,
        flag_accuracy: float = 0.8,
        temperature: float = 0.5,
        epochs: int = 10,
        learning_rate: float = 5e-3,
    ) -> None:
        self.lab, self.epochs, self.learning_rate = lab, epochs, learning_rate
        self.flag_accuracy, self.temperature = flag_accuracy, temperature
        self.seeds = lab.seeds(seeds)
        options = {"facts": facts, "relevant": relevant, "visible": visible}
        self.worlds = [fact_questions(sum(sizes), **options, seed=seed) for seed in self.seeds]
        before, self.supervised, self.transfer, self.test = np.split(
            np.arange(sum(sizes)), np.cumsum(sizes)[:-1]
        )
        self.truth = np.eye(2, dtype=np.float32)[np.stack([w.labels for w in self.worlds])]
        inputs = np.stack([world.facts for world in self.worlds]).astype(np.float32)
        network = functools.partial(strong_network, facts, hidden)
        strong = self._train(network, inputs, before, self.truth[:, before], self.seeds)
        self.debater_accuracy = self.accuracy(_answers(strong, inputs), self.test)
        self.credit, self.hidden = _credit_and_hidden(strong, inputs)
        talks = [[self._reads(seed, "debate", 1, 0.0, seed)] for seed in self.seeds]
        judges = self._readers(_stacked(talks), 1)
        self.judges = [judges.module(seed) for seed in self.seeds]

    def labels(
        self,
        kind: Literal["debate", "consultancy", "market"],
        *,
        turns: int,
        lies: float = 0.0,
        members: int = 1,
    ) -> Float[np.ndarray, "seeds members n classes"]:
        """What weak models with talks of their own say of all questions.

        Member i of m in the world of a seed has the talks of seed·m + i, and that seed of training;
        with `turns` 0 nothing is said and members differ by their training.
        """
        inputs = _stacked(
            [
                [self._reads(seed, kind, turns, lies, seed * members + i) for i in range(members)]
                for seed in self.seeds
            ]
        )
        said = _answers(self._readers(inputs, members), inputs)
        return said.reshape(len(self.seeds), members, *said.shape[1:])

    def protocols(
        self, turns: int, lies: float, members: int
    ) -> dict[str, Float[np.ndarray, "seeds members n classes"]]:
        """What weak models say by every protocol of as many turns, by its name.

        `members` are those of the two ensembles, with debates ("debate-ensemble") and without
        ("finetune-ensemble"); "debate" and "naive" are the first of each. The long consultancy has
        as many turns as both debaters together.
        """
        debated = self.labels("debate", turns=turns, lies=lies, members=members)
        plain = self.labels("debate", turns=0, members=members)  # no turns: nothing is said
        return {
            "naive": plain[:, :1],
            "finetune-ensemble": plain,
            "consultancy": self.labels("consultancy", turns=turns, lies=lies),
            "consultancy-long": self.labels("consultancy", turns=2 * turns, lies=lies),
            "market": self.labels("market", turns=turns, lies=lies),
            "debate": debated[:, :1],
            "debate-ensemble": debated,
        }

    def students(
        self, labels: Sequence[Labels], loss: Callable[..., Any] = soft_cross_entropy
    ) -> Float[np.ndarray, "labels seeds"]:
        """Test accuracy of strong students that learn each of the labels and read no talk."""
        count = len(labels)
        inputs = np.concatenate([self.hidden] * count)
        targets = np.concatenate([each[:, self.transfer] for each in labels]).astype(np.float32)
        head = functools.partial(linear_head, inputs.shape[-1])
        seeds = list(self.seeds) * count
        said = _answers(self._train(head, inputs, self.transfer, targets, seeds, loss), inputs)
        return np.stack([self.accuracy(part, self.test) for part in np.split(said, count)])

    def accuracy(self, said: Labels, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, " seeds"]:
        """Share of right answers among these rows, for each seed."""
        return np.asarray((said[:, rows].argmax(-1) == self.truth[:, rows].argmax(-1)).mean(1))

    def _reads(self, world: int, kind: Any, turns: int, lies: float, seed: int) -> np.ndarray:
        """What a weak reader has before it: visible facts, and what was said."""
        questions: FactQuestions = self.worlds[world]
        seen = questions.facts[:, questions.visible]

        def judge(said: np.ndarray) -> np.ndarray:
            before = torch.from_numpy(np.hstack([seen, said]).astype(np.float32))
            with torch.no_grad():
                believed: np.ndarray = self.judges[world](before).softmax(-1)[:, 1].numpy()
            return believed

        talk = fact_debate(
            questions.facts, self.credit[world], kind=kind, turns=turns, lies=lies, seed=seed,
            flag_accuracy=self.flag_accuracy, temperature=self.temperature, judge=judge,
        )  # fmt: skip
        return np.hstack([seen, talk.features()]).astype(np.float32)

    def _readers(self, inputs: np.ndarray, members: int) -> Replicas:
        truth = np.repeat(self.truth[:, self.supervised], members, axis=0)
        head = functools.partial(linear_head, inputs.shape[-1])
        seeds = range(len(self.seeds) * members)
        return self._train(head, inputs, self.supervised, truth, seeds)

    def _train(
        self,
        module: Callable[[int], nn.Module],
        inputs: Float[np.ndarray, "replicas n dim"],
        rows: Int[np.ndarray, " rows"],
        targets: Float[np.ndarray, "replicas rows classes"],
        seeds: Sequence[int],
        loss: Callable[..., Any] = soft_cross_entropy,
    ) -> Replicas:
        offsets = np.arange(len(inputs))[:, None] * inputs.shape[1]
        return self.lab.replicate(
            module, inputs.reshape(-1, inputs.shape[-1]), targets, rows=offsets + rows, loss=loss,
            seeds=list(seeds), epochs=self.epochs, optimizer="adam",
            learning_rate=self.learning_rate,
        )  # fmt: skip


def strong_network(facts: int, hidden: int, seed: int) -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(facts, hidden), nn.ReLU(), nn.Linear(hidden, 2))


def linear_head(dim: int, seed: int) -> nn.Linear:
    """With torch's random start, so that members of an ensemble differ by their seed."""
    return nn.Linear(dim, 2)


def _credit_and_hidden(strong: Replicas, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    credit, hidden = [], []
    for replica, values in enumerate(inputs):
        network = strong.module(replica)
        assert isinstance(network, nn.Sequential)
        x = torch.from_numpy(values).requires_grad_()
        inner = network[:2](x)
        odds = network[2](inner) @ torch.tensor([-1.0, 1.0])
        (slope,) = torch.autograd.grad(odds.sum(), x)
        credit.append((slope * x).detach().numpy().astype(np.float64))
        hidden.append(inner.detach().numpy())
    return np.stack(credit), np.stack(hidden)


def _answers(replicas: Replicas, inputs: Float[np.ndarray, "replicas n dim"]) -> np.ndarray:
    """Each replica's class probabilities of its own inputs."""
    state = {**replicas.parameters, **replicas.buffers}

    def one(state: dict[str, torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
        return functional_call(replicas.skeleton, state, (batch,)).softmax(-1)

    with torch.inference_mode():
        return np.asarray(vmap(one)(state, torch.from_numpy(inputs)).numpy())


def _stacked(talks: list[list[np.ndarray]]) -> Float[np.ndarray, "replicas n dim"]:
    return np.stack([each for several in talks for each in several])
