"""Recipes for short strings of digits: rules with names, that can be told in words and followed.

A rule puts the digits in another order, then multiplies and adds to each, modulo 5 or 10. Its name
says nothing about it. Who knows the rule can tell it (`reverse times 2 add 4`); who is told it can
apply it to other digits: a world in which one model can teach another, and be checked.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Container
from dataclasses import dataclass, replace

import numpy as np

from generality.benchmarks.worlds.problem import ANSWER, Problem

ORDERS: dict[str, Callable[[list[int]], list[int]]] = {
    "keep": lambda x: x,
    "reverse": lambda x: x[::-1],
    "left": lambda x: x[1:] + x[:1],
    "right": lambda x: x[-1:] + x[:-1],
}
"""What a recipe may do with the places of digits; all differ from three digits on."""

RECIPE_WORDS = (*ORDERS, "times", "add")
"""Words beyond those of `world_tokenizer`: give them as `extra`."""


@dataclass(frozen=True)
class Recipe:
    """An order of places and, for each digit, times · digit + add.

    >>> str(Recipe("reverse", 2, 4)), Recipe("reverse", 2, 4)([1, 2, 3, 4])
    ('reverse times 2 add 4', [2, 0, 3, 1])
    """

    order: str
    times: int
    add: int
    modulus: int = 5

    def __call__(self, digits: list[int]) -> list[int]:
        """The digits after it."""
        ordered = ORDERS[self.order](digits)
        return [(self.times * digit + self.add) % self.modulus for digit in ordered]

    def __str__(self) -> str:
        return f"{self.order} times {self.times} add {self.add}"


def told(response: str) -> str:
    """The recipe that a response states, without its application; empty where there is none.

    >>> told("left times 1 add 4 : 3 2 => 2 1"), told("3 2 => 2 1")
    ('left times 1 add 4', '')
    """
    recipe, colon, _ = response.partition(" : ")
    return recipe if colon else ""


@dataclass(frozen=True)
class RecipeProblem(Problem):
    """What does the rule of this name make of these digits?

    Attributes:
        name: of the rule, two letters.
        recipe: what the rule is; the prompt does not say it.
    """

    name: str = ""
    recipe: Recipe = Recipe("keep", 1, 0)

    @property
    def working(self) -> str:
        """The digits in their new order, then the answer: what a student writes."""
        return f"{self.states[0]} {ANSWER} {self.answer}"

    @property
    def solution(self) -> str:
        """The recipe, then its application: what a teacher writes."""
        return f"{self.recipe} : {self.working}"


def recipe_problem(name: str, recipe: Recipe, digits: list[int]) -> RecipeProblem:
    """One problem.

    >>> problem = recipe_problem("b k", Recipe("reverse", 2, 4), [1, 2, 3, 4])
    >>> problem.prompt, problem.solution
    ('b k : 1 2 3 4 ?', 'reverse times 2 add 4 : 4 3 2 1 => 2 0 3 1')
    """
    ordered = " ".join(map(str, ORDERS[recipe.order](digits)))
    result = " ".join(map(str, recipe(digits)))
    prompt = f"{name} : {' '.join(map(str, digits))} ?"
    return RecipeProblem("recipe", prompt, (ordered, result), result, name, recipe)


@dataclass(frozen=True)
class Recipes:
    """A source of rules and of problems under them.

    Args:
        length: digits in a string, at least 3 for all orders to differ.
        multipliers: what a recipe may multiply by; those without a common divisor with the modulus
            can be undone.
        modulus: of all digits; 10 takes tiny models several times as long to learn as 5.

    >>> recipes = Recipes()
    >>> [(name, recipe)] = recipes.rules(1, seed=0).items()
    >>> [problem.prompt for problem in recipes.under(name, recipe, 2, seed=0)]
    ['w d : 4 3 2 ?', 'w d : 1 1 0 ?']
    """

    length: int = 3
    multipliers: tuple[int, ...] = (1, 2)
    modulus: int = 5

    def draw(self, generator: np.random.Generator) -> Recipe:
        """One recipe of all there are."""
        return Recipe(
            str(generator.choice(list(ORDERS))),
            int(generator.choice(self.multipliers)),
            int(generator.integers(self.modulus)),
            self.modulus,
        )

    def rules(self, count: int, seed: int) -> dict[str, Recipe]:
        """Recipes by the rules' names, at most 676; no name recurs, a recipe may."""
        generator = np.random.default_rng(seed)
        letters = string.ascii_lowercase
        if not 1 <= count <= len(letters) ** 2:
            raise ValueError(f"there are names for 1 to {len(letters) ** 2} rules, not {count}")
        places = generator.choice(len(letters) ** 2, size=count, replace=False)
        names = (f"{letters[place // 26]} {letters[place % 26]}" for place in places.tolist())
        return {name: self.draw(generator) for name in names}

    def under(
        self, name: str, recipe: Recipe, count: int, seed: int, *, avoid: Container[str] = ()
    ) -> list[RecipeProblem]:
        """Different problems under one rule, none of them among the prompts in `avoid`."""
        generator = np.random.default_rng(seed)
        found: dict[str, RecipeProblem] = {}
        for _ in range(100 * count):
            digits = generator.integers(self.modulus, size=self.length).tolist()
            problem = recipe_problem(name, recipe, digits)
            if problem.prompt not in avoid:
                found.setdefault(problem.prompt, problem)
            if len(found) == count:
                return list(found.values())
        raise ValueError(f"no {count} problems of {self.length} digits are left under {name}")

    def neighbour(self, recipe: Recipe, seed: int) -> Recipe:
        """A recipe that differs in exactly one of its parts.

        >>> str(Recipes().neighbour(Recipe("reverse", 2, 4), seed=0))
        'right times 2 add 4'
        """
        generator = np.random.default_rng(seed)
        while True:
            other = self.draw(generator)
            part = str(generator.choice(["order", "times", "add"]))
            changed = replace(recipe, **{part: getattr(other, part)})
            if changed != recipe:
                return changed

    def lessons(self, count: int, seed: int) -> tuple[list[str], list[str]]:
        """Prompts and responses from which a student learns to follow recipes.

        Each prompt is a problem and its recipe; the response applies it, then asks another problem
        of the same rule and solves that. All rules are new, names mean nothing.

        >>> prompts, responses = Recipes().lessons(1, seed=0)
        >>> print(prompts[0], responses[0], sep="\\n")
        w q : 0 0 0 ? left times 1 add 1 :
        0 0 0 => 1 1 1 ; w q : 0 4 3 ? 4 3 0 => 0 4 1
        """
        generator = np.random.default_rng(seed)
        prompts, responses = [], []
        for _ in range(count):
            name = " ".join(generator.choice(list(string.ascii_lowercase), size=2))
            recipe = self.draw(generator)
            shown, asked = (
                recipe_problem(name, recipe, digits.tolist())
                for digits in generator.integers(self.modulus, size=(2, self.length))
            )
            prompts.append(f"{shown.prompt} {recipe} :")
            responses.append(f"{shown.working} ; {asked.prompt} {asked.working}")
        return prompts, responses


def lesson(problem: str, solution: str, question: str) -> str:
    """A solved problem, then a question: what the student reads.

    >>> lesson("b k : 1 2 ?", "keep times 1 add 1 : 1 2 => 2 3", "b k : 4 4 ?")
    'b k : 1 2 ? keep times 1 add 1 : 1 2 => 2 3 ; b k : 4 4 ?'
    """
    return f"{problem} {solution} ; {question}"
