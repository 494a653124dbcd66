"""Students that learn from what two teachers said of the same queries, and their exams."""

from __future__ import annotations

import functools
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from generality.benchmarks.worlds import (
    TASKS,
    Explained,
    Problem,
    TwoTeachers,
    in_form,
    mixed_problems,
    read_explained,
    world_tokenizer,
)
from generality.claims import Row
from generality.lab import Lab, TrainConfig
from generality.lab.generate import Network
from generality.lab.sft import TunedLM
from generality.lab.stages import Stage, tune_in_stages
from generality.models import load_tokenizer, tiny_decoder
from generality.models.load import published
from generality.selection.explained_stages import TINY_MESSAGES, Said, explained_stage


@dataclass(frozen=True)
class Panel:
    """Problems of one kind, and examples to adapt to before they are asked, where there are."""

    problems: list[Problem]
    adaptation: list[Explained] = field(default_factory=list)


@dataclass(frozen=True)
class ExplanationSchool:
    """A language model as a student of explanations: its first lessons, its stages, its exams.

    Args:
        lab: does the work, and keeps it.
        network: from a seed to a causal language model.
        tokenizer: its own.
        tuning: of every stage but for its epochs.
        max_tokens: of a response.

    >>> import tempfile
    >>> lab = Lab(home=tempfile.mkdtemp(), progress=False)
    >>> school = ExplanationSchool.tiny(lab, "0.05M", TrainConfig(learning_rate=1e-3), max_tokens=4)
    >>> said = TwoTeachers().explain(["copy"], [2], 8, seed=0)
    >>> tuned = school.taught([explained_stage(said, "strong")], seed=0)
    >>> panels = {"longer": Panel(mixed_problems(["copy"], [3], 2, seed=0))}
    >>> school.exams(tuned.weights, panels, explains=True, seed=0)["longer"]["score"]
    0.0
    """

    lab: Lab
    network: Network
    tokenizer: Any
    tuning: TrainConfig
    max_tokens: int = 40

    @classmethod
    def tiny(
        cls, lab: Lab, size: str, tuning: TrainConfig, *, max_tokens: int
    ) -> ExplanationSchool:
        """A decoder of random weights that knows the words of the list tasks."""
        tokenizer = world_tokenizer((*TASKS, *TINY_MESSAGES))
        network = functools.partial(tiny_decoder, size, vocabulary=len(tokenizer))
        return cls(lab, network, tokenizer, tuning, max_tokens)

    @classmethod
    def named(
        cls, lab: Lab, name: str, tuning: TrainConfig, *, max_tokens: int
    ) -> ExplanationSchool:
        """A pretrained model, the same for every seed."""
        network = functools.partial(published, name)
        return cls(lab, network, load_tokenizer(name), tuning, max_tokens)

    def begun(self, drawn: Sequence[Explained]) -> dict[str, Tensor]:
        """The weights that all arms start from: one pass, every other query answered, the rest
        explained by the strong teacher."""
        parts = explained_stage(drawn[::2], "answer"), explained_stage(drawn[1::2], "strong")
        return self.lab.sft(
            self.network, [*parts[0].prompts, *parts[1].prompts],
            [*parts[0].responses, *parts[1].responses], tokenizer=self.tokenizer, seed=0,
            config=self.tuning,
        ).weights  # fmt: skip

    def taught(
        self, stages: Sequence[Stage], *, seed: int, weights: Mapping[str, Tensor] | None = None
    ) -> TunedLM:
        """The student after these stages, one after another."""
        return tune_in_stages(
            self.lab, self.network, stages, tokenizer=self.tokenizer, config=self.tuning,
            seed=seed, weights=weights,
        )  # fmt: skip

    def exams(
        self, weights: Mapping[str, Tensor], panels: Mapping[str, Panel], *, explains: bool,
        seed: int, adaptation_epochs: float = 1.0,
    ) -> dict[str, Row]:  # fmt: skip
        """A row per panel, of exact matches.

        Args:
            weights: of the student.
            panels: by name. Where one has examples to adapt to, the student first learns these, in
                the form that it was taught.
            explains: whether it was taught explanations, and is asked for steps; else for answers.
            seed: of adaptation.
            adaptation_epochs: of it.

        Returns:
            Of each panel `score`, asked as it was taught; `form`, the share of responses that look
            like an explanation when it is asked for steps (`in_form`); `flattery`, how far a judge
            of form alone runs ahead of what is right there; `response_words`, the mean length.
        """
        own = "steps" if explains else "short"
        teacher: Said = "strong" if explains else "answer"
        rows: dict[str, Row] = {}
        for name, panel in panels.items():
            adapted = weights
            if panel.adaptation:
                stage = explained_stage(panel.adaptation, teacher, adaptation_epochs)
                adapted = self.taught([stage], seed=seed, weights=weights).weights
            said = {
                system: self.lab.generate(
                    self.network, [f"{system} {p.prompt}" for p in panel.problems],
                    weights=adapted, tokenizer=self.tokenizer, max_tokens=self.max_tokens,
                    batch_size=320, chunk=1000,
                )
                for system in {own: None, "steps": None}
            }  # fmt: skip
            right = {
                system: _share(p.check(r[0]) for p, r in zip(panel.problems, texts, strict=True))
                for system, texts in said.items()
            }
            form = _share(
                in_form(p, r[0]) for p, r in zip(panel.problems, said["steps"], strict=True)
            )
            rows[name] = Row(
                score=right[own], form=form, flattery=form - right["steps"],
                response_words=float(np.mean([len(texts[0].split()) for texts in said[own]])),
            )  # fmt: skip
        return rows


@dataclass(frozen=True)
class ListQueries:
    """Queries about lists that two teachers explain, and panels of further problems.

    No query that is taught is one of a panel's problems, and no example of an unseen task either.

    Args:
        teachers: who explain.
        tasks: that are taught, names of `string_task`.
        unseen: others.
        lengths: of the lists that are taught, in symbols.
        between: a length that is not.
        longer: another.
        test: problems of each task and length.
        adaptation: examples of each unseen task.

    >>> lists = ListQueries(TwoTeachers(), ("copy",), ("last",), test=2, adaptation=3)
    >>> {name: (len(each.problems), len(each.adaptation)) for name, each in
    ...  lists.panels(seed=0).items()}
    {'seen': (2, 0), 'between': (2, 0), 'longer': (2, 0), 'unseen tasks': (4, 3)}
    """

    teachers: TwoTeachers
    tasks: Sequence[str]
    unseen: Sequence[str]
    lengths: Sequence[int] = (3, 5)
    between: int = 4
    longer: int = 6
    test: int = 40
    adaptation: int = 50

    def explain(
        self, lengths: Sequence[int], count: int, seed: int, *, avoid: Container[str] = ()
    ) -> list[Explained]:
        """`count` queries of the tasks that are taught, with what both teachers say."""
        return self.teachers.explain(self.tasks, lengths, count, seed, avoid=avoid)

    def pools(self, sizes: Mapping[str, int], seed: int) -> dict[str, list[Explained]]:
        """So many explained queries under each name, drawn apart; at most three names."""
        held = {problem.prompt for problem in self._asked(max(self.lengths), seed)}
        return {
            name: self.explain(self.lengths, size, 10 * seed + place, avoid=held)
            for place, (name, size) in enumerate(sizes.items())
        }

    def panels(self, seed: int) -> dict[str, Panel]:
        """Problems of the longest lists that are taught, of other lengths, of unseen tasks."""
        asked = 10 * seed + 3
        lengths = {"seen": max(self.lengths), "between": self.between, "longer": self.longer}
        panels = {name: Panel(self._asked(length, seed)) for name, length in lengths.items()}
        tests = mixed_problems(self.unseen, self.lengths, 2 * self.test * len(self.unseen), asked)
        adapt = self.adaptation * len(self.unseen)
        held = {problem.prompt for problem in tests}
        adaptation = self.teachers.explain(self.unseen, self.lengths, adapt, asked + 1, avoid=held)
        return {**panels, "unseen tasks": Panel(tests, adaptation)}

    def _asked(self, length: int, seed: int) -> list[Problem]:
        """Problems of the tasks that are taught, for a panel."""
        return mixed_problems(self.tasks, [length], self.test * len(self.tasks), 10 * seed + 3)


@dataclass(frozen=True)
class FileQueries:
    """Your own queries: train.jsonl of `read_explained`, and test.jsonl of prompts and answers."""

    folder: Path

    def pools(self, sizes: Mapping[str, int], seed: int) -> dict[str, list[Explained]]:
        """The first rows under the first name, and so on, whatever the seed."""
        ends = np.cumsum(list(sizes.values())).tolist()
        every = read_explained(self.folder / "train.jsonl")[: ends[-1]]
        parts = np.split(np.arange(len(every)), ends[:-1])
        return {name: [every[i] for i in part] for name, part in zip(sizes, parts, strict=True)}

    def panels(self, seed: int) -> dict[str, Panel]:
        """The rows of test.jsonl."""
        rows = read_explained(self.folder / "test.jsonl")
        return {"seen": Panel([Problem("", row.prompt, (), row.answer) for row in rows])}


def _share(right: Iterable[bool]) -> float:
    return float(np.mean(list(right)))
