"""Operations on short lists of letters and bits: what each does, step by step, and whether a
response did it.

Every task reads its list from left to right and keeps a state, so that each problem comes with
the states that lead to its answer: the explanation a good teacher would give. Tasks of the same
kind compose (`compose`), and a teacher that errs can be had (`mistaken`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace

from generality.benchmarks.worlds.problem import Problem
from generality.errors import unknown

LETTERS = "abcdefgh"
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_MODULUS = 5  # of `sum`
_PATIENCE = 1000  # draws in a row that `avoid` forbids

State = tuple[str, ...]
Step = Callable[[State, str, str], State]
"""From the state so far, the next symbol of the list and the task's argument to the new state."""


@dataclass(frozen=True)
class StringTask:
    """One operation on a list of symbols, done symbol by symbol.

    Attributes:
        name: the words its prompts begin with.
        definition: the task in plain English.
        step: the new state from the old one, the next symbol and the argument.
        start: the state before the first symbol.
        symbols: what lists are made of, one character each.
        takes_letter: whether a letter stands between the name and the list, as in `count a : …`.
        gives_list: whether the answer is a list of letters again, so that another task can follow.
        repeats: draw each list from half of the symbols, so that they recur.
        neutral: a symbol that changes nothing; half of the lists are made of it alone, so that
            "and" is not nearly always 0.
        halves: the list is shown as two sorted ones and read in the order of a merge.
    """

    name: str
    definition: str
    step: Step = field(repr=False)
    start: State = ()
    symbols: str = LETTERS
    takes_letter: bool = False
    gives_list: bool = True
    repeats: bool = False
    neutral: str = ""
    halves: bool = False

    def sample(
        self, count: int, length: int | tuple[int, int], seed: int, *, avoid: Container[str] = ()
    ) -> list[Problem]:
        """Problems drawn independently (short lists recur); the same for the same arguments.

        Args:
            count: how many.
            length: symbols in a list, at least 1 (`merge`: 2): a number, or the least and the most.
            seed: of the draws.
            avoid: prompts that must not come, such as those of the training set.

        Raises:
            ValueError: a length below that, or nothing new was drawn in 1000 tries.

        >>> for problem in string_task("sort").sample(2, (3, 4), seed=0):
        ...     print(problem.prompt, "|", trace(problem))
        sort : c h b c ? | c ; c h ; b c h ; b c c h => b c c h
        sort : g g e c ? | g ; g g ; e g g ; c e g g => c e g g
        """
        low, high = (length, length) if isinstance(length, int) else length
        least = 2 if self.halves else 1
        if not least <= low <= high:
            raise ValueError(f"lists of '{self.name}' have at least {least} symbols, not {length}")
        rng = random.Random(f"{self.name}/{seed}")
        found: list[Problem] = []
        refused = 0
        while len(found) < count:
            symbols, letter = self._draw(rng.randint(low, high), rng)
            problem = self.problem(symbols, letter)
            if problem.prompt not in avoid:
                found.append(problem)
                refused = 0
                continue
            refused += 1
            if refused == _PATIENCE:
                raise ValueError(
                    f"no '{self.name}' of length {length} is left beside those to avoid"
                )
        return found

    def problem(self, symbols: str, letter: str = "") -> Problem:
        """The problem of this list, such as "cab"; `letter` for tasks that take one.

        >>> string_task("count").problem("caba", letter="a")
        Problem(task='count', prompt='count a : c a b a ?', states=('0', '1', '1', '2'), answer='2')
        """
        states = [" ".join(state) for state in self.states(symbols, letter)]
        shown = " ".join(symbols)
        if self.halves:
            middle = (len(symbols) + 1) // 2
            shown = " , ".join(
                " ".join(sorted(half)) for half in (symbols[:middle], symbols[middle:])
            )
        words = [self.name, *letter, ":", shown, "?"]
        return Problem(self.name, " ".join(words), tuple(states), states[-1])

    def states(self, symbols: str, letter: str = "") -> list[State]:
        """The state after each symbol of the list."""
        if bool(letter) != self.takes_letter:
            raise ValueError(f"'{self.name}' takes {'a' if self.takes_letter else 'no'} letter")
        state, found = self.start, []
        for symbol in sorted(symbols) if self.halves else symbols:
            state = self.step(state, symbol, letter)
            found.append(state)
        return found

    def read(self, prompt: str) -> tuple[str, str]:
        """The list and the letter of a prompt of this task.

        >>> string_task("count").read("count a : c a b a ?")
        ('caba', 'a')
        """
        head, _, tail = prompt.partition(":")
        symbols = "".join(word for word in tail.split() if word not in (",", "?"))
        letter = "".join(head.split()[len(self.name.split()) :])
        return symbols, letter

    def _draw(self, length: int, rng: random.Random) -> tuple[str, str]:
        pool = self.symbols
        if self.repeats:
            pool = "".join(rng.sample(pool, max(2, len(pool) // 2)))
        symbols = "".join(rng.choice(pool) for _ in range(length))
        if self.neutral and rng.random() < 0.5:
            symbols = self.neutral * length
        return symbols, rng.choice(pool) if self.takes_letter else ""


def _insert(state: State, symbol: str, _: str) -> State:
    return tuple(sorted((*state, symbol)))


def _swap(state: State, symbol: str, _: str) -> State:
    """The ends of the longer list swapped, from the shorter list with its ends swapped."""
    if len(state) < 2:
        return (symbol, *state)
    last, *middle, first = state
    return (symbol, *middle, last, first)


TASKS: dict[str, StringTask] = {
    task.name: task
    for task in (
        StringTask("copy", "Write the list as it is.", lambda s, x, _: (*s, x)),
        StringTask("reverse", "Write the list from its end to its start.", lambda s, x, _: (x, *s)),
        StringTask("sort", "Write the list in the order of the alphabet.", _insert),
        StringTask(
            "dedupe", "Write the list without the letters that came before in it.",
            lambda s, x, _: s if x in s else (*s, x), repeats=True,
        ),
        StringTask(
            "successor", "Write for each letter the one that follows it in the alphabet.",
            lambda s, x, _: (*s, _ALPHABET[(_ALPHABET.index(x) + 1) % len(_ALPHABET)]),
        ),
        StringTask("swap", "Write the list with its first and last letter exchanged.", _swap),
        StringTask(
            "merge", "Merge two sorted lists into a sorted one.",
            lambda s, x, _: (*s, x), halves=True,
        ),
        StringTask(
            "first", "Write the first letter of the list.",
            lambda s, x, _: s or (x,), gives_list=False,
        ),
        StringTask(
            "last", "Write the last letter of the list.", lambda s, x, _: (x,), gives_list=False
        ),
        StringTask(
            "max", "Write the letter of the list that comes last in the alphabet.",
            lambda s, x, _: (max((*s, x)),), gives_list=False,
        ),
        StringTask(
            "count", "Count how often the letter is in the list.",
            lambda s, x, letter: (str(int(s[0]) + (x == letter)),), start=("0",),
            takes_letter=True, gives_list=False, repeats=True,
        ),
        StringTask(
            "and", "Write 1 if every bit of the list is 1, else 0.",
            lambda s, x, _: (min(s[0], x),), start=("1",), symbols="01", gives_list=False,
            neutral="1",
        ),
        StringTask(
            "or", "Write 1 if any bit of the list is 1, else 0.",
            lambda s, x, _: (max(s[0], x),), start=("0",), symbols="01", gives_list=False,
            neutral="0",
        ),
        StringTask(
            "sum", f"Add the digits of the list and write the sum modulo {_MODULUS}.",
            lambda s, x, _: (str((int(s[0]) + int(x)) % _MODULUS),), start=("0",),
            symbols="01234", gives_list=False,
        ),
    )
}  # fmt: skip
"""The tasks by name; the names are words that `world_tokenizer` must be given as `extra`."""


def string_task(name: str, *, letters: str = LETTERS) -> StringTask:
    """The task of this name; tasks over letters draw them from `letters`.

    >>> string_task("reverse", letters="xyz").sample(1, 4, seed=0)[0].answer
    'y x x x'
    """
    if name not in TASKS:
        raise unknown("string task", name, TASKS)
    task = TASKS[name]
    return replace(task, symbols=letters) if task.symbols == LETTERS else task


def compose(first: StringTask, second: StringTask) -> StringTask:
    """The task that does `first`, then `second` on what came of it.

    Its states are those of `second` on the result of `first` for each beginning of the list, so
    that it has as many of them as any task of that length.

    Raises:
        ValueError: the first gives no list of letters, takes a letter or is a merge; or the
            second does not read a single list of letters.

    >>> both = compose(string_task("reverse"), string_task("successor"))
    >>> both.problem("cab")
    Problem(task='reverse successor', prompt='reverse successor : c a b ?',
            states=('d', 'b d', 'c b d'), answer='c b d')
    """
    if not first.gives_list or first.takes_letter or first.halves:
        raise ValueError(f"'{first.name}' cannot come before another task")
    if second.halves or second.symbols != first.symbols:
        raise ValueError(f"'{second.name}' cannot come after another task")
    return _Composed(
        f"{first.name} {second.name}",
        f"First: {first.definition} Then, on the result: {second.definition}",
        second.step,
        symbols=first.symbols,
        takes_letter=second.takes_letter,
        gives_list=second.gives_list,
        repeats=first.repeats or second.repeats,
        parts=(first, second),
    )


@dataclass(frozen=True)
class _Composed(StringTask):
    parts: tuple[StringTask, ...] = ()

    def states(self, symbols: str, letter: str = "") -> list[State]:
        first, second = self.parts
        between = ["".join(state) for state in first.states(symbols)]
        return [second.states(shorter, letter)[-1] for shorter in between]


def trace(problem: Problem, *, every: int = 1) -> str:
    """The states that lead to the answer, then the answer; `every=2` leaves out every other state.

    The last state is always there.

    >>> problem = string_task("reverse").problem("cabd")
    >>> trace(problem)
    'c ; a c ; b a c ; d b a c => d b a c'
    >>> trace(problem, every=2)
    'a c ; d b a c => d b a c'
    """
    if every < 1:
        raise ValueError(f"every is at least 1, not {every}")
    kept = problem.states[::-1][::every][::-1]
    return f"{' ; '.join(kept)} => {problem.answer}"


def terse(problem: Problem) -> str:
    """The answer alone.

    >>> terse(string_task("reverse").problem("cab"))
    '=> b a c'
    """
    return f"=> {problem.answer}"


def mistaken(problem: Problem, seed: int) -> Problem:
    """The problem as solved by someone who took one wrong step, and went on from there.

    One symbol of one state is replaced by another, and the later states follow from it, so that
    the explanation is consistent but for one step, and the answer is wrong. (Where later steps
    repair the error, as they do for "last", it is the last step that goes wrong.)

    >>> problem = string_task("reverse").problem("cab")
    >>> wrong = mistaken(problem, seed=0)
    >>> trace(wrong), problem.check(trace(wrong))
    ('f ; a f ; b a f => b a f', False)
    """
    task = _task_of(problem)
    symbols, letter = task.read(problem.prompt)
    order = sorted(symbols) if task.halves else list(symbols)
    rng = random.Random(f"{problem.prompt}/{seed}")
    slip = rng.randrange(len(order))
    for at in (slip, len(order) - 1):
        states = [tuple(state.split()) for state in problem.states[:at]]
        states.append(_changed(tuple(problem.states[at].split()), task, rng))
        for symbol in order[at + 1 :]:
            states.append(task.step(states[-1], symbol, letter))
        if states[-1] != tuple(problem.answer.split()):
            break
    shown = tuple(" ".join(state) for state in states)
    return Problem(problem.task, problem.prompt, shown, shown[-1])


def _changed(state: State, task: StringTask, rng: random.Random) -> State:
    """The state with one of its symbols replaced."""
    place = rng.randrange(len(state))
    pool = "01234" if state[place].isdigit() and task.symbols != "01" else task.symbols
    other = rng.choice([symbol for symbol in pool if symbol != state[place]])
    return (*state[:place], other, *state[place + 1 :])


def _task_of(problem: Problem) -> StringTask:
    if problem.task not in TASKS:
        raise unknown("string task", problem.task, TASKS)
    return TASKS[problem.task]
