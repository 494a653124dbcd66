"""Worked problems in four formats: with or without demonstrations, with or without steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from generality.errors import unknown

Format = Literal["icl_cot", "icl_ans", "zs_cot", "zs_ans"]
"""In context or zero-shot; chain of thought or answer only."""

FORMATS: tuple[Format, ...] = get_args(Format)


@dataclass(frozen=True)
class Worked:
    """A question with its reasoning and answer."""

    question: str
    reasoning: str
    answer: str


@dataclass(frozen=True)
class Formatted:
    """What a model is given and what it should say."""

    prompt: str
    response: str
    format: Format


@dataclass(frozen=True)
class Template:
    """How a problem is written. The defaults are the paper's.

    Attributes:
        ask: around the question.
        cue: after it, where steps are wanted.
        final: around the answer.
        between: demonstrations.
    """

    ask: str = "Q: {question}\nA:"
    cue: str = " Let's think step by step."
    final: str = " The answer is {answer}."
    between: str = "\n\n"


class FormatMixer:
    """Writes problems in several formats, so that tuning on one does not lose the others.

    Source: Fu et al. 2023 (arXiv 2301.12726), section 3. There each batch has one format; here
    each example has, so that formats with long responses weigh by their tokens.

    Args:
        demonstrations: to draw those in the prompt from; never the problem itself.
        k_shot: demonstrations in a prompt, at least 1.
        template: how a problem is written.
        seed: of formats and demonstrations.

    Raises:
        ValueError: too few demonstrations.

    >>> pool = [Worked(f"{n} + 1 ?", f"{n} and one more", str(n + 1)) for n in range(3)]
    >>> mixer = FormatMixer(pool, k_shot=1)
    >>> print(mixer.write(pool[2], "zs_cot").prompt, "|", mixer.write(pool[2], "zs_cot").response)
    Q: 2 + 1 ?
    A: Let's think step by step. | 2 and one more The answer is 3.
    >>> print(mixer.write(pool[2], "icl_ans").prompt)
    Q: 0 + 1 ?
    A: The answer is 1.
    <BLANKLINE>
    Q: 2 + 1 ?
    A:
    >>> [example.format for example in mixer.mix(pool, ("icl_cot", "zs_cot"))]
    ['icl_cot', 'icl_cot', 'zs_cot']
    """

    def __init__(
        self,
        demonstrations: Sequence[Worked],
        *,
        k_shot: int = 4,
        template: Template | None = None,
        seed: int = 0,
    ) -> None:
        if k_shot < 1 or len(demonstrations) <= k_shot:
            raise ValueError(
                f"{k_shot} demonstrations a prompt need a pool of more than that and at least 1, "
                f"not {len(demonstrations)}"
            )
        self.demonstrations, self.k_shot, self.seed = demonstrations, k_shot, seed
        self.template = template or Template()

    def mix(
        self, problems: Sequence[Worked], formats: Sequence[Format] = FORMATS
    ) -> list[Formatted]:
        """Every problem once, in one of the formats: equal shares, dealt out at random.

        Raises ValueError without formats.
        """
        if not formats:
            raise ValueError(f"formats are one or more of {', '.join(FORMATS)}")
        generator = np.random.default_rng(self.seed)
        dealt = generator.permutation(np.arange(len(problems)) % len(formats))
        return [
            self.write(problem, formats[which], draw=place)
            for place, (problem, which) in enumerate(zip(problems, dealt, strict=True))
        ]

    def write(self, problem: Worked, format: Format, *, draw: int = 0) -> Formatted:  # noqa: A002
        """One problem in one format; `draw` numbers the draw of its demonstrations."""
        if format not in FORMATS:
            raise unknown("format", format, FORMATS)
        steps = format.endswith("cot")
        shown = []
        if format.startswith("icl"):
            generator = np.random.default_rng([self.seed, draw])
            order = generator.permutation(len(self.demonstrations))
            others = (self.demonstrations[i] for i in order)
            shown = [other for other in others if other.question != problem.question][: self.k_shot]
        texts = [self._prompt(other, steps) + self._response(other, steps) for other in shown]
        prompt = self.template.between.join([*texts, self._prompt(problem, steps)])
        return Formatted(prompt, self._response(problem, steps).strip(), format)

    def _prompt(self, problem: Worked, steps: bool) -> str:
        ask = self.template.ask.format(question=problem.question)
        return ask + self.template.cue if steps else ask

    def _response(self, problem: Worked, steps: bool) -> str:
        final = self.template.final.format(answer=problem.answer)
        return f" {problem.reasoning}{final}" if steps else final
