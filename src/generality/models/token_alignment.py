"""A teacher's token probabilities on the tokens of a student with another tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

_MARKERS = " ▁Ġ"  # of a space before a token: plain, sentencepiece's, byte-level BPE's


def align_tokens(
    teacher: Sequence[str],
    student: Sequence[str],
    *,
    cost: Callable[[str, str], float] | None = None,
) -> list[list[int]]:
    """For each student token the teacher tokens that dynamic time warping puts beside it.

    Both are tokens of the same text, in order, without the prompt. The path from the first pair
    to the last that costs least in all is walked back from its end, the diagonal first on ties,
    then the student's own step.

    Source: Fu et al. 2023 (arXiv 2301.12726), section 3, and its released code.

    Args:
        teacher: its tokens.
        student: its tokens; marks of a space (" ", "▁", "Ġ") do not count on either side.
        cost: of a pair of bare tokens; None: their edit distance in characters.

    >>> teacher = ["There", " are", " 12", " apples", "."]
    >>> align_tokens(teacher, ["▁There", "▁are", "▁1", "2", "▁apple", "s", "."])
    [[0], [1], [2], [2], [3], [4], [4]]
    """
    if not teacher or not student:
        return [[] for _ in student]
    between = _costs(teacher, student, cost or edit_distance)
    total = _accumulated(between)
    i, j = len(teacher) - 1, len(student) - 1
    found: list[list[int]] = [[] for _ in student]
    found[j].append(i)
    while i or j:
        before = {
            (i - 1, j - 1): total[i, j],
            (i, j - 1): total[i + 1, j],
            (i - 1, j): total[i, j + 1],
        }
        i, j = min(before, key=before.__getitem__)  # the first of equals
        found[j].insert(0, i)
    return found


def alignment_cost(
    teacher: Sequence[str],
    student: Sequence[str],
    *,
    cost: Callable[[str, str], float] | None = None,
) -> float:
    """What the cheapest alignment costs in all; 0 for tokens that are the same but for spaces.

    >>> alignment_cost(["There", " are", " 12"], ["▁There", "▁are", "▁1", "2"])
    2.0
    """
    return float(_accumulated(_costs(teacher, student, cost or edit_distance))[-1, -1])


def project_topk(
    teacher_topk: Sequence[Mapping[str, float]],
    teacher: Sequence[str],
    student: Sequence[str],
    vocabulary: Mapping[str, int],
    *,
    alignment: Sequence[Sequence[int]] | None = None,
    k: int = 5,
    renormalize: bool = True,
) -> tuple[Int[NDArray, "tokens k"], Float[NDArray, "tokens k"]]:
    """Ids and probabilities of a teacher's top tokens, at each token of the student.

    A student token beside exactly one teacher token that is the same string gets the teacher's
    probabilities of those alternatives that are student tokens too (of two that come to the same
    token, the first); every other gets probability 1 on itself. Unused places have probability 0.
    For `generality.objectives.sparse_topk_kl`.

    Source: Fu et al. 2023 (arXiv 2301.12726) and its released code, which does not renormalise.

    Args:
        teacher_topk: for each teacher token the probabilities of the likeliest tokens there, in
            (0, 1], likeliest first.
        teacher: the teacher's tokens.
        student: the student's tokens of the same text.
        vocabulary: the student's tokens → ids.
        alignment: of `align_tokens`; None: computed.
        k: places per token.
        renormalize: make the probabilities of a token sum to 1.

    Raises:
        ValueError: as many teacher tokens as distributions are needed; a student token that the
            vocabulary lacks.

    >>> ids, probabilities = project_topk(
    ...     [{"12": 0.6, "1": 0.3, "14": 0.1}, {".": 0.7, "!": 0.2, "?!": 0.1}], ["12", "."],
    ...     ["1", "2", "."], {"1": 5, "2": 6, ".": 7, "!": 8}, k=2)
    >>> ids.tolist(), probabilities[2].round(3)
    ([[5, 0], [6, 0], [7, 8]], array([0.778, 0.222], dtype=float32))
    """
    if len(teacher_topk) != len(teacher):
        raise ValueError(f"{len(teacher_topk)} distributions for {len(teacher)} teacher tokens")
    beside = align_tokens(teacher, student) if alignment is None else alignment
    ids = np.zeros((len(student), k), dtype=np.int64)
    probabilities = np.zeros((len(student), k), dtype=np.float32)
    for place, (token, teachers) in enumerate(zip(student, beside, strict=True)):
        if token not in vocabulary:
            raise ValueError(f"the student's vocabulary has no token '{token}'")
        own = {vocabulary[token]: 1.0}
        if len(teachers) == 1 and bare(teacher[teachers[0]]) == bare(token):
            own = _shared(teacher_topk[teachers[0]], token, vocabulary) or own
        row = list(own.items())[:k]
        total = sum(p for _, p in row) if renormalize else 1.0
        ids[place, : len(row)] = [name for name, _ in row]
        probabilities[place, : len(row)] = [p / total for _, p in row]
    return ids, probabilities


def bare(token: str) -> str:
    """A token without the marks of spaces.

    >>> bare("▁apple"), bare("Ġare"), bare(" "), bare("3 2")
    ('apple', 'are', '', '32')
    """
    return "".join(character for character in token if character not in _MARKERS)


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's: insertions, deletions and replacements of characters.

    >>> edit_distance("12", "1"), edit_distance("apples", "s"), edit_distance("", "ab")
    (1, 5, 2)
    """
    if a == b:
        return 0
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (left != right))
    return row[-1]


def _costs(
    teacher: Sequence[str], student: Sequence[str], cost: Callable[[str, str], float]
) -> Float[NDArray, "teacher student"]:
    rows, columns = [bare(t) for t in teacher], [bare(t) for t in student]
    known = {(a, b): cost(a, b) for a in set(rows) for b in set(columns)}
    return np.array([[known[a, b] for b in columns] for a in rows], dtype=float)


def _accumulated(between: Float[NDArray, "teacher student"]) -> NDArray:
    """Least cost up to each pair, with a border of infinity before the first."""
    total = np.full((between.shape[0] + 1, between.shape[1] + 1), np.inf)
    total[0, 0] = 0.0
    for i, costs in enumerate(between.tolist(), 1):
        for j, own in enumerate(costs, 1):
            total[i, j] = own + min(total[i - 1, j - 1], total[i, j - 1], total[i - 1, j])
    return total


def _shared(
    alternatives: Mapping[str, float], token: str, vocabulary: Mapping[str, int]
) -> dict[int, float]:
    """Alternatives that are student tokens, by id: marked as the student's token is, if at all."""
    mark = token[: len(token) - len(token.lstrip(_MARKERS))]
    found: dict[int, float] = {}
    for text, probability in alternatives.items():
        marked = _MARKERS if text[:1] and text[0] in _MARKERS else ""
        for spelling in (mark + bare(text), bare(text), *(m + bare(text) for m in marked)):
            if spelling in vocabulary:
                found.setdefault(vocabulary[spelling], probability)
                break
    return found


def topk_columns(
    tokenizer: Any,
    tokens: Sequence[int],
    start: int,
    soft: tuple[Sequence[str], Sequence[Mapping[str, float]]] | None,
    *,
    k: int = 5,
) -> tuple[Int[NDArray, "tokens k"], Float[NDArray, "tokens k"]]:
    """Targets of every token of an example: what `TopkDistillation` reads.

    None (all zero) for the prompt's tokens, the teacher's where `project_topk` finds them, else the
    token itself; the last token, which ends the sequence, is always itself.

    Args:
        tokenizer: of the student.
        tokens: of prompt, response and end, as `encode_response` gives them.
        start: where the response begins.
        soft: of `teacher_topk` for this response; None: the tokens themselves.
        k: targets at each token.

    >>> from generality.benchmarks.worlds import world_tokenizer
    >>> tokenizer = world_tokenizer()
    >>> tokens = [*tokenizer("a ? 3")["input_ids"], tokenizer.eos_token_id]
    >>> ids, probs = topk_columns(tokenizer, tokens, 3, (["3"], [{"3": 0.6, "2": 0.4}]), k=2)
    >>> tokenizer.convert_ids_to_tokens(ids[3]), probs[2:].tolist()
    (['3', '2'], [[0.0, 0.0], [0.6000000238418579, 0.4000000059604645], [1.0, 0.0]])
    """
    ids, probs = np.zeros((len(tokens), k), np.int64), np.zeros((len(tokens), k), np.float32)
    ids[start:, 0], probs[start:, 0] = tokens[start:], 1.0
    if soft is not None:
        own = tokenizer.convert_ids_to_tokens(tokens[start:-1])
        teacher, likely = soft
        found = project_topk(likely, teacher, own, tokenizer.get_vocab(), k=k)
        ids[start:-1], probs[start:-1] = found
    return ids, probs
