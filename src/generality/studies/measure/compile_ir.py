"""What does LLVM IR share between C, C++ and Rust, and how much of it is copies?

Protocol (Grossman et al. 2023, arXiv 2309.15432): a data set paper, so its statements become
measurements of a corpus that is compiled here. Packages of C (LZ4, Blosc with zlib, Brotli), C++
(Clipper, an edit distance, CityHash) and Rust (13 crates) are compiled file by file to the IR of a
release build before any LLVM pass, and after -O3, with limits on time and memory.

Panels. `audit`: duplication and overlap of structural hashes, by language and level, over two
thirds of the source files drawn by the seed. `leak`: how many times smaller a 5-gram model makes
functions it has not seen, for random splits, splits without copies and splits by package. `tokens`:
bytes of normalised IR that a token holds, for vocabularies of the corpus's own and a general one.
`language-model`: the 5-gram model on a language from as many bytes of another one, of both others,
or of itself (ceiling). `transfer`: naming the algorithm (one of twelve) of generated functions in
one language, learned from another one (`single`) or from both others (`union`, as many functions),
from source text, IR as printed, normalised IR, or optimised IR, by logistic regression on n-grams.
Floor: source text; ceiling: normalised IR of the language itself; control (`size`): instructions,
blocks and loops only. No program is in training and in test, whatever the languages.

Differences from the paper, with their effect: 20 packages instead of thousands (rates depend on
which ones; only signs can carry over); one file at a time instead of each build system (what needs
Python's headers or other crates fails, and is listed); textual IR instead of bitcode; Swift and
Julia are missing; which pass fires where is not recorded. The `transfer` programs are ours: that
three front ends meet in one IR holds by construction, how nearly is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from generality.benchmarks.dedup_split import dedup_split
from generality.benchmarks.splits import holdout
from generality.claims import Claim, Row, greater, less
from generality.errors import UserError
from generality.lab import Lab
from generality.studies.study import Paper

PAPER = Paper("ComPile: A Large IR Dataset from Production Sources", arxiv="2309.15432", year=2023)
SOURCES = (
    "sources-lz4", "sources-numcodecs", "sources-brotli", "sources-pyclipper",
    "sources-editdistance", "sources-cityhash", "sources-orjson",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    corpus: str = "compiled"  # here, or "sample": what comes with generality
    sources: tuple[str, ...] = SOURCES  # artifacts, or folders of one folder a package
    programs: int = 240  # generated functions a seed, in each language
    distinct: int = 160  # programs that they are drawn from
    functions: int = 700  # of the corpus that the 5-gram model sees a seed
    language_bytes: int = 80_000  # of normalised IR that it learns a language from
    order: int = 5
    vocabularies: tuple[int, ...] = (1000, 8000)  # of byte-level BPE; the model takes the first
    tokenizer: str = "smollm2-135m"  # the general one
    features: int = 3000  # n-grams of one to three words that the classifier sees
    seeds: int = 5

    def __post_init__(self) -> None:
        if self.corpus not in ("compiled", "sample"):
            raise UserError(f"corpus is compiled or sample, not '{self.corpus}'.")


SCALES = {
    "smoke": Config(
        corpus="sample", functions=150, language_bytes=15_000, vocabularies=(300, 600),
        tokenizer="minilm-l6", features=800, seeds=2,
    ),
    "small": Config(),
    "full": Config(
        programs=2000, distinct=1000, functions=20_000, language_bytes=5_000_000, seeds=10
    ),
}  # fmt: skip

LANGUAGES = ("c", "c++", "rust")
SINGLE = {"panel": "transfer", "training": "single"}
CLAIMS = (
    Claim(
        "More than a tenth of functions are copies",
        greater("duplication", 0.1, where={"panel": "audit", "level": "before"}),
    ),
    Claim(
        "Languages share less code than each has copies of its own",
        less("overlap", "duplication", where={"panel": "audit"}),
    ),
    Claim(
        "Fewer functions are copies after optimisation",
        less("after", "before", by="level", where={"panel": "audit", "method": "duplication"}),
    ),
    Claim(
        "A split at random flatters a language model",
        greater("raw-split", "dedup-split", where={"panel": "leak"}),
    ),
    Claim(
        "Copies aside, functions of the same packages flatter it too",
        greater("dedup-split", "package-split", where={"panel": "leak"}),
    ),
    Claim(
        "A vocabulary of the corpus's own holds more text in a token than a general one",
        greater("large", "general", where={"panel": "tokens"}),
    ),
    Claim(
        "Six times as much",
        greater("large", 6.0, on="ratio", where={"panel": "tokens"}),
        expected_at="full",
    ),
    Claim(
        "Two languages predict a third one better than one does, of as many bytes",
        greater("union", "single", where={"panel": "language-model"}),
    ),
    Claim(
        "Two languages teach to read a third one better than one does, of as many functions",
        greater("union", "single", by="training", where={"panel": "transfer", "method": "ir"}),
    ),
    Claim(
        "IR carries further to another language than source text",
        greater("ir", "source", where=SINGLE),
    ),
    Claim(
        "Optimised IR carries further than IR before optimisation",
        greater("optimised", "ir", where=SINGLE),
    ),
    Claim(
        "Optimised IR says more than the size of a function",
        greater("optimised", "size", where=SINGLE),
    ),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of the corpus's panels, then of the generated programs'."""
    code = lab.step(corpus, config.corpus, config.sources)
    for seed in lab.seeds(config.seeds):
        for row in lab.step(audit_rows, code, seed):
            yield Row(panel="audit", seed=seed, **row)
        for row in lab.step(text_rows, code, config, seed):
            yield Row(seed=seed, **row)
    for seed in lab.seeds(config.seeds):
        records = lab.step(programs, config.corpus, config.programs, config.distinct, seed)
        for row in lab.step(transfer_rows, records, config.features, seed):
            yield Row(panel="transfer", seed=seed, **row)


def corpus(which: str, sources: Sequence[str]) -> list[dict[str, str]]:
    """Functions of the packages, compiled; those that do not compile are left out."""
    from pathlib import Path

    from generality.benchmarks.ir_compilers import need_compilers
    from generality.benchmarks.ir_corpus import compiled_folders, ir_records, plain, sample_corpus
    from generality.models import ARTIFACTS, fetch

    if which == "sample":
        return sample_corpus()["code"]
    need_compilers(LANGUAGES)
    places = [fetch(name) if name in ARTIFACTS else Path(name) for name in sources]
    folders = [folder for place in places for folder in sorted(place.glob("*/"))]
    return plain(ir_records(compiled_folders(folders)[0]))


def programs(which: str, count: int, distinct: int, seed: int) -> list[dict[str, Any]]:
    """Generated functions, compiled in each language."""
    from generality.benchmarks.ir_corpus import sample_corpus
    from generality.benchmarks.ir_programs import compile_programs

    if which == "sample":
        return sample_corpus()["programs"]
    return compile_programs(count, seed=seed, distinct=distinct)


def audit_rows(code: list[dict[str, str]], seed: int) -> list[dict[str, Any]]:
    """Duplication and overlap of two thirds of the source files."""
    from generality.measures.corpus_audit import audit_corpus

    rng = np.random.default_rng(seed)
    files = sorted({(r["package"], r["path"]) for r in code})
    drawn = {files[i] for i in rng.permutation(len(files))[: max(3, 2 * len(files) // 3)]}
    rows = []
    for level, key in (("before", "key"), ("after", "optimised_key")):
        taken = [r for r in code if (r["package"], r["path"]) in drawn and r[key]]
        audit = audit_corpus([r[key] for r in taken], [r["language"] for r in taken])
        for i, language in enumerate(audit.groups):
            said = {"language": language, "level": level}
            others = [audit.overlap[i, j] for j in range(len(audit.groups)) if j != i]
            rows.append({"method": "duplication", "score": audit.duplication[language], **said})
            rows.append({"method": "overlap", "score": float(max(others, default=0.0)), **said})
    return rows


def encoder(config: Config) -> Callable[[str], Sequence[int]]:
    """The general tokenizer."""
    from generality.models import load_tokenizer

    tokenizer = load_tokenizer(config.tokenizer)
    return lambda text: tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def text_rows(code: list[dict[str, str]], config: Config, seed: int) -> list[dict[str, Any]]:
    """The panels on normalised text: leaks, tokens, and a model of one language on another."""
    from generality.estimators.code_readers import CodeCompressor, first_bytes
    from generality.measures.token_fertility import tokenizer_fertility, train_bpe

    order = np.random.default_rng(seed).permutation(len(code))
    drawn = [code[i] for i in order[: config.functions]]
    texts = [r["ir"] for r in drawn]
    keys = [r["key"] for r in drawn]
    train, test = dedup_split(keys, seed=seed)
    own = {size: train_bpe([texts[i] for i in train], size) for size in config.vocabularies}
    tokens = {f"{name}": (lambda text, t=own[size]: t.encode(text).ids)  # type: ignore[misc]
              for name, size in zip(("small", "large"), own, strict=True)}  # fmt: skip
    held = tokenizer_fertility({**tokens, "general": encoder(config)}, [texts[i] for i in test])
    rows: list[dict[str, Any]] = [
        {"panel": "tokens", "method": name, "score": score, "ratio": score / held["general"]}
        for name, score in held.items()
    ]
    model = CodeCompressor(tokens["small"], config.vocabularies[0], config.order)
    packages = sorted({r["package"] for r in drawn})
    away: list[str] = []
    for i in np.random.default_rng(seed).permutation(len(packages)):
        if sum(r["package"] in away for r in drawn) < len(test):
            away.append(packages[i])
    by_package = holdout([r["package"] for r in drawn], by="site", held=away, groups=keys)
    size = min(len(train), len(by_package[0]))
    splits = {
        "raw-split": (np.arange(size), np.arange(size, len(drawn))),
        "dedup-split": (train[:size], test),
        "package-split": (by_package[0][:size], by_package[1]),
    }
    for method, (a, b) in splits.items():
        score = model([texts[i] for i in a], [texts[i] for i in b])
        rows.append({"panel": "leak", "method": method, "score": score})
    unique = list({r["key"]: r for r in (code[i] for i in order)}.values())
    of = {name: [r["ir"] for r in unique if r["language"] == name] for name in LANGUAGES}
    for target in LANGUAGES:
        others = [name for name in LANGUAGES if name != target]
        exam, rest = of[target][: len(of[target]) // 4], of[target][len(of[target]) // 4 :]
        whole, half = config.language_bytes, config.language_bytes // 2
        ceiling = model(first_bytes(rest, whole), exam)
        singles = [model(first_bytes(of[name], whole), exam) for name in others]
        union = model([t for name in others for t in first_bytes(of[name], half)], exam)
        for method, score in (("single", float(np.mean(singles))), ("union", union)):
            rows.append({"panel": "language-model", "method": method, "language": target,
                         "score": score, "ceiling": ceiling})  # fmt: skip
    return rows


def transfer_rows(records: list[dict[str, Any]], features: int, seed: int) -> list[dict[str, Any]]:
    """Accuracy of naming the algorithm, for every representation, training and target language."""
    from generality.estimators.code_readers import read_labels

    sides = dedup_split(
        [r["program"] for r in records], keep_copies=True, shares=(0.6, 0.4), seed=seed
    )
    of = {
        (name, side): [records[i] for i in rows if records[i]["language"] == name]
        for name in LANGUAGES
        for side, rows in zip(("train", "test"), sides, strict=True)
    }

    def accuracy(view: str, train: list[dict[str, Any]], test: list[dict[str, Any]]) -> float:
        column = "ir" if view == "size" else view
        return read_labels(
            [r[column] for r in train], [r["algorithm"] for r in train],
            [r[column] for r in test], [r["algorithm"] for r in test],
            features=features, sizes=view == "size",
        )  # fmt: skip

    found = []
    for target in LANGUAGES:
        exam = of[target, "test"]
        others = [of[name, "train"] for name in LANGUAGES if name != target]
        ceiling = accuracy("ir", of[target, "train"], exam)
        floors: dict[str, float] = {}
        for view in ("source", "raw", "ir", "optimised", "size"):
            scores = {
                "single": float(np.mean([accuracy(view, train, exam) for train in others])),
                "union": accuracy(view, others[0][::2] + others[1][1::2], exam),
            }
            floors = floors or scores
            found += [
                {"method": view, "training": training, "language": target, "score": score,
                 "floor": floors[training], "ceiling": ceiling}
                for training, score in scores.items()
            ]  # fmt: skip
    return found
