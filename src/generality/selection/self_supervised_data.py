"""S3FT over a data set that need not fit in memory: own answers where they are right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from datasets import (
    Dataset,
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from generality.errors import UserError
from generality.lab import Lab
from generality.selection.data_portrait import DataPortrait, portrait_table, source_table
from generality.selection.example_choice import Selected
from generality.selection.judge import Judge, reference_text
from generality.selection.record_screen import Screen, SeenKeys, screen_table
from generality.selection.self_to_supervised import PARAPHRASE, SelfToSupervised
from generality.selection.teacher import Prompter, context_of
from generality.selection.training_files import (
    SHAPES,
    Example,
    check_output,
    pair_key,
    read_records,
    with_response,
    write_records,
)

_CHUNK = 64
_MEANING = {
    "self": "the model's own answer, which is right",
    "paraphrase": "the model's own version of the given answer, which is right",
    "gold": "the given answer, as neither was right",
    "again": "left out: said to the same prompt before",
}


def write_self_supervised(
    source: str | Path,
    out: str | Path | None,
    *,
    model: str,
    judge: Judge,
    lab: Lab,
    screen: Callable[[], Screen] = Screen,
    split: str | None = None,
    shape: str = "same",
    rejected: Path | None = None,
    reference: str = "reference",
    max_tokens: int = 256,
    template: str = "auto",
    max_length: int | None = None,
    batch_size: int = 16,
) -> Selected:
    """Write the data with each response replaced by the model's own where the judge takes it.

    Records get a column `target_source`: "self", "paraphrase" or "gold"; see `SelfToSupervised`.
    What the model writes is kept by the lab, batch by batch. Of several responses to a prompt each
    is a gold answer; what would be written twice is left out, unless the screen keeps duplicates.

    Args:
        source: a file, folder or `hf:` name; see `read_records`.
        out: the file written, whole or not at all; None reports only.
        model: a name as in `load_model`: the model that will be trained.
        judge: of an answer, against the column `reference` or, without it, the given response.
        lab: where answers are kept.
        screen: makes the screen that bad records meet.
        split: of a hub or saved data set.
        shape: "same" as they were read, or a key of `SHAPES`.
        rejected: file for bad records, each with its reason.
        reference: that column.
        max_tokens: of an own answer; longer ones are never used.
        template: what the model sees, as in `Choice`.
        max_length: tokens of an example; longer ones are bad records. Prompts that leave no room
            for `max_tokens` in the model's context are not asked, and keep their given answer.
        batch_size: prompts written to together.

    Raises:
        UserError: for data that cannot be read or written, no good example, or a column
            `reference` that is named and not there.
    """
    if out is not None:
        check_output(Path(out))
    prompter = Prompter(model, template, lab)
    main, before, after = screen(), DataPortrait(), DataPortrait()
    main.refuses = prompter.refuses
    if max_length is not None:
        main.max_length = max_length
        main.length = lambda each: prompter.count(f"{prompter(each)} {each.response}")
    sources: Counter[str] = Counter()
    room = context_of(model) - max_tokens - 2  # tokens that open and end a text
    unasked = 0
    seen = SeenKeys()

    def written(prompts: list[str]) -> list[str | None]:
        nonlocal unasked
        found: list[str | None] = [None] * len(prompts)
        places = [at for at, prompt in enumerate(prompts) if prompter.count(prompt) <= room]
        unasked += len(prompts) - len(places)
        texts = lab.generate(
            model, [prompts[at] for at in places], max_tokens=max_tokens,
            special_tokens=not prompter.chats, chunk=batch_size, batch_size=batch_size,
        )  # fmt: skip
        for at, (text,) in zip(places, texts, strict=True):
            found[at] = None if prompter.count(text) >= max_tokens - 1 else text
        return found

    def built(chunk: list[Example]) -> Sequence[dict[str, Any]]:
        by_prompt = {prompter(each): each for each in chunk}

        def restate(prompts: list[str], gold: list[str]) -> list[str | None]:
            asked = [
                prompter(_restated(by_prompt[prompt], answer))
                for prompt, answer in zip(prompts, gold, strict=True)
            ]
            return written(asked)

        method = SelfToSupervised(
            lambda prompts, _: [[text] for text in written(prompts)], judge, paraphrase=restate
        )
        rows = {
            "prompt": [prompter(each) for each in chunk],
            "response": [each.response for each in chunk],
            "reference": [
                each.response if each.record.get(reference) is None
                else reference_text(each.record[reference]) for each in chunk
            ],
        }  # fmt: skip
        with without_bars():
            return list(method.build(Dataset.from_dict(rows)))

    def records() -> Iterator[dict[str, Any]]:
        stream = main.examples(read_records(source, split=split))
        while chunk := list(islice(stream, _CHUNK)):
            missing = not any(reference in each.record for each in chunk)
            if reference != "reference" and not sources and missing:  # it is mistyped
                raise UserError(
                    f"No record has the column '{reference}' of --reference. The first one's: "
                    f"{', '.join(chunk[0].record)}."
                )
            for example, row in zip(chunk, built(chunk), strict=True):
                before.add(example)
                target, whose = row["target"], row["target_source"]
                if not seen.add(pair_key(example.prompt, target)) and main.duplicates != "keep":
                    sources["again"] += 1
                    continue
                changed = replace(example, response=target, source=whose)
                after.add(changed)
                sources[whose] += 1
                record = (
                    with_response(example, target) if shape == "same" else SHAPES[shape](changed)
                )
                yield {**record, "target_source": whose}
        if not sources:
            raise main.nothing_good(
                source, "example", "Say which hold prompt and response by --prompt and --response."
            )

    with main.rejecting(rejected):
        count = sum(1 for _ in records()) if out is None else write_records(out, records())
    reasons = {_MEANING[whose]: number for whose, number in sources.most_common()}
    made = [
        {"title": "Where the responses come from", "columns": ["Response", "Examples"],
         "rows": [[why, str(number)] for why, number in reasons.items()], "note": ""},
        portrait_table(before, after), source_table(before, after), screen_table(main.summary()),
    ]  # fmt: skip
    own = sources["self"] + sources["paraphrase"]
    report = {
        "title": "Training data in the model's own words",
        "subtitle": f"{source}: {count} examples for {model}",
        "answer": f"{own} of {count} responses are {model}'s own and right; the others are as "
        "given.",
        "notes": [
            "A right number after wrong reasoning passes a judge of answers.",
            *(
                [
                    f"{unasked} times the model was not asked, since the prompt left no room for "
                    "--max-tokens in its context."
                ]
                if unasked
                else []
            ),
        ],
        "tables": [table for table in made if table is not None],
        "picture": None,
        "screen": main.summary(),
    }
    nothing = np.full(count, np.nan)
    return Selected(np.ones(count, bool), nothing, reasons, report, count if out else 0)


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of `datasets` inside the block: the lab shows its own progress."""
    shown = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not shown:
            enable_progress_bars()


def _restated(example: Example, answer: str) -> Example:
    """The example with the paper's request for a paraphrase as its last message."""
    last = example.before[-1]
    words = PARAPHRASE.replace("{prompt}", last["content"]).replace("{reference}", answer)
    return replace(example, before=(*example.before[:-1], {**last, "content": words}))
