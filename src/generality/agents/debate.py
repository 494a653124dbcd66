"""Two copies of a strong model argue for opposite answers, so that a weak reader judges better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from generality.errors import UserError
from generality.models.chat import Chat

Generate = Callable[..., list[str]]
"""generate(prompts) -> one text per prompt; `max_tokens`, `temperature` and `seed` are passed too
if it takes keywords of these names (`functools.partial` of `Lab.generate`, for example)."""

Judge = Callable[[list[str]], Sequence[float]]
"""From questions with their transcripts to the probability in [0, 1] of the second answer."""

SPEAKERS = ("A", "B")

TEMPLATE = (
    "{question}\n\nDebater {speaker} argues that the answer is: {answer}.\n"
    "{others}{said}Debater {speaker}, in at most {words} words:"
)
SYSTEM = (
    "You are debater {speaker}. Argue that the answer to the question is: {answer}. {others}"
    "Quote evidence, point out what is wrong in what was said before, and use at most {words} "
    "words."
)


@dataclass(frozen=True)
class Turn:
    """What one speaker said at a time.

    Attributes:
        speaker: "A" or "B".
        answer: 0 or 1, the answer it argued for.
        text: what it said.
    """

    speaker: str
    answer: int
    text: str


@dataclass(frozen=True)
class Transcript:
    """Everything that was said about one question, in order.

    Attributes:
        question: what it was about.
        answers: the two possible answers.
        turns: in order of speaking.
        beliefs: the judge's probability of the second answer before and after each turn, where
            there was a judge.
    """

    question: str
    answers: tuple[str, str]
    turns: tuple[Turn, ...] = ()
    beliefs: tuple[float, ...] = ()

    def to_context(
        self,
        max_tokens: int | None = None,
        speakers: Sequence[str] = SPEAKERS,
        tokenizer: Any = None,
    ) -> str:
        """The turns as text, with the same budget for every speaker.

        Where a speaker has said more than max_tokens // len(speakers), all its turns are cut to one
        length (shorter ones stay whole), so that neither the last speaker nor the last turn pays
        for the length of the others. What one leaves unused is not given to the other.

        Args:
            max_tokens: of all speakers together, tags not counted; None: nothing is cut.
            speakers: whose turns to give. One who never spoke still has its share.
            tokenizer: of transformers; None counts words.

        Raises:
            ValueError: a budget below 0.

        >>> said = (Turn("A", 1, "yes since one two three"), Turn("B", 0, "no never"),
        ...         Turn("A", 1, "still yes"))
        >>> print(Transcript("Is it?", ("no", "yes"), said).to_context(max_tokens=8))
        A (yes): yes since
        B (no): no never
        A (yes): still yes
        """
        if max_tokens is not None and max_tokens < 0:
            raise ValueError(f"max_tokens is at least 0, not {max_tokens}")
        pieces = [_split(turn.text, tokenizer) for turn in self.turns]
        if max_tokens is not None:
            for speaker in speakers:
                own = [i for i, turn in enumerate(self.turns) if turn.speaker == speaker]
                cuts = _even([len(pieces[i]) for i in own], max_tokens // len(speakers))
                for i, cut in zip(own, cuts, strict=True):
                    pieces[i] = pieces[i][:cut]
        return "\n".join(
            f"{turn.speaker} ({self.answers[turn.answer]}): {_join(piece, tokenizer)}".rstrip()
            for turn, piece in zip(self.turns, pieces, strict=True)
            if turn.speaker in speakers
        )

    def swapped(self) -> Transcript:
        """The same talk with the speakers' letters exchanged: no reader should care."""
        other = dict(zip(SPEAKERS, SPEAKERS[::-1], strict=True))
        turns = tuple(Turn(other[turn.speaker], turn.answer, turn.text) for turn in self.turns)
        return Transcript(self.question, self.answers, turns, self.beliefs)


class Debate:
    """Debaters A and B argue for opposite answers and read each other.

    In each of `turns` rounds A speaks, then B, each having read all that was said before. Which
    answer A defends is drawn at random, half of the questions each way, and never depends on the
    truth. Both debaters are the same frozen model; sampled with another seed it is another debate.

    Source: Lang et al. 2025 (arXiv 2501.13124). Its prompts are not published: `template` is ours.

    Args:
        debater: a `Chat` (it has a `fingerprint`): its own turns come to it as the assistant's and
            its opponent's as the user's; or a `Generate` function, which gets all questions of a
            turn at once.
        turns: rounds.
        max_tokens: of one turn, as the model counts them.
        words: that a debater is asked to stay within.
        temperature: of sampling; at 0 every seed gives the same debate but for the sides.
        template: of the prompt for a `Generate` function, with {question}, {answer}, {others},
            {speaker}, {said} and {words}.
        system: of the system message for a `Chat`, likewise without {question} and {said}.

    Raises:
        ValueError: fewer than 0 turns.

    >>> def echo(prompts):
    ...     return [f"reason {prompt.count('Debater A:') + prompt.count('Debater B:')}"
    ...             for prompt in prompts]
    >>> talk = Debate(echo, turns=2).run("Is 7 prime?", ("no", "yes"), seed=0)
    >>> [(turn.speaker, turn.text) for turn in talk.turns]
    [('A', 'reason 0'), ('B', 'reason 1'), ('A', 'reason 2'), ('B', 'reason 3')]
    """

    order: tuple[str, ...] = SPEAKERS

    def __init__(
        self,
        debater: Chat | Generate,
        turns: int = 3,
        *,
        max_tokens: int = 200,
        words: int = 100,
        temperature: float = 0.7,
        template: str = TEMPLATE,
        system: str = SYSTEM,
    ) -> None:
        if turns < 0:
            raise ValueError(f"a debate has 0 turns or more, not {turns}")
        self.debater, self.turns = debater, turns
        self.max_tokens, self.words, self.temperature = max_tokens, words, temperature
        self.template, self.system = template, system

    def run(self, question: str, answers: tuple[str, str], seed: int = 0) -> Transcript:
        """One debate."""
        return self.run_all([question], answers, seed)[0]

    def run_all(
        self, questions: Sequence[str], answers: tuple[str, str], seed: int = 0
    ) -> list[Transcript]:
        """A debate on every question, all in step, so that a model can write in batches."""
        talks = _unspoken(questions, answers)
        sides = draw_sides(len(talks), seed)
        for turn in range(self.turns):
            for place, speaker in enumerate(self.order):
                for_answer = [int(side) if speaker == "A" else 1 - int(side) for side in sides]
                number = seed * self.turns * len(self.order) + turn * len(self.order) + place
                said = self._speak(talks, speaker, for_answer, number)
                talks = [
                    Transcript(t.question, answers, (*t.turns, Turn(speaker, answer, text)))
                    for t, answer, text in zip(talks, for_answer, said, strict=True)
                ]
        return talks

    def _speak(
        self, talks: Sequence[Transcript], speaker: str, for_answer: Sequence[int], seed: int
    ) -> list[str]:
        options: dict[str, Any] = {
            "max_tokens": self.max_tokens, "temperature": self.temperature, "seed": seed,
        }  # fmt: skip
        if hasattr(self.debater, "fingerprint"):
            return [
                str(self.debater(self._messages(talk, speaker, answer), **options)).strip()
                for talk, answer in zip(talks, for_answer, strict=True)
            ]
        prompts = [
            self.template.format(
                question=talk.question, answer=talk.answers[answer], speaker=speaker,
                words=self.words, others=self._others(talk, answer),
                said="".join(f"Debater {turn.speaker}: {turn.text}\n" for turn in talk.turns),
            )
            for talk, answer in zip(talks, for_answer, strict=True)
        ]  # fmt: skip
        said = self.debater(prompts, **accepted(self.debater, options))
        if len(said) != len(prompts):
            raise UserError(f"The debater gave {len(said)} texts for {len(prompts)} prompts.")
        return [text.strip() for text in said]

    def _messages(self, talk: Transcript, speaker: str, answer: int) -> list[dict[str, str]]:
        system = self.system.format(
            speaker=speaker, answer=talk.answers[answer], words=self.words,
            others=self._others(talk, answer),
        )  # fmt: skip
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": talk.question},
        ]
        for turn in talk.turns:
            role = "assistant" if turn.speaker == speaker else "user"
            messages.append({"role": role, "content": turn.text})
        if messages[-1]["role"] == "assistant":
            messages.append({"role": "user", "content": "Go on."})
        return _alternating(messages)

    def _others(self, talk: Transcript, answer: int) -> str:
        return f"The other debater argues for: {talk.answers[1 - answer]}. "


class Consultancy(Debate):
    """One speaker argues for an answer drawn at random, and nobody answers it.

    The control of a debate: the same model, as many turns, one side. With twice the `turns` of a
    debate it says as much as both debaters together.

    >>> talk = Consultancy(lambda prompts: ["because"], turns=2).run("Is it?", ("no", "yes"))
    >>> [turn.speaker for turn in talk.turns], len({turn.answer for turn in talk.turns})
    (['A', 'A'], 1)
    """

    order = ("A",)

    def _others(self, talk: Transcript, answer: int) -> str:
        return ""


class MarketMaking(Debate):
    """A speaker argues against what a weak judge believes now, until the judge's belief settles.

    Before each turn the judge says how probable the second answer is, given the question and all
    that was said; the speaker argues for the answer that the judge finds less likely. A talk ends
    when a turn moves the judge by less than `tolerance`, or after `turns`.

    Source: Hubinger 2020 (AI safety via market making), as a baseline of Lang et al. 2025; here the
    market's price is the judge's own probability, and no model is trained to predict it.

    Args:
        debater: as of `Debate`.
        judge: see `Judge`; it reads the question, a blank line and the transcript.
        tolerance: change of the judge's probability in [0, 1] below which it has settled.
        turns: at most.
        options: as of `Debate`.

    >>> moved = lambda texts: [0.5 + 0.1 * min(text.count("A ("), 2) for text in texts]
    >>> market = MarketMaking(lambda prompts: ["because"], moved, turns=5)
    >>> talk = market.run("Is it?", ("no", "yes"))
    >>> len(talk.turns), [round(belief, 1) for belief in talk.beliefs]
    (3, [0.5, 0.6, 0.7, 0.7])
    """

    order = ("A",)

    def __init__(
        self,
        debater: Chat | Generate,
        judge: Judge,
        turns: int = 3,
        *,
        tolerance: float = 0.05,
        **options: Any,
    ) -> None:
        super().__init__(debater, turns, **options)
        self.judge, self.tolerance = judge, tolerance

    def run_all(
        self, questions: Sequence[str], answers: tuple[str, str], seed: int = 0
    ) -> list[Transcript]:
        """A talk about every question, all in step; settled ones are left alone."""
        talks = _unspoken(questions, answers)
        beliefs: list[tuple[float, ...]] = [(belief,) for belief in self._believed(talks)]
        for turn in range(self.turns):
            unsettled = [i for i, told in enumerate(beliefs) if not self._settled(told)]
            if not unsettled:
                break
            for_answer = [int(beliefs[i][-1] < 0.5) for i in unsettled]
            heard = [talks[i] for i in unsettled]
            said = self._speak(heard, "A", for_answer, seed * self.turns + turn)
            for i, answer, text in zip(unsettled, for_answer, said, strict=True):
                spoken = (*talks[i].turns, Turn("A", answer, text))
                talks[i] = Transcript(talks[i].question, answers, spoken)
            believed = self._believed([talks[i] for i in unsettled])
            for i, belief in zip(unsettled, believed, strict=True):
                beliefs[i] = (*beliefs[i], belief)
        return [
            Transcript(talk.question, answers, talk.turns, told)
            for talk, told in zip(talks, beliefs, strict=True)
        ]

    def _settled(self, beliefs: tuple[float, ...]) -> bool:
        return len(beliefs) > 1 and abs(beliefs[-1] - beliefs[-2]) <= self.tolerance

    def _believed(self, talks: Sequence[Transcript]) -> list[float]:
        texts = [with_context(talk.question, talk.to_context()) for talk in talks]
        found = [float(belief) for belief in self.judge(texts)]
        if len(found) != len(texts) or not all(0 <= belief <= 1 for belief in found):
            raise UserError(f"The judge gives each of {len(texts)} texts a number in [0, 1].")
        return found

    def _others(self, talk: Transcript, answer: int) -> str:
        return ""


def _unspoken(questions: Sequence[str], answers: Sequence[str]) -> list[Transcript]:
    if len(answers) != 2:
        raise ValueError(f"a debate has two answers, not {len(answers)}")
    return [Transcript(question, (answers[0], answers[1])) for question in questions]


def draw_sides(count: int, seed: int) -> np.ndarray:
    """Which answer (0 or 1) speaker A defends: as many of each (one more where odd), shuffled.

    >>> sides = draw_sides(100, seed=0)
    >>> int(sides.sum()), sides[:6].tolist() == sorted(sides[:6].tolist())
    (50, False)
    """
    rng = np.random.default_rng(seed)
    return np.asarray(rng.permutation((np.arange(count) + rng.integers(2)) % 2))


def with_context(text: str, context: str) -> str:
    """A question and a transcript as one text; the question alone where nothing was said."""
    return f"{text}\n\n{context}" if context else text


def augment_with_context(
    dataset: Dataset,
    transcripts: Sequence[Transcript],
    *,
    column: str = "text",
    max_tokens: int | None = None,
    tokenizer: Any = None,
    speakers: Sequence[str] = SPEAKERS,
) -> Dataset:
    """A column of texts with each row's transcript after it, for a weak model to learn from.

    The student and the floor read the dataset as it was.

    Args:
        dataset: a row per transcript.
        transcripts: in the order of the rows.
        column: of the texts.
        max_tokens: of a transcript; see `Transcript.to_context`. Leave the model's own limit room
            for it: a tokenizer that cuts long texts would cut the last speaker.
        tokenizer: that counts them; None counts words.
        speakers: whose turns are kept.

    Raises:
        ValueError: not one transcript per row.

    >>> talk = Transcript("Is it?", ("no", "yes"), (Turn("A", 1, "Surely."),))
    >>> augment_with_context(Dataset.from_dict({"text": ["Is it?"]}), [talk])["text"][0]
    'Is it?\\n\\nA (yes): Surely.'
    """
    if len(dataset) != len(transcripts):
        raise ValueError(f"{len(dataset)} rows, but {len(transcripts)} transcripts")
    texts = [
        with_context(text, talk.to_context(max_tokens, speakers, tokenizer))
        for text, talk in zip(dataset[column], transcripts, strict=True)
    ]
    spare = f"_{column}"
    longer = dataset.add_column(spare, texts).remove_columns(column).rename_column(spare, column)
    return longer.select_columns(dataset.column_names)


def accepted(function: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """The options that a function takes as keywords.

    >>> accepted(lambda prompts, seed: prompts, {"seed": 0, "temperature": 1.0})
    {'seed': 0}
    """
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin says nothing of what it takes
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return options
    return {name: options[name] for p in parameters if (name := p.name) in options}


def _alternating(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Neighbours of one role as one message: chat templates want the roles to take turns."""
    merged: list[dict[str, str]] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1] = {**message, "content": f"{merged[-1]['content']}\n\n{message['content']}"}
        else:
            merged.append(message)
    return merged


def _even(lengths: Sequence[int], budget: int) -> list[int]:
    """Cut to one length so that the sum stays within the budget; shorter ones stay whole."""
    cuts = list(lengths)
    while sum(cuts) > budget:
        cuts[max(range(len(cuts)), key=lambda i: (cuts[i], i))] -= 1
    return cuts


def _split(text: str, tokenizer: Any) -> list[Any]:
    if tokenizer is None:
        return text.split()
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _join(pieces: list[Any], tokenizer: Any) -> str:
    return " ".join(pieces) if tokenizer is None else str(tokenizer.decode(pieces)).strip()
