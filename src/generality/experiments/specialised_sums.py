"""A real model specialised on sums: what it gains, and what it pays elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from generality.benchmarks.worked_sums import WorkedSum
from generality.claims import Row
from generality.experiments.sum_school import SumSchool
from generality.selection import FormatMixer, Template, Worked

TEMPLATE = Template("Question: What is {question}?\nAnswer:", "", ". The answer is {answer}.")
"""As `WorkedSum` writes a sum; the steps need no cue."""


def specialised_rows(
    school: SumSchool, lessons: int, test: int, texts: Sequence[str], *, seed: int
) -> Iterator[Row]:
    """What worked sums with or without a solved one before them teach a model, and what they cost.

    Arms: `before`, the model as it is and the floor; `in-context`, tuned on sums that each come
    after another one, solved; `zero-shot`, on the same sums alone, over again until as many tokens
    were read. Of each the share of other sums it gets right as `score`, the same
    `with_demonstrations` (one, of the lessons), and `texts`, the mean log-probability in nats of a
    token of texts that have nothing to do with sums.

    Args:
        school: of the model.
        lessons: sums to learn from, at least 2.
        test: others.
        texts: real ones, each at least seven words.
        seed: of sums and tuning.

    Source: Fu et al. 2023 (arXiv 2301.12726).

    >>> import tempfile
    >>> from generality.lab import Lab
    >>> school = SumSchool(Lab(home=tempfile.mkdtemp(), progress=False), "0.05M", max_tokens=4)
    >>> rows = specialised_rows(school, 4, 2, ["a b c d e f a b c"], seed=0)
    >>> [(row["method"], row["score"]) for row in rows]
    [('before', 0.0), ('in-context', 0.0), ('zero-shot', 0.0)]
    """
    asked, held = school.sums(lessons, test, seed=seed)
    mixer = FormatMixer([_worked(each) for each in asked], k_shot=1, template=TEMPLATE, seed=seed)

    def shown(sums: Sequence[WorkedSum]) -> list[tuple[str, str]]:
        written = [mixer.write(_worked(e), "icl_cot", draw=draw) for draw, e in enumerate(sums)]
        return [(each.prompt, each.response) for each in written]

    in_context = shown(asked)
    alone = [(each.prompt, each.worked) for each in asked]
    writers = {
        "before": school.start,
        "in-context": school.taught(in_context, seed),
        "zero-shot": school.taught(school.as_long(alone, in_context), seed),
    }
    after_one = [prompt for prompt, _ in shown(held)]
    floor = school.share_right(school.start, held)
    for method, writer in writers.items():
        yield Row(
            method=method, seed=seed, score=school.share_right(writer, held), floor=floor,
            ceiling=None, tokens=writer.training.tokens if writer.training else 0,
            with_demonstrations=school.share_right(writer, held, after_one),
            texts=school.continued(writer, texts),
        )  # fmt: skip


def _worked(each: WorkedSum) -> Worked:
    steps = each.worked.removesuffix(TEMPLATE.final.format(answer=each.answer))
    return Worked(each.expression, steps, each.answer)
