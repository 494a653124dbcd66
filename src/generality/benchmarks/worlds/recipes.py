"""Recipes for short strings of digits: rules with names, that can be told in words and followed.

A rule moves the digits, twice. Its name says nothing about it. Who knows the rule can tell it
(`reverse left`); who is told it can apply it to other digits: a world in which one model can teach
another, and be checked. (Rules that add numbers took tiny models too long to learn.)
"""

from __future__ import annotations

import string
from collections.abc import Callable, Container
from dataclasses import dataclass, replace

import numpy as np

from generality.benchmarks.worlds.problem import ANSWER, Problem

MOVES: dict[str, Callable[[list[int]], list[int]]] = {
    "keep": lambda x: x,
    "reverse": lambda x: x[::-1],
    "left": lambda x: x[1:] + x[:1],
    "right": lambda x: x[-1:] + x[:-1],
    "first": lambda x: x[:1] * len(x),
    "last": lambda x: x[-1:] * len(x),
}
"""What a step of a recipe does; all differ from three digits on."""

RECIPE_WORDS = tuple(MOVES)
"""Words beyond those of `world_tokenizer`: give them as `extra`."""


@dataclass(frozen=True)
class Recipe:
    """Two moves, one after the other.

    >>> str(Recipe("reverse", "left")), Recipe("reverse", "left")([1, 2, 3])
    ('reverse left', [2, 1, 3])
    """

    first: str
    second: str

    def __call__(self, digits: list[int]) -> list[int]:
        """The digits after both moves."""
        return MOVES[self.second](MOVES[self.first](digits))

    def __str__(self) -> str:
        return f"{self.first} {self.second}"

    def same_as(self, other: Recipe, length: int = 3) -> bool:
        """Whether both do the same to any string of this length; 36 recipes do 9 things to three.

        >>> Recipe("left", "left").same_as(Recipe("keep", "right"))
        True
        """
        return self(list(range(length))) == other(list(range(length)))


@dataclass(frozen=True)
class RecipeProblem(Problem):
    """What does the rule of this name make of these digits?

    Attributes:
        name: of the rule, two letters.
        recipe: what the rule is; the prompt does not say it.
    """

    name: str = ""
    recipe: Recipe = Recipe("keep", "keep")

    @property
    def solution(self) -> str:
        """The recipe, the digits after its first move, the answer."""
        return f"{self.recipe} : {self.states[0]} {ANSWER} {self.answer}"


def recipe_problem(name: str, recipe: Recipe, digits: list[int]) -> RecipeProblem:
    """One problem.

    >>> problem = recipe_problem("b k", Recipe("reverse", "left"), [1, 2, 3])
    >>> problem.prompt, problem.solution
    ('b k : 1 2 3 ?', 'reverse left : 3 2 1 => 2 1 3')
    """
    between = " ".join(map(str, MOVES[recipe.first](digits)))
    result = " ".join(map(str, recipe(digits)))
    prompt = f"{name} : {' '.join(map(str, digits))} ?"
    return RecipeProblem("recipe", prompt, (between, result), result, name, recipe)


@dataclass(frozen=True)
class Recipes:
    """A source of rules and of problems under them.

    Args:
        length: digits in a string, at least 3 for all moves to differ.

    >>> recipes = Recipes()
    >>> [(name, recipe)] = recipes.rules(1, seed=0).items()
    >>> [problem.prompt for problem in recipes.under(name, recipe, 2, seed=0)]
    ['w d : 8 6 5 ?', 'w d : 2 3 0 ?']
    """

    length: int = 3

    def draw(self, generator: np.random.Generator) -> Recipe:
        """One recipe of all there are."""
        return Recipe(*map(str, generator.choice(list(MOVES), size=2)))

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
            digits = generator.integers(10, size=self.length).tolist()
            problem = recipe_problem(name, recipe, digits)
            if problem.prompt not in avoid:
                found.setdefault(problem.prompt, problem)
            if len(found) == count:
                return list(found.values())
        raise ValueError(f"no {count} problems of {self.length} digits are left under {name}")

    def neighbour(self, recipe: Recipe, seed: int) -> Recipe:
        """A recipe that shares one move with this one and does something else.

        >>> str(Recipes().neighbour(Recipe("reverse", "left"), seed=0))
        'last left'
        """
        generator = np.random.default_rng(seed)
        while True:
            other = self.draw(generator)
            part = "first" if generator.random() < 0.5 else "second"
            near = replace(recipe, **{part: getattr(other, part)})
            if not near.same_as(recipe, self.length):
                return near

    def unrelated(self, recipe: Recipe, seed: int) -> Recipe:
        """A recipe of which no move is in the same place, and that does something else."""
        generator = np.random.default_rng(seed)
        while True:
            other = self.draw(generator)
            apart = other.first != recipe.first and other.second != recipe.second
            if apart and not other.same_as(recipe, self.length):
                return other

    def lessons(self, count: int, seed: int) -> tuple[list[str], list[str]]:
        """Prompts and responses from which a student learns to follow recipes.

        Each prompt is a problem and its recipe; the response applies it, then asks another problem
        of the same rule and solves that, the recipe said again. All rules are new, names mean
        nothing.

        >>> prompts, responses = Recipes().lessons(1, seed=0)
        >>> print(prompts[0], responses[0], sep="\\n")
        w q : 3 0 0 ? right reverse :
        0 3 0 => 0 3 0 ; w q : 0 1 8 ? right reverse : 8 0 1 => 1 0 8
        """
        generator = np.random.default_rng(seed)
        prompts, responses = [], []
        for _ in range(count):
            name = " ".join(generator.choice(list(string.ascii_lowercase), size=2))
            recipe = self.draw(generator)
            shown, asked = (
                recipe_problem(name, recipe, digits.tolist())
                for digits in generator.integers(10, size=(2, self.length))
            )
            prompts.append(f"{shown.prompt} {recipe} :")
            applied = shown.solution.partition(" : ")[2]
            responses.append(f"{applied} ; {asked.prompt} {asked.solution}")
        return prompts, responses


def lesson(problem: str, solution: str, question: str) -> str:
    """A solved problem, then a question: what the student reads.

    >>> lesson("b k : 1 2 3 ?", "keep left : 1 2 3 => 2 3 1", "b k : 4 4 5 ?")
    'b k : 1 2 3 ? keep left : 1 2 3 => 2 3 1 ; b k : 4 4 5 ?'
    """
    return f"{problem} {solution} ; {question}"
