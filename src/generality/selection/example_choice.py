"""Choosing training examples for a model, from data that need not fit in memory.

Two passes over the data. The first scores them a chunk at a time, and every chunk's scores are a
kept step, so that a killed job goes on where it was; numbers alone stay in memory. The second
writes what was chosen.
"""

from __future__ import annotations

import collections
import functools
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from jaxtyping import Bool, Float
from torch import nn

from generality.errors import UserError, unknown
from generality.lab import Lab
from generality.models.identity import model_identity
from generality.selection.data_portrait import DataPortrait, portrait_table, source_table
from generality.selection.judge import Judge
from generality.selection.record_screen import KINDS, Screen, screen_table, words_in
from generality.selection.teacher import Prompter, context_of
from generality.selection.training_files import (
    SHAPES,
    Example,
    Record,
    check_output,
    read_records,
    with_candidates,
    write_records,
)
from generality.selection.written_candidates import CandidateWriter

if TYPE_CHECKING:
    from generality.selection.loss_trajectories import ProxyTraining

PER_PROMPT = {
    "grape": "the response that the model finds most probable",
    "reverse-fit": "the response that the model finds least probable (a control)",
    "random": "a response at random (a control)",
    "longest": "the longest response (a control)",
    "shortest": "the shortest response (a control)",
    "strongest": "the response of the source named by --source",
}
SPREAD = {
    "g-vendi": "examples whose gradients are spread over many directions",
    "prismatic": "examples in regions of gradient space that have few",
}
LEARNED = {"s2l": "as many of each kind, by how a small model's losses on them went"}
WHOLE = {"dedup": "every good record once"}
METHODS = PER_PROMPT | SPREAD | LEARNED | WHOLE
"""What is kept, by method."""

NEEDS_MODEL = ("grape", "reverse-fit", *SPREAD, *LEARNED)
_CHUNK = 128
_SHOWN = 3  # examples that a table quotes
_PROMPTS = 5_000  # that a writer of candidates is shown from
_DOTS = 1_500  # of the picture
_VENDI_ROWS = 2_000
_KINDS = 100  # clusters of loss trajectories at most, where no number was asked for


@dataclass(frozen=True)
class Choice:
    """How to choose; see `select_examples`.

    Attributes:
        method: a key of `METHODS`.
        model: a name as in `load_model`: the model that will be trained, or for "g-vendi" and
            "prismatic" any small one tuned to follow instructions, for "s2l" any small one.
        per_prompt: responses kept for each prompt, by methods that choose among responses.
        keep: examples kept in all: a number, or a share below 1; None: as many as the method gives
            (half, for "g-vendi" and "s2l").
        template: what the model sees: "auto" (its chat template if it has one), "chat", or a text
            with {prompt}.
        reduce: "mean" log-probability of a response's tokens, or their "sum".
        source: whose responses "strongest" keeps.
        clusters: of "prismatic", "g-vendi" and "s2l": a number, or below 1 a share of the examples
            (of "s2l" no more than 100).
        sparse: of "prismatic": the share of clusters that counts as sparse.
        dim: numbers that a gradient is projected to.
        looks: of "s2l": how often the losses are recorded while the small model is trained.
        proxy_examples: of "s2l": examples drawn to train it on.
        max_length: tokens (words without a model); longer examples are bad records.
        seed: of what is random.
        batch_size: examples that go through the model together.
        judge: of responses, against the column `reference`; wrong ones are bad records.
        reference: that column.
    """

    method: str
    model: str | None = None
    per_prompt: int = 1
    keep: float | None = None
    template: str = "auto"
    reduce: str = "mean"
    source: str | None = None
    clusters: float = 0.1
    sparse: float = 0.5
    dim: int = 512
    looks: int = 4
    proxy_examples: int = 1000
    max_length: int | None = None
    seed: int = 0
    batch_size: int = 16
    judge: Judge | None = None
    reference: str = "reference"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        if self.method in NEEDS_MODEL and not self.model:
            raise UserError(f"The method {self.method} looks through a model: name it by --model.")
        if self.method == "strongest" and not self.source:
            raise UserError("The method strongest needs --source, the name of the best source.")
        for option, value in (("--keep", self.keep), ("--clusters", self.clusters)):
            if value is not None and not (0 < value < 1 or (value >= 1 and value % 1 == 0)):
                raise UserError(f"{option} is a whole number, or a share below 1, not {value}.")
        if not 0 < self.sparse <= 1:
            raise UserError(f"--sparse is a share above 0 and at most 1, not {self.sparse}.")
        if self.template not in ("auto", "chat") and "{prompt}" not in self.template:
            raise UserError("--template is auto, chat, or a text with {prompt} in it.")


@dataclass
class Selected:
    """What was chosen and what came of it.

    Attributes:
        keep: of every good example, in order, whether it was kept.
        scores: of every good example; NaN where it has none.
        reasons: why examples were kept or left out, with how many.
        report: title, tables, notes and a picture, in plain values.
        written: records in the file.
    """

    keep: Bool[np.ndarray, " examples"]
    scores: Float[np.ndarray, " examples"]
    reasons: dict[str, int]
    report: dict[str, Any]
    written: int = 0


@dataclass
class _Seen:
    """Numbers about every good example, in order."""

    prompts: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    digest: Any = field(default_factory=xxhash.xxh3_64)

    def add(self, chunk: Sequence[Example], scores: Sequence[float]) -> None:
        self.prompts += [example.prompt_key for example in chunk]
        self.scores += scores
        for example in chunk:
            self.digest.update(example.key.to_bytes(8, "little"))


def select_examples(
    source: str | Path,
    out: str | Path | None,
    choice: Choice,
    *,
    lab: Lab,
    screen: Callable[[], Screen] = Screen,
    split: str | None = None,
    candidates: str | Path | CandidateWriter | None = None,
    shape: str = "same",
    rejected: Path | None = None,
    scores: Path | None = None,
) -> Selected:
    """Choose examples of a data set and write them to a file.

    Args:
        source: a file, folder or `hf:` name; see `read_records`.
        out: the file written, whole or not at all; None writes nothing and reports only.
        choice: the method and its settings.
        lab: where scores are kept.
        screen: makes the screen that bad records meet; it is asked anew for each pass.
        split: of a hub or saved data set.
        candidates: of "prismatic": new examples; those that fall into regions of which the data
            have few are what is kept. A `CandidateWriter` writes them after the data's own examples
            of these regions.
        shape: "same" as they were read, or a key of `SHAPES`.
        rejected: file for bad records, each with its reason.
        scores: file for every good example's number, score and fate.

    Raises:
        UserError: for data that cannot be read or written, no good example, a bad record where
            such are refused, or a method that does not fit the data.
    """
    for file in (out, scores):
        if file is not None:
            check_output(Path(file))
    if shape != "same" and shape not in SHAPES:
        raise unknown("format", shape, ["same", *SHAPES])
    if candidates is not None and choice.method != "prismatic":
        raise UserError("--candidates and --teacher go with --method prismatic.")
    if candidates is not None and choice.keep is not None and choice.keep < 1:
        raise UserError("With --candidates or --teacher, --keep is a number and no share.")
    scorer = _Scorer(choice, lab)
    before, seen = DataPortrait(), _Seen()
    main = _screen(screen, choice, scorer)
    with tempfile.TemporaryDirectory(prefix="generality-") as folder, main.rejecting(rejected):
        recorded = choice.method in SPREAD or choice.method in LEARNED
        features = _Features(Path(folder, "features")) if recorded else None
        if choice.method in LEARNED:
            scorer.train_proxy(_examples(source, split, screen, choice, scorer))
        for chunk in _chunks(main.examples(read_records(source, split=split))):
            _judge(chunk, choice, lab, main)
            found, rows = scorer(chunk)
            for example, score in zip(chunk, found, strict=True):
                before.add(example, score)
            seen.add(chunk, found)
            if features is not None:
                features.add(rows)
        if not before.count:
            raise main.nothing_good(
                source, "example", "Say which hold prompt and response by --prompt and --response."
            )
        if candidates is not None:
            assert features is not None
            wrote = None
            if isinstance(candidates, CandidateWriter):
                again = _examples(source, split, screen, choice, scorer)
                path = candidates.write(_sparse_prompts(features, choice, again))
                wrote, candidates = candidates.table(), path
            made = _from_candidates(
                source, candidates, out, choice, main, before, features, scorer,
                screen=screen, shape=shape, scores=scores,
            )  # fmt: skip
            made.report["tables"][1:1] = [wrote] if wrote else []
            return made
        values = np.array(seen.scores)
        keep, reasons, tables, picture = _choose(choice, seen, before, features)
        if features is not None and choice.method == "prismatic":
            tables += [_regions(features, choice, _examples(source, split, screen, choice, scorer))]
        after, written = _write(
            source, split, out, keep, values, seen, screen, choice, scorer, shape=shape,
            scores=scores,
        )  # fmt: skip
        further = [features.vendi(keep)] if features and choice.method in SPREAD else []
        report = _report(
            choice, source, main, before, after, reasons, tables, picture, further, scorer
        )
        return Selected(keep, values, reasons, report, written)


def _screen(make: Callable[[], Screen], choice: Choice, scorer: _Scorer) -> Screen:
    screen = make()
    screen.max_length = choice.max_length
    if choice.model:
        screen.refuses = scorer.prompt.refuses
    if choice.model and choice.method in SPREAD | LEARNED and choice.max_length is None:
        room = context_of(choice.model) - 2  # tokens that open and end a text
        screen.max_length = int(room) if np.isfinite(room) else None
    if choice.model and screen.max_length is not None:
        screen.length = scorer.tokens
    return screen


def _examples(
    source: str | Path, split: str | None, make: Callable[[], Screen], choice: Choice,
    scorer: _Scorer,
) -> Iterator[Example]:  # fmt: skip
    """The good examples once more, judged as before."""
    screen = _screen(make, choice, scorer)
    for chunk in _chunks(screen.examples(read_records(source, split=split))):
        _judge(chunk, choice, scorer.lab, screen)
        yield from chunk


def _chunks(examples: Iterator[Example]) -> Iterator[list[Example]]:
    while chunk := list(islice(examples, _CHUNK)):
        yield chunk


def _judge(chunk: list[Example], choice: Choice, lab: Lab, screen: Screen) -> None:
    """Take wrong responses out of a chunk; with them those whose reference is missing."""
    if choice.judge is None:
        return
    triples = [[e.prompt, e.response, _reference(e, choice.reference)] for e in chunk]
    right = lab.step(judge_all, choice.judge, triples)
    good = []
    for example, verdict in zip(chunk, right, strict=True):
        if verdict is not None and verdict >= 0.5:
            good.append(example)
            continue
        kind = "no reference" if verdict is None else "wrong response"
        screen.kept -= 1
        screen.reject(Record(example.number, example.record), kind, KINDS.get(kind, ""), example)
    chunk[:] = good


def _reference(example: Example, column: str) -> Any:
    return example.record.get(column)


def judge_all(judge: Judge, triples: list[list[Any]]) -> list[float | None]:
    """The memoised step: verdicts on prompts, responses and references; None without a reference.

    >>> from generality.selection import ExactMatch
    >>> judge_all(ExactMatch(), [["2 + 2?", "4", "4"], ["2 + 2?", "4", None]])
    [1.0, None]
    """
    return [None if triple[2] is None else float(judge(*triple)) for triple in triples]


# ------------------------------------------------------------------------------ scoring


class _Scorer:
    """Scores, and rows of features, of chunks of examples."""

    def __init__(self, choice: Choice, lab: Lab) -> None:
        self.choice, self.lab = choice, lab
        if choice.model:
            self.prompt = Prompter(choice.model, choice.template, lab)
            self.identity = model_identity(choice.model)
        self.proxy: ProxyTraining | None = None

    def tokens(self, example: Example) -> int:
        """Length of an example as the model reads it."""
        return self.prompt.count(f"{self.prompt(example)} {example.response}")

    def train_proxy(self, examples: Iterator[Example]) -> None:
        """Train the small model of "s2l" on examples drawn evenly from all.

        Raises UserError for a model that LoRA does not fit.
        """
        from generality.models import load_tokenizer, lora_network
        from generality.selection.loss_trajectories import ProxyTraining

        choice, rng = self.choice, np.random.default_rng(self.choice.seed)
        drawn: list[Example] = []
        for place, example in enumerate(examples):
            if place < choice.proxy_examples:
                drawn.append(example)
            elif (at := int(rng.integers(place + 1))) < choice.proxy_examples:
                drawn[at] = example
        if not drawn:
            return
        name = str(choice.model)
        try:
            self.proxy = ProxyTraining.of(
                self.lab, lora_network(name), load_tokenizer(name), *self._pairs(drawn),
                looks=choice.looks, seed=choice.seed,
            )  # fmt: skip
        except ValueError as error:
            raise UserError(f"'{name}' cannot be the small model of s2l: {error}.") from error

    def _pairs(self, examples: list[Example]) -> tuple[list[str], list[str]]:
        """Prompts as the model sees them, without an opening token, and responses."""
        prompts = [self.prompt(example) for example in examples]
        if self.prompt.chats:  # the chat template has written the opening token
            tokenizer = _tokenizer(str(self.choice.model))
            prompts = [_without_opening(tokenizer, prompt) for prompt in prompts]
        return prompts, [example.response for example in examples]

    def __call__(self, chunk: list[Example]) -> tuple[list[float], Any]:
        """A score for each example, and a row of features for each where the method has them."""
        method, choice = self.choice.method, self.choice
        if not chunk:
            return [], np.empty((0, choice.dim), np.float32)
        if method in ("longest", "shortest"):
            sign = 1.0 if method == "longest" else -1.0
            return [sign * words_in(example.response) for example in chunk], None
        if method == "strongest":
            return [1.0 if e.source == choice.source else float("nan") for e in chunk], None
        if method in WHOLE or method == "random":
            return [0.0] * len(chunk), None
        if self.proxy is not None:
            rows = self.proxy.losses(self.lab, *self._pairs(chunk), batch_size=choice.batch_size)
            return [float("nan")] * len(chunk), rows
        pairs = [[self.prompt(example) for example in chunk], [e.response for e in chunk]]
        special = not self.prompt.chats
        asked = (choice.model, self.identity, self.lab.device, *pairs)
        if method in SPREAD:
            rows = self.lab.step(
                gradient_rows, *asked, dim=choice.dim, special=special,
                batch_tokens=128 * choice.batch_size,
            )  # fmt: skip
            return [float("nan")] * len(chunk), rows
        fit = self.lab.step(
            fit_scores, *asked, reduce=choice.reduce, batch_size=choice.batch_size, special=special
        )
        sign = -1.0 if method == "reverse-fit" else 1.0
        return [sign * value for value in fit.tolist()], None


def fit_scores(
    model: str, identity: str, device: str, prompts: list[str], responses: list[str], *,
    reduce: str, batch_size: int, special: bool,
) -> Float[np.ndarray, " pairs"]:  # fmt: skip
    """The memoised step: log-probabilities of responses by a named model."""
    from generality.measures import response_logprob

    network, tokenizer = _reader(model, device)
    found = response_logprob(
        network, tokenizer, prompts, responses, reduce=reduce, batch_size=batch_size,  # type: ignore[arg-type]
        include_eos=tokenizer.eos_token_id is not None, special_tokens=special,
    )  # fmt: skip
    return found.numpy()


def gradient_rows(
    model: str, identity: str, device: str, prompts: list[str], responses: list[str], *,
    dim: int, special: bool, batch_tokens: int,
) -> Float[np.ndarray, "pairs dim"]:  # fmt: skip
    """The memoised step: projected gradients of a named model, as unit vectors."""
    from generality.measures import GVendi

    network, tokenizer = _reader(model, device)
    if not special:  # the chat template has written the opening token
        prompts = [_without_opening(tokenizer, prompt) for prompt in prompts]
    records = [{"prompt": p, "response": r} for p, r in zip(prompts, responses, strict=True)]
    metric = GVendi(network, tokenizer, dim, batch_tokens=batch_tokens)
    return metric.features(records).numpy()


def _without_opening(tokenizer: Any, prompt: str) -> str:
    opening = tokenizer.bos_token
    adds = bool(tokenizer("")["input_ids"])
    return prompt.removeprefix(opening) if opening and adds else prompt


@functools.lru_cache(maxsize=1)
def _reader(name: str, device: str) -> tuple[nn.Module, Any]:
    from generality.models import load_model, load_tokenizer

    model = load_model(name, device=device)
    if not hasattr(model, "generate"):
        raise UserError(f"'{name}' is no causal language model, so that it finds no text probable.")
    return model, load_tokenizer(name)


@functools.lru_cache(maxsize=1)
def _tokenizer(name: str) -> Any:
    from generality.models import load_tokenizer

    return load_tokenizer(name)


class _Features:
    """Rows of features in a file, added chunk by chunk and mapped afterwards."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self.dim = path, 0, 0

    def add(self, rows: Float[np.ndarray, "n dim"]) -> None:
        """Append a chunk."""
        if len(rows):
            self.rows, self.dim = self.rows + len(rows), rows.shape[1]
            with self.path.open("ab") as file:
                np.ascontiguousarray(rows, np.float32).tofile(file)

    @property
    def mapped(self) -> np.ndarray:
        """All rows, read as they are used."""
        return np.memmap(self.path, np.float32, mode="r", shape=(self.rows, self.dim))

    def vendi(self, keep: Bool[np.ndarray, " n"]) -> tuple[str, str, float, float]:
        """The row of a portrait's table: G-Vendi of equally many examples of all and of the kept.

        The kept ones are compared with as many drawn of all.
        """
        from generality.measures import vendi_score

        chosen = np.flatnonzero(keep)
        size = min(len(chosen), _VENDI_ROWS)
        if not size:
            return "diversity", "G-Vendi", float("nan"), float("nan")
        rng = np.random.default_rng(0)
        scores = []
        for pool in (np.arange(self.rows), chosen):
            rows = self.mapped[np.sort(rng.choice(pool, size, replace=False))]
            rows = rows[rows.any(1)]
            scores.append(vendi_score(rows) if len(rows) else float("nan"))
        return "diversity", f"G-Vendi (of {size})", scores[0], scores[1]

    def picture(self, keep: Bool[np.ndarray, " n"]) -> dict[str, Any]:
        """Dots in the plane of the two main directions: x, y in [0, 1], and whether kept."""
        rng = np.random.default_rng(0)
        rows = np.sort(rng.choice(self.rows, min(self.rows, _DOTS), replace=False))
        points = self.mapped[rows].astype(np.float64)
        points -= points.mean(0)
        _, spread, axes = np.linalg.svd(points, full_matrices=False)
        flat = points @ axes[:2].T
        flat = np.hstack([flat, np.zeros((len(flat), 2 - flat.shape[1]))])
        low, high = flat.min(0), flat.max(0)
        flat = (flat - low) / np.maximum(high - low, 1e-12)
        total = float((spread**2).sum()) or 1.0
        return {
            "title": "Coverage of gradient space",
            "note": "Each dot is an example, in the plane of the two main directions of gradients "
            f"({100 * float((spread[:2] ** 2).sum()) / total:.0f} % of their variance). Blue ones "
            "were kept.",
            "dots": [
                [round(float(x), 4), round(float(y), 4), bool(keep[row])]
                for (x, y), row in zip(flat, rows, strict=True)
            ],
        }


# ------------------------------------------------------------------------------ choosing


def _choose(
    choice: Choice, seen: _Seen, before: DataPortrait, features: _Features | None
) -> tuple[Bool[np.ndarray, " n"], dict[str, int], list[dict[str, Any]], dict[str, Any] | None]:
    scores, count = np.array(seen.scores), before.count
    reasons: dict[str, int] = {}
    if choice.method in SPREAD:
        assert features is not None
        keep, reasons = _spread(choice, features)
        return keep, reasons, [], features.picture(keep)
    if choice.method in LEARNED:
        assert features is not None
        keep, reasons, table = _of_each_kind(choice, features)
        return keep, reasons, [table], None
    if choice.method in WHOLE:
        keep = np.ones(count, bool)
        reasons["kept: good and not a duplicate"] = count
    else:
        if choice.method == "random":
            scores = np.random.default_rng(choice.seed).random(count)
        keep = best_of_each(np.array(seen.prompts, np.uint64), scores, choice.per_prompt)
        several = len(seen.prompts) > before.prompts
        reasons = _reasons(choice, seen, scores, keep)
        if not several and choice.keep is None:
            reasons["note: every prompt has one response, so that there was nothing to choose"] = 1
    return _cut(choice, keep, scores, reasons), reasons, [], None


def best_of_each(
    prompts: Any, scores: Float[np.ndarray, " n"], count: int
) -> Bool[np.ndarray, " n"]:
    """Which rows are among the `count` with the highest scores of their prompt; NaN never is.

    Ties go to the earlier row.

    >>> best_of_each(np.array([7, 7, 8]), np.array([-0.9, -0.6, float("nan")]), 1).tolist()
    [False, True, False]
    """
    order = np.lexsort((np.arange(len(scores)), -scores, prompts))  # NaN comes last of its prompt
    ordered = prompts[order]
    first = np.r_[True, ordered[1:] != ordered[:-1]] if len(order) else np.empty(0, bool)
    starts = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    keep = np.zeros(len(scores), bool)
    keep[order] = np.arange(len(order)) - starts < count
    return keep & ~np.isnan(scores)


def _reasons(
    choice: Choice, seen: _Seen, scores: Float[np.ndarray, " n"], keep: Bool[np.ndarray, " n"]
) -> dict[str, int]:
    prompts = np.array(seen.prompts, np.uint64)
    _, which, sizes = np.unique(prompts, return_inverse=True, return_counts=True)
    alone = sizes[which] == 1
    none = np.isnan(scores)
    what = METHODS[choice.method]
    unscored = {
        "strongest": "left out: of another source",
        "grape": "left out: longer than the model's context, or too short to score",
    }
    found = {
        f"kept: {what}": int((keep & ~alone).sum()),
        "kept: the only response to its prompt": int((keep & alone).sum()),
        "left out: another response to the same prompt was better": int((~keep & ~none).sum()),
        unscored.get(choice.method, "left out: no score"): int(none.sum()),
    }
    return {reason: number for reason, number in found.items() if number}


def _wanted(keep: float | None, count: int) -> int | None:
    """A number of examples, from a number or a share below 1."""
    if keep is None:
        return None
    return max(1, round(keep * count)) if keep < 1 else int(keep)


def _cut(
    choice: Choice, keep: Bool[np.ndarray, " n"], scores: Float[np.ndarray, " n"],
    reasons: dict[str, int],
) -> Bool[np.ndarray, " n"]:  # fmt: skip
    """At most as many as were asked for, those with the highest scores."""
    wanted = _wanted(choice.keep, int(keep.sum()))
    if wanted is None or wanted >= keep.sum():
        return keep
    rows = np.flatnonzero(keep)
    if choice.method in WHOLE:
        scores = np.random.default_rng(choice.seed).random(len(keep))
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    cut = np.zeros_like(keep)
    cut[rows[:wanted]] = True
    reasons["left out: beyond --keep, with a lower score"] = len(rows) - wanted
    return cut


def _spread(choice: Choice, features: _Features) -> tuple[Bool[np.ndarray, " n"], dict[str, int]]:
    from generality.selection.sparse_cluster_filter import DiverseSubset, SparseClusterFilter

    rows, pool = features.rows, features.mapped
    if choice.method == "g-vendi":
        many = _wanted(choice.keep, rows) or max(1, rows // 2)
        chosen = DiverseSubset(min(many, rows), k=choice.clusters, seed=choice.seed).select(pool)
        keep = np.zeros(rows, bool)
        keep[chosen] = True
        reasons = {
            "kept: spread over clusters of gradients, in turn": int(keep.sum()),
            "left out: its cluster had its share": int((~keep).sum()),
        }
    else:
        sparse = SparseClusterFilter(choice.clusters, choice.sparse, seed=choice.seed).fit(pool)
        keep = sparse.accept(pool)
        wanted = _wanted(choice.keep, int(keep.sum()))
        if wanted is not None and wanted < keep.sum():
            kept = np.flatnonzero(keep)
            order = np.argsort(sparse.counts[sparse.assign(pool)][kept], kind="stable")
            keep = np.zeros(rows, bool)
            keep[kept[order[:wanted]]] = True
        reasons = {
            "kept: in a sparse region": int(keep.sum()),
            "left out: in a region with many, or beyond --keep": int((~keep).sum()),
        }
    return keep, {reason: number for reason, number in reasons.items() if number}


def _of_each_kind(
    choice: Choice, features: _Features
) -> tuple[Bool[np.ndarray, " n"], dict[str, int], dict[str, Any]]:
    """What "s2l" keeps, why, and the kinds it found."""
    from generality.selection.loss_trajectories import SmallToLarge
    from generality.selection.sparse_cluster_filter import clusters_of

    losses = np.array(features.mapped)
    known = np.flatnonzero(np.isfinite(losses).all(1))
    if not len(known):
        raise UserError("No example is short enough for the small model's context.")
    losses = losses[known]
    most = len(losses) if choice.clusters >= 1 else _KINDS
    kinds = min(most, clusters_of(choice.clusters, len(losses)))
    many = _wanted(choice.keep, len(losses)) or max(1, len(losses) // 2)
    chooser = SmallToLarge(many, k=kinds, seed=choice.seed)
    chosen = chooser.select(losses)
    keep = np.zeros(features.rows, bool)
    keep[known[chosen]] = True
    sizes = np.bincount(chooser.members)
    kept = np.bincount(chooser.members[chosen], minlength=len(sizes))
    whole = (kept == sizes)[chooser.members[chosen]].sum()
    reasons = {
        "kept: losses went as those of few others, all of which are kept": int(whole),
        "kept: drawn from those whose losses went alike": int(len(chosen) - whole),
        "left out: others whose losses went alike were drawn": int(len(losses) - len(chosen)),
        "left out: longer than the small model's context": features.rows - len(losses),
    }
    order = np.argsort(sizes, kind="stable")[-12:][::-1]
    means = [losses[chooser.members == kind].mean(0) for kind in order]
    table = {
        "title": "Kinds of examples, by how the small model's losses on them went",
        "columns": ["Kind", "Examples", "Kept", "Mean loss at each look, nats"],
        "rows": [
            [str(kind), str(sizes[kind]), str(kept[kind]), " → ".join(f"{x:.2f}" for x in mean)]
            for kind, mean in zip(order, means, strict=True)
        ],
        "note": f"The largest of {len(sizes)} kinds. Losses that stay high may be errors.",
    }
    return keep, {reason: number for reason, number in reasons.items() if number}, table


def _regions(features: _Features, choice: Choice, examples: Iterator[Example]) -> dict[str, Any]:
    """The regions with fewest examples, each with a few of their prompts."""
    from generality.selection.sparse_cluster_filter import SparseClusterFilter

    sparse = SparseClusterFilter(choice.clusters, choice.sparse, seed=choice.seed)
    pool = features.mapped
    members = sparse.fit(pool).assign(pool)
    order = [int(c) for c in np.argsort(sparse.counts, kind="stable") if sparse.counts[c]][:12]
    quotes: dict[int, list[str]] = {cluster: [] for cluster in order}
    for example, cluster in zip(examples, members, strict=True):
        if len(quotes.get(int(cluster), [""] * _SHOWN)) < _SHOWN:
            quotes[int(cluster)].append(f"{example.number}: {_short(example.prompt)}")
    return {
        "title": "Regions with few examples",
        "columns": ["Region", "Examples", "Such as (record: prompt)"],
        "rows": [[str(c), str(sparse.counts[c]), " | ".join(quotes[c])] for c in order],
        "note": f"{len(sparse.counts)} clusters of gradients; the median one has "
        f"{int(np.median(sparse.counts))} examples. More data like these would fill them.",
    }


def _sparse_prompts(features: _Features, choice: Choice, examples: Iterator[Example]) -> list[str]:
    """Prompts of regions with few examples: of the first so many, since they are only shown."""
    from generality.selection.sparse_cluster_filter import SparseClusterFilter

    sparse = SparseClusterFilter(choice.clusters, choice.sparse, seed=choice.seed)
    pool = features.mapped
    few = sparse.fit(pool).accept(pool)
    found = (e.prompt for e, good in zip(examples, few, strict=True) if good)
    return list(dict.fromkeys(islice(found, _PROMPTS)))


def _short(text: str, length: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


# ------------------------------------------------------------------------------ writing


def _write(
    source: str | Path, split: str | None, out: str | Path | None, keep: Any, values: Any,
    seen: _Seen, screen: Callable[[], Screen], choice: Choice, scorer: _Scorer, *, shape: str,
    scores: Path | None,
) -> tuple[DataPortrait, int]:  # fmt: skip
    """Second pass: portray what was kept and write it. Raises UserError where the data changed."""
    after, digest = DataPortrait(), xxhash.xxh3_64()

    def kept() -> Iterator[Example]:
        place = -1
        for place, example in enumerate(_examples(source, split, screen, choice, scorer)):
            digest.update(example.key.to_bytes(8, "little"))
            if place < len(keep) and keep[place]:
                after.add(example, float(values[place]))
                yield example
        if place + 1 != len(keep) or digest.digest() != seen.digest.digest():
            raise UserError(f"{source} changed while it was read; run the command again.")

    written = 0
    if out is not None:
        plain = str(source).lower().endswith(".parquet") and shape == "same"
        like = Path(source) if plain else None
        written = write_records(out, _records(kept(), shape), like=like)
    else:
        collections.deque(kept(), maxlen=0)
    if scores is not None:
        fates = (
            {"number": e.number, "candidate": e.candidate, "score": _number(value), "kept": bool(k)}
            for e, value, k in zip(
                _examples(source, split, screen, choice, scorer), values, keep, strict=True
            )
        )
        write_records(scores, fates)
    return after, written


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _records(examples: Iterator[Example], shape: str) -> Iterator[dict[str, Any]]:
    """As they are written; a record's chosen candidates are together again."""
    for _, group in itertools.groupby(examples, key=lambda example: example.number):
        first, *more = group
        if shape != "same":
            yield from map(SHAPES[shape], [first, *more])
        else:
            yield (
                first.record
                if first.candidate is None
                else with_candidates(first.record, [first, *more])
            )


def _from_candidates(
    source: str | Path, candidates: str | Path, out: str | Path | None, choice: Choice,
    main: Screen, before: DataPortrait, features: _Features, scorer: _Scorer, *,
    screen: Callable[[], Screen], shape: str, scores: Path | None,
) -> Selected:  # fmt: skip
    """New examples that fall into regions of which the data have few."""
    from generality.selection.sparse_cluster_filter import SparseClusterFilter

    sparse = SparseClusterFilter(choice.clusters, choice.sparse, seed=choice.seed)
    sparse.fit(features.mapped)
    after = DataPortrait()
    fate: list[bool] = []
    places: list[tuple[int, int | None]] = []
    second = _screen(screen, choice, scorer)
    second.rejected = main.rejected
    wanted = None if choice.keep is None else int(choice.keep)

    def accepted() -> Iterator[Example]:
        for chunk in _chunks(second.examples(read_records(candidates))):
            _judge(chunk, choice, scorer.lab, second)
            _, rows = scorer(chunk)
            for example, good in zip(chunk, sparse.accept(rows) if chunk else [], strict=True):
                taken = bool(good) and (wanted is None or after.count < wanted)
                fate.append(taken)
                places.append((example.number, example.candidate))
                if taken:
                    after.add(example)
                    yield example

    written = 0
    if out is not None:
        written = write_records(out, _records(accepted(), shape))
    else:
        collections.deque(accepted(), maxlen=0)
    if scores is not None:
        write_records(scores, (
            {"number": number, "candidate": candidate, "score": None, "kept": kept}
            for (number, candidate), kept in zip(places, fate, strict=True)
        ))  # fmt: skip
    keep = np.array(fate, bool)
    reasons = {
        "kept: falls into a region of which the data have few": int(keep.sum()),
        "left out: falls where the data have many, or beyond --keep": int((~keep).sum()),
    }
    table = screen_table(second.summary()) | {"title": "Bad records among the candidates"}
    report = _report(choice, source, main, before, after, reasons, [table], None, [], scorer)
    return Selected(keep, np.full(len(keep), np.nan), reasons, report, written)


def _report(
    choice: Choice, source: str | Path, screen: Screen, before: DataPortrait, after: DataPortrait,
    reasons: dict[str, int], tables: list[dict[str, Any]], picture: dict[str, Any] | None,
    further: list[tuple[str, str, float, float]], scorer: _Scorer,
) -> dict[str, Any]:  # fmt: skip
    fit = f"{choice.reduce} log-probability of a response under {choice.model}, nats"
    fit = fit if choice.method == "grape" else ""
    why = [[reason, str(number)] for reason, number in reasons.items() if "note:" not in reason]
    notes = [reason.removeprefix("note: ").capitalize() + "." for reason in reasons
             if reason.startswith("note:")]  # fmt: skip
    if choice.method == "grape":
        notes.append(
            f"Responses were scored after the {'chat' if scorer.prompt.chats else 'plain'} "
            "template: train with the same. Neither mean nor sum is neutral to length: compare the "
            "words of a response below."
        )
    if choice.method == "grape" and choice.judge is None:
        notes.append(
            "Nobody checked that the responses are right; among wrong ones the most probable wins. "
            "With a column of references, --judge leaves wrong ones out."
        )
    bad = sum(screen.dropped.values())
    quality = [("quality", "bad records, share", bad / (bad + screen.kept), 0.0)]
    if choice.judge is not None:
        wrong = screen.dropped.get("wrong response", 0)
        share = screen.kept / (screen.kept + wrong)
        quality.append(("quality", "right by the judge, share", share, 1.0))
    made = [
        {"title": "What was kept and why", "columns": ["Why", "Examples"], "rows": why, "note": ""},
        portrait_table(before, after, score=fit, further=[*quality, *further]),
        source_table(before, after),
        *tables,
        screen_table(screen.summary()),
    ]
    return {
        "title": f"Training data chosen by {choice.method}",
        "subtitle": f"{source}: {after.count} of {before.count} examples",
        "answer": f"{after.count} of {before.count} good examples kept: {METHODS[choice.method]}.",
        "notes": notes,
        "tables": [table for table in made if table is not None],
        "picture": picture,
        "screen": screen.summary(),
    }
