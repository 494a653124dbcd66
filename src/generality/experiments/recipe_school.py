"""Tiny teachers and students of the world of recipes, and what they write."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from generality.benchmarks.worlds import ANSWER, answer_of, world_tokenizer
from generality.benchmarks.worlds.recipes import (
    RECIPE_WORDS,
    Recipe,
    RecipeProblem,
    Recipes,
    lesson,
    recipe_problem,
)
from generality.lab import Lab, TrainConfig
from generality.models import tiny_decoder
from generality.modules import prefer
from generality.selection import (
    TeachingPair,
    VariantExam,
    WorldCheck,
    demonstration_values,
    select_answer,
)
from generality.selection.answer_rules import Rule

Rules = Mapping[str, Recipe]
TRIAL = 2  # problems of each rule by which a teacher's training ends


@dataclass(frozen=True)
class Taught:
    """A problem with the teacher's samples: a recipe and an answer each."""

    problem: RecipeProblem
    samples: list[TeachingPair]

    def first(self, count: int) -> Taught:
        """With its first samples only."""
        return Taught(self.problem, self.samples[:count])


@dataclass(frozen=True)
class Reader:
    """A network of the school with its weights."""

    network: Callable[[int], Any]
    weights: Mapping[str, Tensor]


class RecipeSchool:
    """Students that follow recipes they are shown, and teachers that know some rules by name.

    A student learns from `Recipes.lessons`: it applies a recipe that it reads to other digits. A
    teacher is a student that has also seen a few solved problems of named rules; trained for
    little time, it knows some rules well, some hardly, and samples different recipes for the same.

    Args:
        lab: does the work, and keeps it.
        recipes: the world.
        lessons: examples that a student learns from.
        rate: Adam's, batches of 32, cosine to 0.
    """

    def __init__(self, lab: Lab, recipes: Recipes, *, lessons: int, rate: float = 4e-3) -> None:
        self.lab, self.recipes, self.rate = lab, recipes, rate
        self.tokenizer = world_tokenizer(RECIPE_WORDS)
        self.lessons = recipes.lessons(lessons, seed=0)

    def student(self, size: str) -> Reader:
        """A student of a size of `tiny_decoder`."""
        network = functools.partial(tiny_decoder, size, vocabulary=len(self.tokenizer))
        config = TrainConfig(epochs=1, batch_size=32, learning_rate=self.rate, warmup=0.05)
        return Reader(network, self._sft(network, *self.lessons, None, config, 0))

    def teacher(
        self, student: Reader, rules: Rules, *, practice: int, epochs: float, rate: float,
        enough: float, seed: int,
    ) -> Reader:  # fmt: skip
        """The student after `practice` solved problems of each rule, mixed with as many lessons.

        Of twenty checkpoints it is the first of which a share of `enough` samples is right on other
        problems of the rules; the last, where none is. So that teachers err alike at any size.
        """
        solved = [p for some in self._practice(rules, practice, seed) for p in some]
        others = [p for some in self.fresh(rules, TRIAL, practice=practice, seed=seed)
                  for p in some]  # fmt: skip
        prompts, responses = self.recipes.lessons(len(solved), seed + 1)
        config = TrainConfig(epochs=epochs, batch_size=32, learning_rate=rate, warmup=0.05)
        tuned = self.lab.sft(
            student.network, [problem.prompt for problem in solved] + prompts,
            [problem.solution for problem in solved] + responses, tokenizer=self.tokenizer,
            weights=student.weights, config=config, seed=seed,
            keep=tuple(round(0.05 * part, 2) for part in range(1, 20)),
        )  # fmt: skip
        asked = [problem.prompt for problem in others]
        for weights in tuned.kept.values():
            reader = Reader(student.network, weights)
            texts = self.write(reader, asked, samples=4, temperature=1.0, seed=seed)
            right = [problem.check(text) for problem, said in zip(others, texts, strict=True)
                     for text in said]  # fmt: skip
            if sum(right) >= enough * len(right):
                return reader
        return Reader(student.network, tuned.weights)

    def fresh(
        self, rules: Rules, count: int, *, practice: int, seed: int
    ) -> list[list[RecipeProblem]]:
        """For each rule `count` problems that a teacher of this seed has not seen solved.

        Its training ends by the first two of them; ask it about later ones.

        >>> import tempfile
        >>> school = RecipeSchool(Lab(home=tempfile.mkdtemp()), Recipes(), lessons=8)
        >>> rules = school.recipes.rules(1, seed=0)
        >>> [problem.prompt for problem in school.fresh(rules, 2, practice=1, seed=0)[0]]
        ['w d : 2 3 0 ?', 'w d : 0 0 1 ?']
        """
        return [
            self.recipes.under(name, rules[name], count, 1000 * seed + place,
                               avoid={problem.prompt for problem in known})
            for place, (name, known) in enumerate(
                zip(rules, self._practice(rules, practice, seed), strict=True)
            )
        ]  # fmt: skip

    def taught(
        self, teacher: Reader, problems: Sequence[RecipeProblem], *, samples: int, seed: int
    ) -> list[Taught]:
        """What a teacher samples for each problem, at temperature 1."""
        texts = self.write(teacher, [problem.prompt for problem in problems], samples=samples,
                           temperature=1.0, seed=seed)  # fmt: skip
        return [
            Taught(problem, [teaching_pair(problem.prompt, text) for text in said])
            for problem, said in zip(problems, texts, strict=True)
        ]

    def exam_scores(
        self, student: Reader, exams: VariantExam, taught: Sequence[Taught], *, repeats: int,
        temperature: float, seed: int,
    ) -> list[list[float]]:  # fmt: skip
        """For every sample of every problem, the student's share of right exam answers after it."""
        sat = [(pair, exam) for each in taught for exam in [exams(each.problem.prompt)]
               for pair in each.samples]  # fmt: skip
        values = demonstration_values(
            self.answering(student, temperature=temperature, seed=seed),
            [pair for pair, _ in sat], [exam for _, exam in sat], WorldCheck(),
            repeats=repeats, template=lesson_of,
        )  # fmt: skip
        rows: list[list[float]] = values.reshape(len(taught), -1).tolist()
        return rows

    def right(self, reader: Reader, problems: Sequence[RecipeProblem]) -> float:
        """Share of problems that a reader's greedy answers solve."""
        texts = self.write(reader, [problem.prompt for problem in problems])
        return _share(p.check(text) for p, (text,) in zip(problems, texts, strict=True))

    def tuned(
        self, reader: Reader, prompts: Sequence[str], responses: Sequence[str], *, epochs: float,
        rate: float, seed: int,
    ) -> Reader:  # fmt: skip
        """A reader tuned on these responses."""
        config = TrainConfig(epochs=epochs, batch_size=32, learning_rate=rate, warmup=0.05)
        weights = self._sft(reader.network, prompts, responses, reader.weights, config, seed)
        return Reader(reader.network, weights)

    def preferring(
        self, reader: Reader, pairs: Sequence[Mapping[str, Any]], *, epochs: float, rate: float,
        seed: int,
    ) -> Reader:  # fmt: skip
        """A reader after direct preference optimisation on these pairs; without any, as it is."""
        if not pairs:
            return reader
        tuned = prefer(
            self.lab, reader.network,
            *([str(pair[name]) for pair in pairs] for name in ("prompt", "chosen", "rejected")),
            tokenizer=self.tokenizer, weights=reader.weights, seed=seed,
            config=TrainConfig(epochs=epochs, batch_size=16, learning_rate=rate, warmup=0.1),
        )  # fmt: skip
        return Reader(reader.network, tuned.weights)

    def write(self, reader: Reader, prompts: Sequence[str], **options: Any) -> list[list[str]]:
        """What a reader writes; `options` as of `Lab.generate`."""
        return self.lab.generate(
            reader.network, prompts, weights=reader.weights, tokenizer=self.tokenizer,
            max_tokens=8 + 2 * self.recipes.length, batch_size=256, chunk=4096, **options,
        )  # fmt: skip

    def answering(
        self, reader: Reader, *, temperature: float, seed: int
    ) -> Callable[[list[str]], list[str]]:
        """A reader as `demonstration_value` calls a student: an answer for each prompt."""
        options = {"temperature": temperature, "seed": seed}
        return lambda prompts: [texts[0] for texts in self.write(reader, prompts, **options)]

    def exams(self, kind: str, rules: Rules, count: int, seed: int) -> VariantExam:
        """Exams under the taught problem's rule ("same"), a "neighbour" or an "unrelated" one.

        The taught problem itself is never in it.
        """
        places = {name: place for place, name in enumerate(rules)}

        def other_digits(problem: str, wanted: int, at: int) -> list[RecipeProblem]:
            name = problem.partition(" :")[0]
            place, recipe = places[name], rules[name]
            if kind == "neighbour":
                recipe = self.recipes.neighbour(recipe, 1000 * seed + place)
            elif kind == "unrelated":
                recipe = self.recipes.unrelated(recipe, 1000 * seed + place)
            shown = name if kind == "same" else name[::-1]
            return self.recipes.under(shown, recipe, wanted, 1000 * at + place, avoid={problem})

        return VariantExam(other_digits, count, 1000 * (seed + 1))

    def follows(self, reader: Reader, kind: str, rules: Rules, seed: int) -> float:
        """Share of right answers after a solved problem, told the "right" or a "wrong" recipe."""
        prompts, answers = [], []
        for place, (name, recipe) in enumerate(rules.items()):
            shown, asked = self.recipes.under(name, recipe, 2, 1000 * seed + place)
            if kind == "wrong":
                other = self.recipes.neighbour(recipe, 1000 * seed + place)
                digits = [int(word) for word in shown.prompt.split(" : ")[1].split()[:-1]]
                shown = recipe_problem(name, other, digits)
            prompts.append(lesson(shown.prompt, shown.solution, asked.prompt))
            answers.append(asked.answer)
        texts = [said[0] for said in self.write(reader, prompts)]
        return _share(answer_of(text) == a for text, a in zip(texts, answers, strict=True))

    def _practice(self, rules: Rules, count: int, seed: int) -> list[list[RecipeProblem]]:
        """The solved problems that a teacher of this seed learns each rule from."""
        return [self.recipes.under(name, recipe, count, 1000 * seed + place)
                for place, (name, recipe) in enumerate(rules.items())]  # fmt: skip

    def _sft(
        self, network: Callable[[int], Any], prompts: Sequence[str], responses: Sequence[str],
        weights: Mapping[str, Tensor] | None, config: TrainConfig, seed: int,
    ) -> Mapping[str, Tensor]:  # fmt: skip
        tuned = self.lab.sft(
            network, prompts, responses, tokenizer=self.tokenizer, weights=weights, config=config,
            seed=seed,
        )  # fmt: skip
        return tuned.weights


def teaching_pair(problem: str, text: str) -> TeachingPair:
    """A teacher's text split into rationale and answer; the answer is empty where it gives none.

    >>> teaching_pair("b k : 1 2 ?", "keep times 1 add 1 : 1 2 => 2 3")
    TeachingPair(problem='b k : 1 2 ?', rationale='keep times 1 add 1 : 1 2', answer='2 3')
    """
    return TeachingPair(problem, text.partition(f" {ANSWER}")[0], answer_of(text) or "")


def lesson_of(pair: TeachingPair, question: str) -> str:
    """What a student reads: the pair as a solved problem, then the question."""
    return lesson(pair.problem, f"{pair.rationale} {ANSWER} {pair.answer}", question)


def share_chosen_right(
    taught: Sequence[Taught], scores: Sequence[Sequence[float]] | None, rule: Rule, count: int
) -> float:
    """Share of problems of which `select_answer` takes the right one of the first samples.

    A "majority" needs no scores.

    >>> problem = recipe_problem("b k", Recipe("keep", "left"), [1, 2, 3])
    >>> samples = [TeachingPair(problem.prompt, "", answer) for answer in ("1", "1", "2 3 1")]
    >>> taught = [Taught(problem, samples)]
    >>> [share_chosen_right(taught, [[0.1, 0.0, 0.9]], rule, 3) for rule in ("majority", "sum")]
    [0.0, 1.0]
    """
    return _share(
        select_answer(
            [pair.answer for pair in each.samples[:count]],
            None if scores is None else scores[place][:count],
            rule,
        )
        == each.problem.answer
        for place, each in enumerate(taught)
    )


def _share(flags: Iterable[bool]) -> float:
    found = list(flags)
    return sum(found) / len(found)
