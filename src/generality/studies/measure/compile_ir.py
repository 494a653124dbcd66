"""What does LLVM IR share between C, C++ and Rust, and how much of it is copies?

Protocol (Grossman et al. 2023, arXiv 2309.15432): a data set paper, so its statements become
measurements of a corpus that is compiled here. Packages of C (LZ4, Blosc with zlib, Brotli), C++
(Clipper, an edit distance, CityHash) and Rust (13 crates) are compiled file by file to the IR of a
release build before any LLVM pass, and after -O3, with limits on time and memory.

Panels. `audit`: duplication and overlap of structural hashes, by language and level, over two
thirds of the source files drawn by the seed. `leak`: how many times smaller a 5-gram model makes
functions it has not seen, for random splits, splits without copies and splits by package.
`program-leak`: the same two splits for naming the algorithm of generated functions, drawn by a
power law, within a language. `tokens`: bytes of normalised IR that a token holds, for vocabularies
of the corpus's own and a general one.
`language-model`: the 5-gram model on a language from as many bytes of another one, of both others,
or of itself (ceiling). `transfer`: naming the algorithm (one of twelve) of generated functions in
one language, learned from another one (`single`) or from both others (`union`, as many functions),
from source text, IR as printed, normalised IR, or optimised IR, by a linear classifier of n-grams.
Floor: source text; ceiling: normalised IR of the language itself; control (`size`): instructions,
blocks and loops only. No program is in training and in test, whatever the languages.

Differences from the paper, with their effect: 20 packages instead of thousands (rates depend on
which ones; only signs can carry over); one file at a time instead of each build system (what needs
Python's headers or other crates fails, and is listed); textual IR instead of bitcode; copies of
functions are counted, not of modules; Swift and Julia are missing; which pass fires where is not
recorded. The `transfer` programs are ours: that
three front ends meet in one IR holds by construction, how nearly is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from generality.claims import Claim, Row, greater, less
from generality.errors import UserError
from generality.lab import Lab
from generality.studies.study import Paper

PAPER = Paper("ComPile: A Large IR Dataset from Production Sources", arxiv="2309.15432", year=2023)
FACTORS = ("panel", "language", "level", "training")
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
    features: int = 4096  # places to which runs of one to three words are hashed
    seeds: int = 5

    def __post_init__(self) -> None:
        if self.corpus not in ("compiled", "sample"):
            raise UserError(f"corpus is compiled or sample, not '{self.corpus}'.")


SCALES = {
    "smoke": Config(
        corpus="sample", programs=48, functions=120, language_bytes=8_000, order=3,
        vocabularies=(300, 500), tokenizer="minilm-l6", features=512, seeds=2,
    ),
    "small": Config(),
    "full": Config(
        programs=2000, distinct=1000, functions=20_000, language_bytes=5_000_000, seeds=10
    ),
}  # fmt: skip

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
        "A split at random flatters a classifier of what generated functions compute",
        greater("raw-split", "dedup-split", where={"panel": "program-leak"}),
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
    from generality.experiments.ir_panels import (
        audit_rows,
        program_leak_rows,
        text_rows,
        transfer_rows,
    )

    code = lab.step(corpus, config.corpus, config.sources)
    for seed in lab.seeds(config.seeds):
        for row in lab.step(audit_rows, code, seed):
            yield Row(panel="audit", seed=seed, **row)
        for row in lab.step(text_rows, code, config, seed):
            yield Row(seed=seed, **row)
    for seed in lab.seeds(config.seeds):
        records = lab.step(programs, config.corpus, config.programs, config.distinct, seed)
        for row in lab.step(program_leak_rows, records, config.features):
            yield Row(panel="program-leak", seed=seed, **row)
        for row in lab.step(transfer_rows, records, config.features, seed):
            yield Row(panel="transfer", seed=seed, **row)


def corpus(which: str, sources: Sequence[str]) -> list[dict[str, str]]:
    """Functions of the packages, compiled; those that do not compile are left out."""
    from pathlib import Path

    from generality.benchmarks.ir_compilers import LANGUAGES, need_compilers
    from generality.benchmarks.ir_corpus import compiled_folders, ir_records, plain, sample_corpus
    from generality.models import ARTIFACTS, fetch

    if which == "sample":
        return sample_corpus()["code"]
    need_compilers(sorted(set(LANGUAGES.values())))
    places = [fetch(name) if name in ARTIFACTS else Path(name) for name in sources]
    folders = [folder for place in places for folder in sorted(place.glob("*/"))]
    return plain(ir_records(compiled_folders(folders)[0]))


def programs(which: str, count: int, distinct: int, seed: int) -> list[dict[str, Any]]:
    """Generated functions, compiled in each language."""
    from generality.benchmarks.ir_corpus import sample_corpus
    from generality.benchmarks.ir_programs import compile_programs

    if which == "sample":
        languages: dict[str, list[dict[str, Any]]] = {}
        for record in sample_corpus()["programs"]:
            languages.setdefault(record["language"], []).append(record)
        return [record for records in languages.values() for record in records[:count]]
    return compile_programs(count, seed=seed, distinct=distinct)
