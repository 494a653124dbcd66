"""Judges: is this response right? A score in [0, 1] from prompt, response and reference."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal, Protocol

from generality.errors import import_extra
from generality.models.chat import Chat

_NUMBER = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+−]?\.\d+")
_FENCE = re.compile(r"```[\w+-]*\n(.*?)```|\[BEGIN\]\n?(.*?)\[DONE\]", re.DOTALL)


class Judge(Protocol):
    """From a prompt, a response and a reference to a score in [0, 1]; right is at least 0.5.

    Anything callable in this way will do. Those here are dataclasses, so a memoised step tells
    them apart by their settings.
    """

    def __call__(self, prompt: str, response: str, reference: Any) -> float:
        """How right the response is."""


@dataclass(frozen=True)
class NumberMatch:
    """Right when the response's final number is the reference's.

    Args:
        engine: "math-verify" parses LaTeX, fractions, sets and units with the package of that
            name (extra `llm`); "last-number" compares the last decimal number of both texts and
            nothing else, so it gets `1/2` against `0.5` wrong; "auto" is the first where it is
            installed. The attribute says which one it became.
        tolerance: relative, of "last-number".

    Raises:
        UserError: math-verify is asked for by name and not installed.

    >>> judge = NumberMatch("last-number")
    >>> judge("", "so 3 + 4 = 7. #### 1,007.0", "1007"), judge("", "I cannot say", "7")
    (1.0, 0.0)
    """

    engine: Literal["auto", "math-verify", "last-number"] = "auto"
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if self.engine not in ("auto", "math-verify", "last-number"):
            raise ValueError(
                f"engine is 'auto', 'math-verify' or 'last-number', not '{self.engine}'"
            )
        if self.engine == "auto":
            there = find_spec("math_verify") is not None
            object.__setattr__(self, "engine", "math-verify" if there else "last-number")
        elif self.engine == "math-verify":
            import_extra("math_verify", "llm")

    def __call__(self, prompt: str, response: str, reference: Any) -> float:
        """1 where the numbers agree; 0 where they do not or there is none."""
        if self.engine == "math-verify":
            package: Any = import_extra("math_verify", "llm")
            options = {"parsing_timeout": None}  # its own timer works in the main thread only
            logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that there is none
            wanted, found = (package.parse(str(text), **options) for text in (reference, response))
            return float(package.verify(wanted, found, timeout_seconds=None))
        wanted, found = last_number(str(reference)), last_number(response)
        if wanted is None or found is None:
            return 0.0
        return float(math.isclose(wanted, found, rel_tol=self.tolerance, abs_tol=self.tolerance))


def last_number(text: str) -> float | None:
    """The last decimal number in a text, thousands separated by commas or not.

    >>> last_number("from 12 to −1,234.5 dollars."), last_number("none")
    (-1234.5, None)
    """
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "").replace("−", "-")) if found else None


@dataclass(frozen=True)
class ExactMatch:
    """Right when response and reference are the same text, but for white space and case.

    Args:
        extract: takes the answer out of the response first; None: all of it.
        ignore_case: of both.

    >>> ExactMatch()("", " Paris\\n", "paris"), ExactMatch(ignore_case=False)("", "Paris", "paris")
    (1.0, 0.0)
    """

    extract: Callable[[str], str | None] | None = None
    ignore_case: bool = True

    def __call__(self, prompt: str, response: str, reference: Any) -> float:
        """1 or 0."""
        answer = response if self.extract is None else self.extract(response)
        return float(answer is not None and self._normal(answer) == self._normal(str(reference)))

    def _normal(self, text: str) -> str:
        text = " ".join(text.split())
        return text.casefold() if self.ignore_case else text


@dataclass(frozen=True)
class WorldCheck:
    """Right when the words after a response's last `=>` are the reference: the tasks of
    `generality.benchmarks.worlds`, whatever the style of the steps before.

    >>> WorldCheck()("a = 3 ; a ?", "a = 3 => 3", "3"), WorldCheck()("a = 3 ; a ?", "3", "3")
    (1.0, 0.0)
    """

    def __call__(self, prompt: str, response: str, reference: Any) -> float:
        """1 or 0."""
        from generality.benchmarks.worlds import answer_of

        return float(answer_of(response) == str(reference))


@dataclass(frozen=True)
class UnitTests:
    """Right when the response's code passes the reference's tests, in the sandbox.

    The code is the last fenced block, or what stands between `[BEGIN]` and `[DONE]`, or the whole
    response. The reference is a text of assertions, or a list of them.

    Args:
        seconds: for code and tests together.
        memory: bytes.

    >>> UnitTests()("Write f.", "```python\\nf = abs\\n```", ["assert f(-1) == 1"])
    1.0
    """

    seconds: float = 5.0
    memory: int = 256 * 2**20

    def __call__(self, prompt: str, response: str, reference: Any) -> float:
        """1 where every test passes, 0 otherwise, a time-out or a syntax error included."""
        return self.many([prompt], [response], [reference])[0]

    def many(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[Any]
    ) -> list[float]:
        """The same for many, in one worker of the sandbox."""
        from generality.lab import sandbox

        programs = []
        for response, tests in zip(responses, references, strict=True):
            written = tests if isinstance(tests, str) else "\n".join(tests)
            programs.append(f"{code_of(response)}\n\n{written}\n")
        ended = sandbox.run_many(programs, seconds=self.seconds, memory=self.memory)
        return [float(result.ok) for result in ended]


def code_of(response: str) -> str:
    """The code in a response: its last fenced or bracketed block, or all of it.

    >>> code_of("Here it is:\\n```python\\nx = 1\\n```\\nDone.")
    'x = 1\\n'
    """
    blocks = _FENCE.findall(response)
    return next((part for part in blocks[-1] if part), "") if blocks else response


def reference_text(value: Any) -> str:
    """A record's reference as one text: a list of assertions line by line; "" for none.

    >>> reference_text(["assert f(1) == 1", "assert f(2) == 4"]), reference_text(0)
    ('assert f(1) == 1\\nassert f(2) == 4', '0')
    """
    if value is None:
        return ""
    return "\n".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


@dataclass(frozen=True)
class Majority:
    """Right when at least `tau` of `n` independent responses to the prompt agree with it.

    No reference is looked at: this is agreement, and a systematic error of the solver agrees too.

    Args:
        solve: from a prompt and n to n responses.
        n: how many are drawn.
        tau: how many must agree, in 1 … n.
        answer: what is compared of a response; None: the words after its last `=>`.

    >>> judge = Majority(lambda prompt, n: ["=> 3", "=> 3", "=> 4"][:n])
    >>> judge("a = 3 ; a ?", "a = 3 => 3", None), judge("a = 3 ; a ?", "=> 4", None)
    (1.0, 0.0)
    """

    solve: Callable[[str, int], Sequence[str]]
    n: int = 3
    tau: int = 2
    answer: Callable[[str], str | None] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.tau <= self.n:
            raise ValueError(f"tau is in 1 … {self.n}, not {self.tau}")

    def __call__(self, prompt: str, response: str, reference: Any = None) -> float:
        """1 or 0; 0 for a response without an answer."""
        own = self._answer(response)
        if own is None:
            return 0.0
        votes = [self._answer(other) for other in self.solve(prompt, self.n)]
        return float(votes.count(own) >= self.tau)

    def _answer(self, response: str) -> str | None:
        if self.answer is not None:
            return self.answer(response)
        from generality.benchmarks.worlds import answer_of

        return answer_of(response)


_QUESTION = """Question: {prompt}

Reference answer: {reference}

Proposed answer: {response}

Does the proposed answer say the same as the reference answer? Reply with one word, Yes or No."""


@dataclass
class ModelJudge:
    """Right when a language model says so. An option, never the only evidence.

    Args:
        chat: who is asked (`generality.models.Chat`).
        template: the question, with {prompt}, {response} and {reference}.

    Attributes:
        unclear: replies that began with neither yes nor no; each counts as 0 and warns once.

    >>> from generality.models import RecordedChat
    >>> judge = ModelJudge(RecordedChat(["Yes."]))
    >>> judge("Capital of France?", "It is Paris", "Paris")
    1.0
    """

    chat: Chat
    template: str = _QUESTION
    unclear: int = field(default=0, compare=False)

    @property
    def fingerprint(self) -> str:
        """The model and the question."""
        return f"{self.chat.fingerprint}:{self.template}"

    def __call__(self, prompt: str, response: str, reference: Any) -> float:
        """1 for yes, 0 otherwise."""
        question = self.template.format(prompt=prompt, response=response, reference=reference)
        said = self.chat([{"role": "user", "content": question}], max_tokens=8)
        word = re.match(r"\W*(\w+)", said)
        verdict = word.group(1).casefold() if word else ""
        if verdict not in ("yes", "no"):
            if not self.unclear:
                warnings.warn(f"the judge's reply is neither yes nor no: {said!r}", stacklevel=2)
            self.unclear += 1
        return float(verdict == "yes")
