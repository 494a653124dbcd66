"""A skill to specialise a small language model on, and exams of what it gains and loses."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from generality.benchmarks.worlds import (
    Chain,
    ChainPrograms,
    answer_of,
    string_task,
    terse,
    world_tokenizer,
)
from generality.benchmarks.worlds.problem import ANSWER
from generality.benchmarks.worlds.styled_chains import written
from generality.errors import UserError
from generality.lab import Lab, TrainConfig
from generality.measures import CapabilityLedger
from generality.models import load_tokenizer, teacher_topk, tiny_decoder
from generality.models.load import published
from generality.selection import FormatMixer, NumberMatch, Template, Worked


@dataclass(frozen=True)
class Exam:
    """Prompts with their answers."""

    prompts: list[str]
    answers: list[str]


class SpecialistTasks(Protocol):
    """A target, its relatives and other tasks: what `specialist_scores` and a study need.

    Exams are named "target", "target_val", "with_demonstrations", "relatives:…",
    "relatives_val:…" and "generic:…".
    """

    @property
    def template(self) -> Template:
        """How problems are written."""

    @property
    def exams(self) -> dict[str, Exam]:
        """By name."""

    @property
    def tokenizer(self) -> Any:
        """Of the student."""

    def is_right(self, text: str, answer: str) -> bool:
        """Whether a response gives this answer."""

    def network(self, size: str) -> Any:
        """From a seed to a model of this size."""

    def problems(self, seed: int) -> list[Worked]:
        """What a seed specialises on, none of it in the target's exams."""

    def base(self, lab: Lab, size: str) -> tuple[Any, int]:
        """The generic model's weights and its number of parameters."""

    def topk(self, lab: Lab, problems: list[Worked], k: int) -> list[Any]:
        """A teacher's k likeliest tokens at each place of each solution, as `teacher_topk`."""


def specialist_scores(
    lab: Lab, tasks: SpecialistTasks, size: str, weights: Any, *, max_tokens: int
) -> dict[str, float]:
    """Accuracies of one model in [0, 1]: the target's exams, and means over the other groups."""

    def grade(exam: Exam) -> Callable[[Any], float]:
        def accuracy(model: Any) -> float:
            said = lab.generate(
                tasks.network(size), exam.prompts, weights=model, tokenizer=tasks.tokenizer,
                max_tokens=max_tokens, batch_size=256,
            )  # fmt: skip
            right = [tasks.is_right(text, a) for (text,), a in zip(said, exam.answers, strict=True)]
            return sum(right) / len(right)

        return accuracy

    exams = {name: grade(exam) for name, exam in tasks.exams.items()}
    graded = CapabilityLedger(exams, target=["target"]).record(size, weights)
    for group in ("relatives", "relatives_val", "generic"):
        of = [score for name, score in graded.items() if name.startswith(f"{group}:")]
        graded[group] = float(np.mean(of))
    return {name: score for name, score in graded.items() if ":" not in name}


@dataclass(frozen=True)
class ChainTasks:
    """Chains of sums as the target, operations on lists as the other tasks.

    A generic model learns short chains, in the four formats of `FormatMixer`, and the other tasks.
    Relatives of the target are shorter chains, longer ones, and chains with other names.

    Args:
        others: names of `string_task`.
        modulus: of the sums.
        base_steps: of the longest chain that a generic model learns.
        steps: of the target's chains.
        chains: that a generic model learns from.
        lists: problems of the other tasks that it learns from, in equal shares.
        count: problems that a seed specialises on.
        test: problems of each exam.
        validation: problems of each exam to choose checkpoints by.
        k_shot: demonstrations in a prompt.
        rate: of Adam, warmed up and then cosine, for generic models and the teacher.
        batch_size: of both.
        teacher: size of the teacher, which reads an even digit and the next digit as one token.
        teacher_chains: that it learns from.
        style: of the steps, see `generality.benchmarks.worlds.styled_chains.written`.

    >>> tasks = ChainTasks(("copy",), chains=8, lists=4, count=4, test=2, validation=1)
    >>> sorted(tasks.exams)[:3]
    ['generic:copy', 'relatives:longer', 'relatives:renamed']
    >>> tasks.exams["target"].prompts[0]
    'a = 4 ; b = a + 3 ; c = b + 2 ; c ? steps'
    """

    others: tuple[str, ...]
    modulus: int = 5
    base_steps: int = 1
    steps: int = 2
    chains: int = 10_000
    lists: int = 15_000
    count: int = 4000
    test: int = 100
    validation: int = 50
    k_shot: int = 1
    rate: float = 3e-3
    batch_size: int = 32
    teacher: str = "0.25M"
    teacher_chains: int = 12_000
    style: str = "states"
    template: ClassVar[Template] = Template("{question}", " steps", " => {answer}", " | ")

    @cached_property
    def tokenizer(self) -> Any:
        """Of the student: a digit is a token."""
        return world_tokenizer([*self.others, "steps"])

    @cached_property
    def source(self) -> ChainPrograms:
        """Of all chains."""
        return ChainPrograms(self.modulus)

    @cached_property
    def _drawn(self) -> dict[str, list[Chain]]:
        """Chains of the exams, those for validation last."""
        count, source = self.test + self.validation, self.source
        renamed = replace(source, rename=True)
        return {
            "target": source.sample(count, self.steps, 0),
            "relatives:shorter": source.sample(count, (1, self.base_steps), 0),
            "relatives:longer": source.sample(count, self.steps + 1, 0),
            "relatives:renamed": renamed.sample(count, self.steps, 0),
        }

    @cached_property
    def held(self) -> set[str]:
        """Prompts of the target's exams."""
        return {chain.prompt for chain in self._drawn["target"]}

    @cached_property
    def exams(self) -> dict[str, Exam]:
        """By name, zero-shot with steps but for "with_demonstrations" and the other tasks."""
        mixer = FormatMixer(self.problems(0), k_shot=self.k_shot, template=self.template)
        exams = {}
        for name, chains in self._drawn.items():
            worked = [_worked(chain, self.style) for chain in chains]
            held = "target_val" if name == "target" else name.replace("relatives", "relatives_val")
            exams[name] = written_exam(mixer, worked[: self.test])
            exams[held] = written_exam(mixer, worked[self.test :])
            if name == "target":
                shown = written_exam(mixer, worked[: self.test], "icl_cot")
                exams["with_demonstrations"] = shown
        for name in self.others:
            tests = string_task(name).sample(self.validation, (2, 4), 0)
            exams[f"generic:{name}"] = Exam([t.prompt for t in tests], [t.answer for t in tests])
        return exams

    def is_right(self, text: str, answer: str) -> bool:
        """Whether a response gives this answer."""
        return answer_of(text) == answer

    def network(self, size: str) -> Any:
        """From a seed to a model of this size."""
        return functools.partial(tiny_decoder, size, vocabulary=len(self.tokenizer), context=256)

    def problems(self, seed: int) -> list[Worked]:
        """Chains of a seed to specialise on, none of the target's exams."""
        drawn = self.source.sample(self.count, self.steps, seed + 1)
        return [_worked(chain, self.style) for chain in drawn if chain.prompt not in self.held]

    def base(self, lab: Lab, size: str) -> tuple[Any, int]:
        """The generic model's weights and its number of parameters."""
        worked = [
            _worked(c, self.style) for c in self.source.sample(self.chains, (1, self.base_steps), 1)
        ]
        mixer = FormatMixer(worked, k_shot=self.k_shot, template=self.template)
        pairs = [(example.prompt, example.response) for example in mixer.mix(worked)]
        for name in self.others:
            avoid = {*self.exams[f"generic:{name}"].prompts}
            count = self.lists // len(self.others)
            for problem in string_task(name).sample(count, (2, 4), 1, avoid=avoid):
                pairs.append((problem.prompt, terse(problem)))
        tuned = lab.sft(
            self.network(size), *zip(*pairs, strict=True), tokenizer=self.tokenizer, seed=0,
            config=self._schedule,
        )  # fmt: skip
        return tuned.weights, self.network(size)(0).num_parameters()

    def topk(self, lab: Lab, problems: list[Worked], k: int) -> list[Any]:
        """What a teacher with a tokenizer of its own thinks of the solutions, token by token."""
        tokenizer = digit_pair_tokenizer(self.modulus)
        network = functools.partial(
            tiny_decoder, self.teacher, vocabulary=len(tokenizer), context=256
        )
        chains = self.source.sample(self.teacher_chains, (1, self.steps), 0)
        lessons = [_worked(chain, self.style) for chain in chains if chain.prompt not in self.held]
        teacher = lab.sft(
            network, [lesson.question for lesson in lessons], [_said(each) for each in lessons],
            tokenizer=tokenizer, seed=0, config=self._schedule,
        )  # fmt: skip
        questions, solutions = [p.question for p in problems], [_said(p) for p in problems]
        return lab.step(soft_targets, network, teacher.weights, tokenizer, questions, solutions, k)

    @property
    def _schedule(self) -> TrainConfig:
        return TrainConfig(1, self.batch_size, learning_rate=self.rate, warmup=0.05)


@dataclass(frozen=True)
class FileTasks:
    """Your own tasks: JSON lines of question, reasoning, answer in one folder.

    target.jsonl is tuned on but for its last rows, which are the exams; relatives/*.jsonl and
    generic/*.jsonl are exams alone. Teacher probabilities come from the teacher named.

    Args:
        folder: that holds them.
        model: whose tokenizer counts.
        teacher: a model's name.
        count: rows of target.jsonl to specialise on, at most.
        test: problems of each exam.
        validation: problems of each exam to choose checkpoints by.
        k_shot: demonstrations in a prompt.
    """

    folder: Path
    model: str
    teacher: str
    count: int
    test: int
    validation: int
    k_shot: int = 4
    template: ClassVar[Template] = Template()

    @cached_property
    def tokenizer(self) -> Any:
        """Of the student."""
        return load_tokenizer(self.model)

    @cached_property
    def rows(self) -> list[Worked]:
        """Of target.jsonl."""
        return read_worked(self.folder / "target.jsonl")

    @cached_property
    def exams(self) -> dict[str, Exam]:
        """By name."""
        held = self.rows[-(self.test + self.validation) :]
        pool = self.rows[: -len(held)]
        mixer = FormatMixer(pool, k_shot=self.k_shot, template=self.template)
        exams = {
            "target": written_exam(mixer, held[: self.test]),
            "target_val": written_exam(mixer, held[self.test :]),
            "with_demonstrations": written_exam(mixer, held[: self.test], "icl_cot"),
        }
        for group in ("relatives", "generic"):
            for path in sorted((self.folder / group).glob("*.jsonl")):
                lines = read_worked(path)
                exams[f"{group}:{path.stem}"] = written_exam(mixer, lines[: self.test])
                if group == "relatives":
                    rest = written_exam(mixer, lines[self.test :])
                    exams[f"relatives_val:{path.stem}"] = rest
        return exams

    def is_right(self, text: str, answer: str) -> bool:
        """Whether a response gives this answer."""
        return NumberMatch()("", text, answer) >= 0.5

    def network(self, size: str) -> Any:
        """The model of this name, whatever the seed."""
        return functools.partial(published, size)

    def problems(self, seed: int) -> list[Worked]:
        """What is tuned on: the same for every seed."""
        return self.rows[: -(self.test + self.validation)][: self.count]

    def base(self, lab: Lab, size: str) -> tuple[Any, int]:
        """The model as it is published."""
        model: Any = published(size)
        return dict(model.state_dict()), model.num_parameters()

    def topk(self, lab: Lab, problems: list[Worked], k: int) -> list[Any]:
        """What the teacher thinks of the solutions."""
        mixer = FormatMixer(problems, k_shot=self.k_shot, template=self.template)
        written = [mixer.write(problem, "zs_cot") for problem in problems]
        return lab.step(
            soft_targets, self.network(self.teacher), None, load_tokenizer(self.teacher),
            [each.prompt for each in written], [each.response for each in written], k,
        )  # fmt: skip


def written_exam(mixer: FormatMixer, worked: Sequence[Worked], way: Any = "zs_cot") -> Exam:
    """Problems as a model is asked them, in one of the mixer's formats."""
    prompts = [mixer.write(each, way, draw=i).prompt for i, each in enumerate(worked)]
    return Exam(prompts, [each.answer for each in worked])


def soft_targets(
    network: Any, weights: Any, tokenizer: Any, prompts: list[str], responses: list[str], k: int
) -> list[Any]:
    """`teacher_topk` of a network with these weights, or its own; a step for `Lab.step`."""
    model = network(0)
    if weights is not None:
        model.load_state_dict(weights)
    return [list(pair) for pair in teacher_topk(model.eval(), tokenizer, prompts, responses, k=k)]


def digit_pair_tokenizer(modulus: int) -> Any:
    """A tokenizer for which an even digit and the digit after it are one token.

    >>> digit_pair_tokenizer(5).tokenize("a = 2 ; 2 3 1 => 1")
    ['a', '=', '2', ';', '2 3', '1', '=>', '1']
    """
    from tokenizers import Regex, pre_tokenizers

    pairs = [f"{a} {b}" for a in range(0, modulus, 2) for b in range(modulus)]
    tokenizer = world_tokenizer(pairs)
    even = "".join(map(str, range(0, modulus, 2)))
    pattern = Regex(rf"[{even}] [0-{modulus - 1}]|\S+")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(
        pattern, behavior="removed", invert=True
    )
    return tokenizer


def read_worked(path: Path) -> list[Worked]:
    """JSON lines of question, reasoning (which may lack) and answer.

    Raises:
        UserError: there is no such file.
    """
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    except OSError as error:
        raise UserError(f"{path} is needed: see the study's page.") from error
    return [Worked(row["question"], row.get("reasoning", ""), row["answer"]) for row in rows]


def _worked(chain: Chain, style: str) -> Worked:
    work = written(chain, style).rpartition(f" {ANSWER} ")[0]
    return Worked(chain.prompt, work, chain.answer)


def _said(problem: Worked) -> str:
    return f"{problem.reasoning} => {problem.answer}"
