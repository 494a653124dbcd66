"""Training data from a teacher: explanations, rationales, own programs that run, tailored ones.

Each recipe goes from prompts to examples, chunk by chunk. What the teacher says is kept answer by
answer (`generality.selection.teacher`), so that a killed job asks for none of it again, and every
prompt comes out as an example or as a failure with its reason.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from generality.errors import UserError, unknown
from generality.lab import Lab
from generality.measures.pass_at_k import pass_at_k
from generality.models.chat import Message
from generality.selection.data_portrait import DataPortrait, figure, portrait_table
from generality.selection.draft_pool import Draft, DraftPool
from generality.selection.judge import Judge, code_of, last_number, reference_text
from generality.selection.record_screen import Screen, screen_table, words_in
from generality.selection.solution_steps import checked_steps, final_answer
from generality.selection.state_tracer import StateTracer
from generality.selection.system_messages import SystemMessage, SystemMessageMixer
from generality.selection.teacher import AGAIN, PROBLEMS, Answer, Teacher
from generality.selection.training_files import (
    SHAPES,
    Columns,
    Example,
    Record,
    check_output,
    prompt_of,
    read_records,
    write_records,
)

RECIPES = {
    "explain": "answers that explain, asked for by varied system messages",
    "rationale": "step-by-step rationales whose answer and sums were checked",
    "self-sampled": "the student's own solutions, verified by running or judging them",
    "tailored": "of several explanations the one from which the student learns best in context",
}

FAILURES = PROBLEMS | {
    "no final answer": "the rationale does not end with an answer",
    "wrong answer": "the answer is not the reference",
    "wrong step": "a sum in a step does not add up",
    "no reference": "there is nothing to verify it against",
    "none right": "no sample was right",
    "held out": "an exam question, which is not trained on",
}

STEPS = (
    "Reason step by step, one step a line, each line beginning with 'Step 1:', 'Step 2:' and so "
    "on. Then write one last line that begins with 'Answer:' and holds the final answer alone."
)
PROGRAM = (
    "Write a short straight-line Python program, without functions or input, that works this out "
    "and stores the result in the variable `answer`. Write the program alone."
)
TECHNIQUES = {
    "step by step": "Explain step by step.",
    "simply": "Explain it as to a ten-year-old, in plain words.",
    "recall first": "First recall the rule or fact that is needed, then apply it.",
    "in symbols": "Explain it as tersely as you can, with symbols rather than words.",
}
_ENDING = "End with one line that begins with 'Answer:' and holds the final answer alone."
_CHUNK = 64
_BRIEF = 8  # words


@dataclass(frozen=True)
class AnswerMatch:
    """Right when a response's final answer is the reference: the same number or the same words.

    The answer is what follows "Answer:", "The answer is", "####" or "=>"; without any of these
    the whole response, of which the last number counts.

    >>> judge = AnswerMatch()
    >>> judge("", "Step 1: 2 + 2 = 4\\nAnswer: 4.0", "4"), judge("", "It is Rome", "Paris")
    (1.0, 0.0)
    """

    def __call__(self, prompt: str, response: str, reference: Any) -> float:
        """1 or 0."""
        wanted = final_answer(str(reference)) or str(reference)
        said = final_answer(response) or response
        try:
            number = float(wanted.replace(",", "").strip(" $%"))
        except ValueError:
            return float(_plain(said) == _plain(wanted))
        found = last_number(said)
        return float(found is not None and math.isclose(found, number, rel_tol=1e-6, abs_tol=1e-9))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .*`'\"")


@dataclass(frozen=True)
class Recipe:
    """How to make examples; see `distill`.

    Attributes:
        name: a key of `RECIPES`.
        samples: answers per prompt: as many examples for "explain", attempts for "rationale" and
            "self-sampled".
        max_tokens: of an answer.
        temperature: of the teacher; None: 0, or 0.8 where several samples are drawn.
        seed: of drawn answers and system messages.
        judge: of answers; None: `AnswerMatch`, and for "self-sampled" running the program.
        reference: the column it compares with; "": `reference`, else the record's own response.
        wrong_steps: "drop" rationales with a sum that does not add up, or "keep" them marked.
        exam: questions with references that a tailored explanation is to help with.
        messages: system messages of "explain"; () the usual ones.
    """

    name: str
    samples: int = 1
    max_tokens: int = 512
    temperature: float | None = None
    seed: int = 0
    judge: Judge | None = None
    reference: str = ""
    wrong_steps: str = "drop"
    exam: tuple[Example, ...] = ()
    messages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in RECIPES:
            raise unknown("recipe", self.name, RECIPES)
        if self.samples < 1:
            raise UserError("--samples is at least 1.")

    def heat(self, usual: float) -> float:
        """The temperature, or what is usual."""
        return usual if self.temperature is None else self.temperature

    def wanted(self, example: Example) -> str:
        """The reference of an example, "" without one.

        A response of the record's own is one where it says which part is the answer
        (`final_answer`) or is no longer than eight words; a longer text cannot be matched.
        """
        if self.reference:
            return reference_text(example.record.get(self.reference))
        if example.record.get("reference") is not None:
            return reference_text(example.record["reference"])
        own = example.response
        return own if final_answer(own) or words_in(own) <= _BRIEF else ""


@dataclass(frozen=True)
class Made:
    """An example that was made."""

    example: Example
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """A prompt, or one answer to it, that gave no example."""

    example: Example
    problem: str
    detail: str = ""
    text: str = ""


Outcome = Made | Failed


@dataclass
class Distilled:
    """What came of it: the report in plain values, and how many examples were written."""

    report: dict[str, Any]
    written: int
    failures: dict[str, int]


class _Run:
    """What the recipes share: who answers, and where answers are kept."""

    def __init__(self, recipe: Recipe, lab: Lab, teacher: Teacher, student: Teacher | None) -> None:
        self.recipe, self.lab, self.teacher, self.student = recipe, lab, teacher, student
        self.notes: Counter[str] = Counter()
        self.right: list[int] = []
        self.pairs: list[dict[str, Any]] = []

    def ask(
        self, conversations: list[list[Message]], *, heat: float, seed: int = 0,
        who: Teacher | None = None,
    ) -> list[Answer]:  # fmt: skip
        """Answers, and a count of what was wrong with them."""
        answers = (who or self.teacher).answer(
            self.lab, conversations, max_tokens=self.recipe.max_tokens,
            temperature=self.recipe.heat(heat), seed=self.recipe.seed + seed,
        )  # fmt: skip
        self.notes["asked"] += len(answers)
        return answers

    def judge(self, example: Example, text: str) -> bool | None:
        """Whether a text is right; None without a reference."""
        wanted = self.recipe.wanted(example)
        if not wanted:
            self.notes["unverified"] += 1
            return None
        judge = self.recipe.judge or AnswerMatch()
        return bool(judge(example.prompt, text, wanted) >= 0.5)


def _with(example: Example, words: str) -> list[Message]:
    """The conversation with an instruction at the end of its last message."""
    *before, last = example.before
    return [*before, {**last, "content": f"{last['content']}\n\n{words}"}]


def explain(run: _Run, chunk: list[Example]) -> Iterator[Outcome]:
    """Answers under system messages drawn for each prompt, as Orca's (`SystemMessageMixer`).

    Several samples have different messages. A record's own system message stays, and makes one
    sample. Where the record has a reference, a wrong answer fails.
    """
    messages = [SystemMessage(n, text) for n, text in enumerate(run.recipe.messages, start=1)]
    mixers = [
        SystemMessageMixer(messages=messages or None, seed=run.recipe.seed + draw)
        for draw in range(1 if run.recipe.samples == 1 else 8 * run.recipe.samples)
    ]
    whose: list[Example] = []
    conversations: list[list[Message]] = []
    for example in chunk:
        own = example.before[0]["role"] == "system"
        drawn = dict.fromkeys(mixer("*", example.prompt).text for mixer in mixers)
        for text in [""] if own else list(drawn)[: run.recipe.samples]:
            first = [{"role": "system", "content": text}] if text else []
            conversations.append([*first, *example.before])
            whose.append(example)
    answers = run.ask(conversations, heat=0.0)
    for example, asked, answer in zip(whose, conversations, answers, strict=True):
        right = None if answer.problem else run.judge(example, answer.text)
        if answer.problem or right is False:
            problem = answer.problem or "wrong answer"
            yield Failed(example, problem, answer.detail, answer.text)
        else:
            made = replace(example, before=tuple(asked), response=answer.text, source="teacher")
            yield Made(made, {} if right is None else {"verified": True})


def rationale(run: _Run, chunk: list[Example]) -> Iterator[Outcome]:
    """Steps and an answer; asked for again, by another draw, until one passes or attempts end."""
    recipe = run.recipe
    failed: dict[int, Failed] = {}
    done: dict[int, Made] = {}
    for attempt in range(recipe.samples):
        todo = [place for place in range(len(chunk)) if place not in done]
        asked = [_with(chunk[place], STEPS) for place in todo]
        heat = 0.0 if attempt == 0 else 0.8
        for place, answer in zip(todo, run.ask(asked, heat=heat, seed=attempt), strict=True):
            outcome = _rationale(run, chunk[place], answer)
            if isinstance(outcome, Made):
                done[place] = outcome
            else:
                failed[place] = outcome
        if len(done) == len(chunk):
            break
    for place in range(len(chunk)):
        yield done[place] if place in done else failed[place]


def _rationale(run: _Run, example: Example, answer: Answer) -> Outcome:
    if answer.problem:
        return Failed(example, answer.problem, answer.detail, answer.text)
    found = final_answer(answer.text)
    if found is None:
        return Failed(example, "no final answer", "", answer.text)
    right = run.judge(example, answer.text)
    if right is False:
        detail = f"{found}, not {run.recipe.wanted(example)}"
        return Failed(example, "wrong answer", detail, answer.text)
    steps = checked_steps(answer.text)
    run.notes["steps"] += len(steps)
    run.notes["steps checked"] += sum(step.right is not None for step in steps)
    wrong = [step.text for step in steps if step.right is False]
    run.notes["steps wrong"] += len(wrong)
    if wrong and run.recipe.wrong_steps == "drop":
        return Failed(example, "wrong step", wrong[0], answer.text)
    extra = {
        "steps": [{"text": step.text, "right": step.right} for step in steps],
        "answer": found,
        "verified": right,
    }
    return Made(replace(example, response=answer.text, source="teacher"), extra)


def self_sampled(run: _Run, chunk: list[Example]) -> Iterator[Outcome]:
    """Every different right solution of several samples: programs are run, texts are judged."""
    recipe = run.recipe
    by_running = recipe.judge is None
    asked = [_with(each, PROGRAM) if by_running else list(each.before) for each in chunk]
    many = [each for each in asked for _ in range(recipe.samples)]
    heat = 0.8 if recipe.samples > 1 else 0.0
    answers = run.ask(many, heat=heat, who=run.student)
    texts = [code_of(each.text) if by_running else each.text for each in answers]
    traces = StateTracer().many(texts) if by_running else [None] * len(texts)
    for place, example in enumerate(chunk):
        rows = range(place * recipe.samples, (place + 1) * recipe.samples)
        different: dict[Any, Made] = {}
        problems: list[Failed] = []
        right = 0
        for row in rows:
            answer, text, trace = answers[row], texts[row], traces[row]
            if answer.problem:
                problems.append(Failed(example, answer.problem, answer.detail, answer.text))
                continue
            if not recipe.wanted(example):
                problems.append(Failed(example, "no reference", "", text))
                continue
            said = str(trace.answers[-1]) if trace is not None else ""
            good = run.judge(example, said) if by_running else run.judge(example, text)
            if not good:
                detail = said or ("the program does not run" if by_running else "")
                problems.append(Failed(example, "wrong answer", detail, text))
                continue
            right += 1
            key = trace.canonical() if trace is not None else " ".join(text.split())
            program = text.strip() if by_running else text
            made = replace(example, response=program, source="self-sampled")
            different.setdefault(key, Made(made, {"verified": True}))
        run.right.append(right)
        yield from different.values()
        if not different:  # one line says what became of the prompt, with its last answer
            last = problems[-1]
            if len({each.problem for each in problems}) == 1:
                yield last
            else:
                yield Failed(example, "none right", last.problem, last.text)


def tailored(run: _Run, chunk: list[Example]) -> Iterator[Outcome]:
    """Of explanations by several techniques the one after which the student answers an exam best.

    The exam's questions are held out. Explanations with a wrong answer are never chosen.
    """
    recipe, student = run.recipe, run.student
    assert student is not None
    exam_prompts = {item.prompt for item in recipe.exam}
    kept = [each for each in chunk if each.prompt not in exam_prompts]
    yield from (Failed(each, "held out") for each in chunk if each.prompt in exam_prompts)
    asked = [_with(each, f"{words} {_ENDING}") for each in kept for words in TECHNIQUES.values()]
    answers = run.ask(asked, heat=0.0)
    drafts, failed = [], {}
    for place, answer in enumerate(answers):
        example = kept[place // len(TECHNIQUES)]
        right = None if answer.problem else run.judge(example, answer.text)
        if answer.problem or right is False:
            problem = answer.problem or "wrong answer"
            failed[example.number] = Failed(example, problem, answer.detail, answer.text)
        else:
            technique = list(TECHNIQUES)[place % len(TECHNIQUES)]
            drafts.append(Draft(example.prompt, answer.text, technique=technique))

    def answered(prompts: list[str]) -> list[str]:
        conversations = [[{"role": "user", "content": prompt}] for prompt in prompts]
        found = student.answer(
            run.lab, conversations, max_tokens=min(recipe.max_tokens, 64), temperature=0.0
        )
        return [each.text for each in found]

    best: dict[str, Draft] = {}
    if drafts:
        exam = [_ExamItem(item.prompt, recipe.wanted(item)) for item in recipe.exam]
        pool = DraftPool(drafts).score(answered, exam, recipe.judge or AnswerMatch())
        best = {draft.question: draft for draft in pool.best()}
        run.pairs += pool.preference_pairs("rationale", prompt="{question}", seed=recipe.seed)
    for example in kept:
        if draft := best.get(example.prompt):
            made = replace(example, response=draft.rationale, source="teacher")
            yield Made(made, {"technique": draft.technique, "student_score": draft.score})
        else:
            yield failed[example.number]


@dataclass(frozen=True)
class _ExamItem:
    prompt: str
    answer: str


class _Maker(Protocol):
    def __call__(self, run: _Run, chunk: list[Example]) -> Iterator[Outcome]: ...


_MAKERS: dict[str, _Maker] = {
    "explain": explain,
    "rationale": rationale,
    "self-sampled": self_sampled,
    "tailored": tailored,
}


def distill(
    source: str | Path,
    out: str | Path,
    recipe: Recipe,
    *,
    teacher: Teacher,
    lab: Lab,
    student: Teacher | None = None,
    screen: Callable[[], Screen] = Screen,
    split: str | None = None,
    limit: int | None = None,
    shape: str = "messages",
    failed: Path | None = None,
    rejected: Path | None = None,
    pairs: Path | None = None,
) -> Distilled:
    """Make training examples from prompts with a teacher, and write them to a file.

    Args:
        source: prompts, perhaps with references; see `read_records`. Of chats, all but the last
            answer; of a .txt file, every line.
        out: the file written, whole or not at all.
        recipe: what to make.
        teacher: who answers.
        lab: where answers are kept.
        student: whose own solutions, or whose benefit, count ("self-sampled", "tailored").
        screen: makes the screen that bad records meet.
        split: of a hub or saved data set.
        limit: prompts taken, at most.
        shape: of the examples, a key of `SHAPES`.
        failed: file for what gave no example, with the reason and the answer.
        rejected: file for bad records, each with its reason.
        pairs: file for preference pairs of "tailored", as `trl`'s DPOTrainer reads them.

    Raises:
        UserError: for data that cannot be read or written, no prompt, an endpoint that takes no
            request or fails all the time, a failure where such are refused.
    """
    for file in (out, pairs):
        if file is not None:
            check_output(Path(file))
    if shape not in SHAPES:
        raise unknown("format", shape, SHAPES)
    if recipe.name == "tailored" and student is None:
        raise UserError("The recipe tailored needs a student: name it by --student.")
    if recipe.name == "tailored" and not any(recipe.wanted(item) for item in recipe.exam):
        raise UserError("The recipe tailored needs an exam with references: give it by --exam.")
    main, made = screen(), DataPortrait()
    run, counts = _Run(recipe, lab, teacher, student), Counter[str]()
    seen = 0

    def parse(record: Record, columns: Columns) -> list[Example]:
        return [prompt_of(record, columns)]

    def examples() -> Iterator[dict[str, Any]]:
        nonlocal seen
        stream = islice(main.examples(read_records(source, split=split), parse), limit)
        while chunk := list(islice(stream, _CHUNK)):
            named = recipe.reference  # mistyped, it would leave every answer unchecked
            if named and not seen and not any(named in example.record for example in chunk):
                raise UserError(
                    f"No record has the column '{named}' of --reference. The first one's: "
                    f"{', '.join(chunk[0].record)}."
                )
            seen += len(chunk)
            for outcome in _MAKERS[recipe.name](run, chunk):
                if isinstance(outcome, Failed):
                    counts[outcome.problem] += 1
                    refuse_or_log(outcome)
                    continue
                made.add(outcome.example)
                yield {**SHAPES[shape](outcome.example), **outcome.extra}
        if not seen:
            raise main.nothing_good(source, "prompt", "Say which holds them by --prompt.")
        if not made.count and counts and not counts.keys() - set(AGAIN):
            told = ", ".join(f"{count} {problem}" for problem, count in counts.items())
            raise UserError(
                f"Of {seen} prompts none was answered ({told}). Nothing is written: run the same "
                "command again when the teacher is well."
            )

    def refuse_or_log(outcome: Failed) -> None:
        if main.on_bad == "refuse" and outcome.problem != "held out":
            raise UserError(
                f"{source}, record {outcome.example.number}: {outcome.problem} "
                f"({outcome.detail or FAILURES.get(outcome.problem, '')}). Finished answers are "
                "kept; leave such prompts out with --on-bad skip."
            )
        if log is not None:
            told = {
                "number": outcome.example.number, "reason": outcome.problem,
                "detail": outcome.detail, "answer": outcome.text,
                "record": outcome.example.record,
            }  # fmt: skip
            log.write(json.dumps(told, default=str) + "\n")

    with main.rejecting(rejected), _logging(failed) as log:
        written = write_records(out, examples())
    if pairs is not None:
        write_records(pairs, run.pairs)
    report = _report(recipe, source, run, main, made, counts, seen)
    return Distilled(report, written, dict(counts))


@contextmanager
def _logging(path: Path | None) -> Iterator[IO[str] | None]:
    """A file that appears at the good end of the block."""
    if path is None:
        yield None
        return
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
        temporary.replace(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} cannot be written: its folder does not exist.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _report(
    recipe: Recipe, source: str | Path, run: _Run, screen: Screen, made: DataPortrait,
    counts: Counter[str], seen: int,
) -> dict[str, Any]:  # fmt: skip
    fates = [["examples made", str(made.count)]]
    fates += [[f"{problem}: {FAILURES.get(problem, '')}", str(number)]
              for problem, number in counts.most_common()]  # fmt: skip
    tables: list[dict[str, Any]] = [
        {"title": "What became of the prompts", "columns": ["Outcome", "Number"], "rows": fates,
         "note": f"{seen} prompts, {run.notes['asked']} answers asked for or taken from what was "
         "kept."},
    ]  # fmt: skip
    if run.notes["steps"]:
        rows = [[name, str(run.notes[name])] for name in ("steps", "steps checked", "steps wrong")]
        tables.append({"title": "Steps", "columns": ["Steps", "Number"], "rows": rows,
                       "note": "A step is checked where it holds a sum of numbers."})  # fmt: skip
    if run.right:
        ks = sorted({1, *(k for k in (5, 10, 50, 100) if k <= recipe.samples), recipe.samples})
        shares = [(k, float(np.mean(pass_at_k(recipe.samples, run.right, k)))) for k in ks]
        tables.append(
            {"title": "The student's own solutions", "columns": ["Attempts", "Share solved"],
             "rows": [[str(k), figure(share)] for k, share in shares], "note": ""}
        )  # fmt: skip
    if run.pairs:
        tables.append({"title": "Preference pairs", "columns": ["Pairs", "Number"],
                       "rows": [["written", str(len(run.pairs))]], "note": ""})  # fmt: skip
    nothing = DataPortrait()
    portrait = portrait_table(nothing, made)
    portrait = portrait | {
        "title": "The examples", "columns": ["Aspect", "Measure", "Value"],
        "rows": [[row[0], row[1], row[3]] for row in portrait["rows"]], "note": "",
    }  # fmt: skip
    tables += [portrait, screen_table(screen.summary())]
    notes = []
    if run.notes["unverified"]:
        notes.append(
            f"{run.notes['unverified']} answers had no reference, and nobody checked that they are "
            "right."
        )
    return {
        "title": f"Training data distilled by the recipe {recipe.name}",
        "subtitle": f"{source}: {made.count} examples of {seen} prompts",
        "answer": f"{made.count} examples of {seen} prompts: {RECIPES[recipe.name]}.",
        "notes": notes,
        "tables": tables,
        "picture": None,
        "screen": screen.summary(),
        "failures": dict(counts),
    }
