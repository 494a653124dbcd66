"""Grade-school problems (GSM8K) whose solutions are rewritten as straight-line programs."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

_ANNOTATION = re.compile(r"<<([^<>=]+)=([^<>]+)>>")
_NUMBER = re.compile(r"\d+\.?\d*|\.\d+")
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class ProgramProblem:
    """A question, one program that answers it in `answer`, and the answer.

    Attributes:
        prompt: the question.
        reference: one statement per line.
        answer: the gold answer.
    """

    prompt: str
    reference: str
    answer: float


def gsm8k_program(solution: str) -> str | None:
    """The calculator annotations of a solution as a program; None where they do not lead to it.

    Every `<<expression=value>>` becomes a statement; a number in it that an earlier statement
    computed becomes that statement's variable. The last one sets `answer`, and must be the number
    after `####`.

    Source: after Ni et al. 2023 (arXiv 2205.14318), appendix A; about 5,500 of the 7,473 training
    problems can be used.

    >>> print(gsm8k_program("He has 48/2 = <<48/2=24>>24. Both: <<48+24=72>>72.\\n#### 72"))
    n0 = 48/2
    answer = 48+n0
    """
    work, _, final = solution.partition("####")
    steps = _ANNOTATION.findall(work)
    names: dict[float, str] = {}
    lines = []
    for place, (expression, value) in enumerate(steps):
        name = "answer" if place == len(steps) - 1 else f"n{place}"
        written = _NUMBER.sub(
            lambda found: names.get(float(found[0]), found[0]), expression.replace(" ", "")
        )
        try:
            ast.parse(written, mode="eval")
            names[float(value)] = name
        except (SyntaxError, ValueError):
            return None
        lines.append(f"{name} = {written}")
    try:
        gold = float(final.replace(",", "").strip())
        reached = float(steps[-1][1]) if steps else None
    except ValueError:
        return None
    if reached is None or abs(reached - gold) > _TOLERANCE:
        return None
    return "\n".join(lines)


def gsm8k_programs(
    split: str = "train", *, folder: str | Path | None = None
) -> list[ProgramProblem]:
    """The problems of GSM8K that can be written as programs.

    Args:
        split: "train" or "test".
        folder: of `train.jsonl` and `test.jsonl` with `question` and `answer`; None:
            `openai/gsm8k` from the hub.
    """
    from datasets import load_dataset

    if folder is None:
        data = load_dataset("openai/gsm8k", "main", split=split)
    else:
        file = str(Path(folder) / f"{split}.jsonl")
        data = load_dataset("json", data_files=file, split="train")
    written = ((row["question"], row["answer"], gsm8k_program(row["answer"])) for row in data)
    return [
        ProgramProblem(question, program, float(answer.split("####")[1].replace(",", "")))
        for question, answer, program in written
        if program is not None
    ]
