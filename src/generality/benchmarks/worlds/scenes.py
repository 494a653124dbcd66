"""Pictures of coloured shapes with captions, drawn by a rule and read back by the same rule."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
SHAPES = {
    "square": ("###", "###", "###"),
    "cross": ("#.#", ".#.", "#.#"),
    "ring": (".#.", "#.#", ".#."),
}
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
SKILLS = ("counting", "relation", "colour", "long")
GRID, CELL = 3, 3  # cells on a side, pixels on a side of one
SIZE = GRID * CELL
_TOLERANCE = 0.12  # mean squared error up to which a cell is what it looks like
_OBJECT = re.compile(rf"({'|'.join(NUMBERS)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")


@dataclass(frozen=True)
class Question:
    """A yes-or-no question about a picture.

    Attributes:
        kind: "shape", "colour", "count" or "relation".
        parents: places in the list of those that must be answered yes before.
        about: what is asked: shape; (colour, shape); (number, colour, shape); (relation, two of).
    """

    kind: str
    parents: tuple[int, ...]
    about: tuple[str, ...]


def scene_caption(skill: str, rng: np.random.Generator) -> str:
    """A caption that asks for a skill, at random.

    "counting": two to four of a kind; "relation": one thing beside another; "colour": two things,
    each with its colour; "long": four; "simple": one thing, or two of a kind.

    >>> scene_caption("relation", np.random.default_rng(0))
    'one yellow cross above one green square'
    """

    def thing(number: str = "one") -> str:
        return f"{number} {rng.choice(list(COLOURS))} {rng.choice(list(SHAPES))}"

    if skill == "simple":
        return thing(str(rng.choice(["one", "two"])))
    if skill == "counting":
        return thing(str(rng.choice(["two", "three", "four"])))
    if skill == "relation":
        return f"{thing()} {rng.choice(list(RELATIONS))} {thing()}"
    if skill == "colour":
        return f"{thing()} and {thing()}"
    if skill == "long":
        return " and ".join(thing() for _ in range(4))
    raise ValueError(f"a skill is simple, {', '.join(SKILLS)}, not '{skill}'")


def draw_scene(caption: str, rng: np.random.Generator) -> Float[np.ndarray, "9 9 3"]:
    """A picture that the caption describes, with everything else left to chance; in [0, 1].

    Raises:
        ValueError: it names nothing that is known, or more than nine things.
    """
    things = [
        (colour, shape)
        for number, colour, shape in _OBJECT.findall(caption)
        for _ in range(NUMBERS[number])
    ]
    if not 0 < len(things) <= GRID**2:
        raise ValueError(f"'{caption}' does not name one to nine things")
    relation = _relation(caption)
    while True:
        places = [divmod(int(c), GRID) for c in rng.choice(GRID**2, len(things), replace=False)]
        if relation is None or _beside(places[0], places[1], relation):
            break
    picture = np.zeros((SIZE, SIZE, 3), np.float32)
    for (row, column), (colour, shape) in zip(places, things, strict=True):
        picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] = _tile(
            colour, shape
        )
    return picture


def read_scene(picture: Float[np.ndarray, "9 9 3"]) -> dict[tuple[int, int], tuple[str, str]]:
    """What stands in each cell (row, column), by the nearest drawing of one thing.

    Cells that are nearest to nothing, or near no drawing, are left out.

    >>> picture = draw_scene("two red rings and one blue cross", np.random.default_rng(0))
    >>> sorted(set(read_scene(picture).values()))
    [('blue', 'cross'), ('red', 'ring')]
    """
    found = {}
    names = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    drawings = np.stack([*(_tile(*name) for name in names), np.zeros((CELL, CELL, 3), np.float32)])
    for row in range(GRID):
        for column in range(GRID):
            cell = picture[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
            errors = ((drawings - cell) ** 2).mean((1, 2, 3))
            best = int(errors.argmin())
            if best < len(names) and errors[best] <= _TOLERANCE:
                found[row, column] = names[best]
    return found


def scene_questions(caption: str) -> list[Question]:
    """What a picture must show, as questions that depend on each other.

    >>> [(q.kind, q.parents) for q in scene_questions("one red ring above one blue ring")]
    [('shape', ()), ('colour', (0,)), ('count', (1,)), ('shape', ()), ('colour', (3,)),
     ('count', (4,)), ('relation', (1, 4))]
    """
    asked: list[Question] = []
    colours = []
    for number, colour, shape in _OBJECT.findall(caption):
        start = len(asked)
        asked += [
            Question("shape", (), (shape,)),
            Question("colour", (start,), (colour, shape)),
            Question("count", (start + 1,), (number, colour, shape)),
        ]
        colours.append(start + 1)
    if relation := _relation(caption):
        about = (relation, *asked[colours[0]].about, *asked[colours[1]].about)
        asked.append(Question("relation", (colours[0], colours[1]), about))
    return asked


def answer_scene(caption: str, picture: Float[np.ndarray, "9 9 3"]) -> list[bool]:
    """The answer to each of the caption's questions, read off the picture, parents not looked at.

    A count is right where the picture shows as many as the caption names in all.
    """
    found = read_scene(picture)
    named: dict[tuple[str, str], int] = {}
    for number, colour, shape in _OBJECT.findall(caption):
        named[colour, shape] = named.get((colour, shape), 0) + NUMBERS[number]
    answers = []
    for question in scene_questions(caption):
        about = question.about
        if question.kind == "shape":
            answers.append(any(shape == about[0] for _, shape in found.values()))
        elif question.kind == "colour":
            answers.append((about[0], about[1]) in found.values())
        elif question.kind == "count":
            thing = (about[1], about[2])
            answers.append(list(found.values()).count(thing) == named[thing])
        else:
            firsts = [place for place, thing in found.items() if thing == about[1:3]]
            seconds = [place for place, thing in found.items() if thing == about[3:5]]
            answers.append(any(_beside(a, b, about[0]) for a in firsts for b in seconds if a != b))
    return answers


def _tile(colour: str, shape: str) -> np.ndarray:
    mask = np.array([[sign == "#" for sign in line] for line in SHAPES[shape]], np.float32)
    return mask[..., None] * np.array(COLOURS[colour], np.float32)


def _relation(caption: str) -> str | None:
    return next((relation for relation in RELATIONS if f" {relation} " in caption), None)


def _beside(a: tuple[int, int], b: tuple[int, int], relation: str) -> bool:
    row, column = RELATIONS[relation]
    return (a[0] - b[0]) * row > 0 if row else (a[1] - b[1]) * column > 0
