"""Tiny teachers and students of the world of recipes, and what they write."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
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
from generality.selection import TeachingPair, VariantExam

Rules = Mapping[str, Recipe]


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

        Of ten checkpoints it is the first of which a share of `enough` samples is right on other
        problems of the rules; the last, where none is. So that teachers err alike at any size.
        """
        solved, others = [], []
        for place, (name, recipe) in enumerate(rules.items()):
            problems = self.recipes.under(name, recipe, practice, 1000 * seed + place)
            seen = {problem.prompt for problem in problems}
            later = self.recipes.under(name, recipe, 4, 1000 * seed + place, avoid=seen)
            solved += problems
            others += later[2:]  # the first two are for who asks the teacher
        prompts, responses = self.recipes.lessons(len(solved), seed + 1)
        config = TrainConfig(epochs=epochs, batch_size=32, learning_rate=rate, warmup=0.05)
        tuned = self.lab.sft(
            student.network, [problem.prompt for problem in solved] + prompts,
            [problem.solution for problem in solved] + responses, tokenizer=self.tokenizer,
            weights=student.weights, config=config, seed=seed,
            keep=tuple(round(0.1 * tenth, 1) for tenth in range(1, 10)),
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

    def tuned(
        self, reader: Reader, prompts: Sequence[str], responses: Sequence[str], *, epochs: float,
        rate: float, seed: int,
    ) -> Reader:  # fmt: skip
        """A reader tuned on these responses."""
        config = TrainConfig(epochs=epochs, batch_size=32, learning_rate=rate, warmup=0.05)
        weights = self._sft(reader.network, prompts, responses, reader.weights, config, seed)
        return Reader(reader.network, weights)

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
        right = [answer_of(text) == answer for text, answer in zip(texts, answers, strict=True)]
        return sum(right) / len(right)

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
