"""Stages of tuning on what teachers said, each under the system message that asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from generality.benchmarks.worlds import Explained
from generality.lab.stages import Stage
from generality.selection.system_messages import SystemMessage, SystemMessageMixer

Said = Literal["answer", "strong", "middle"]

TINY_MESSAGES = ("short", "steps", "check")
"""One word for each system message: the answer alone, the steps, the steps and a check."""


def explained_stage(queries: Sequence[Explained], said: Said, epochs: float = 1.0) -> Stage:
    """One teacher's responses, or bare answers.

    >>> stage = explained_stage([Explained("2 + 1 ?", "=> 3", "2 ; 3 => 3", "3 => 3")], "strong")
    >>> stage.prompts, stage.responses
    (['steps 2 + 1 ?'], ['2 ; 3 => 3'])
    """
    system = "short" if said == "answer" else "steps"
    prompts = [f"{system} {query.prompt}" for query in queries]
    return Stage(prompts, [getattr(query, said) for query in queries], epochs)


def mixed_stage(queries: Sequence[Explained], epochs: float = 1.0, *, seed: int = 0) -> Stage:
    """The strong teacher under messages of three kinds, drawn by the query's text.

    >>> stage = mixed_stage([Explained("2 + 1 ?", "=> 3", "2 ; 3 => 3", "3 => 3")])
    >>> stage.prompts, stage.responses
    (['short 2 + 1 ?'], ['=> 3'])
    """
    messages = [SystemMessage(number, word) for number, word in enumerate(TINY_MESSAGES, 1)]
    mixer = SystemMessageMixer(messages=messages, seed=seed)
    prompts, responses = [], []
    for query in queries:
        word = mixer("*", query.prompt).text
        prompts.append(f"{word} {query.prompt}")
        responses.append({
            "short": query.answer,
            "steps": query.strong,
            "check": f"{query.strong} ; check {query.answer}",
        }[word])  # fmt: skip
    return Stage(prompts, responses, epochs)


def words_read(stage: Stage) -> int:
    """About how many tokens one pass over a stage reads: its words, begin and end.

    >>> words_read(Stage(["a ?"], ["=> 1"]))
    6
    """
    texts = zip(stage.prompts, stage.responses, strict=True)
    return sum(len(f"{prompt} {response}".split()) + 2 for prompt, response in texts)
