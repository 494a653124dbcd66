"""Specialising a small language model: what is gained on one skill, and what is paid elsewhere?

Protocol (Fu et al. 2023, arXiv 2301.12726). A small model that knows several tasks is tuned on
chains of thought for one of them, sums of more steps than it has seen, from a solver and the token
probabilities of a larger teacher. Every checkpoint is scored on the target, on relatives of it
that are not tuned on (shorter and longer chains, other names), with a demonstration in the prompt,
and on five other tasks. Floor: the model before. Ceiling: a model of four times the size,
specialised alike. Data of several formats are compared at equal numbers of tokens.

Differences from the paper, each with its effect: decoders of 0.05M to 0.25M parameters and
procedural tasks instead of T5 and GSM8K (no pretrained knowledge; forgetting is quicker); solutions
come from an exact solver, so none needs to be filtered, and the teacher's probabilities are those
it gives to these solutions; the teacher reads pairs of digits as one token, so that its
probabilities need aligning; one demonstration instead of four; formats are mixed within a batch,
so a format weighs by its tokens; the same base is shared by all seeds, which differ in the data of
specialisation. "Starting from an instruction-tuned model" is starting from the generic model here,
against random weights. The panel `sums` is of SmolLM2, specialised on worked sums by low-rank
adapters.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generality.claims import Claim, Row, greater, less, monotone
from generality.errors import UserError
from generality.lab import Lab, TrainConfig
from generality.studies.study import Paper

if TYPE_CHECKING:
    from generality.experiments.specialist_tasks import SpecialistTasks

PAPER = Paper(
    "Specializing Smaller Language Models towards Multi-Step Reasoning",
    arxiv="2301.12726",
    year=2023,
)
FACTORS = ("panel", "size", "arms")
ARMS: dict[str, tuple[Any, ...]] = {
    "sample": ("icl_cot", "icl_ans", "zs_cot", "zs_ans"),
    "distribution": ("icl_cot", "icl_ans", "zs_cot", "zs_ans"),
    "zero-shot": ("zs_cot",),
    "in-context": ("icl_cot",),
    "from-scratch": ("icl_cot", "icl_ans", "zs_cot", "zs_ans"),
}
"""Formats of each arm; "distribution" matches the teacher's probabilities, the others samples."""


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    sizes: tuple[str, ...] = ("0.05M", "0.15M", "0.25M")  # ascending; with data_path model names
    main: str = "0.15M"  # the size at which all arms run; at the others "sample" alone
    data_path: str | None = None  # folder of your own tasks; None: chains and lists
    others: tuple[str, ...] = ("copy", "reverse", "first", "last", "max")  # tasks that should stay
    style: str = "full"  # of the steps: all their work, or "equations", or the values as "states"
    modulus: int = 5  # of the sums
    base_steps: int = 2  # of the longest chain before specialising
    steps: int = 3  # of the chains that are specialised on
    base: int = 20_000  # chains the generic model learns from
    lists: int = 4000  # problems of the other tasks, in equal shares
    base_learning_rate: float = 3e-3
    teacher: str = "0.25M"  # size of the teacher
    teacher_chains: int = 12_000  # of up to `steps` steps that the teacher learns from
    k: int = 5  # token probabilities that the teacher tells
    k_shot: int = 1  # demonstrations in a prompt
    problems: int = 4000  # of specialisation
    tokens: int = 600_000  # read by each arm: about 600 updates
    learning_rate: float = 3e-3
    batch_size: int = 16
    validation: int = 50  # problems of each kind that a checkpoint is chosen by
    test: int = 100  # problems of each kind that count
    max_tokens: int = 40  # of an answer
    checkpoints: tuple[float, ...] = (0.33, 0.67)  # shares of training, and its end
    seeds: int = 4
    real: str | None = "smollm2-135m"  # the model of its panel, or a size of `tiny_decoder`
    real_sums: int = 16  # that it learns from by LoRA, of three one-digit numbers
    real_test: int = 24  # other sums
    real_tokens: int = 32  # of an answer
    real_texts: str = "bbc"  # a benchmark of texts that may become less probable
    real_articles: int = 16  # of them, cut to 40 words
    real_seeds: int = 3

    def __post_init__(self) -> None:
        if self.main not in self.sizes or not self.base_steps < self.steps:
            raise UserError("main is one of sizes, and steps are more than base_steps.")


SCALES = {
    "smoke": Config(
        sizes=("0.05M",), main="0.05M", others=("copy", "last"), base=64, lists=64, teacher="0.05M",
        teacher_chains=64, problems=48, tokens=2000, validation=6, test=8, checkpoints=(0.5,),
        seeds=1, max_tokens=5, real="0.05M", real_sums=4, real_test=2, real_tokens=4,
        real_texts="drug_reviews", real_articles=2, real_seeds=1,
    ),
    "small": Config(),
    "full": Config(
        sizes=(
            "hf:HuggingFaceTB/SmolLM2-135M-Instruct", "hf:HuggingFaceTB/SmolLM2-360M-Instruct",
            "hf:HuggingFaceTB/SmolLM2-1.7B-Instruct", "hf:Qwen/Qwen2.5-7B-Instruct",
        ),
        main="hf:HuggingFaceTB/SmolLM2-360M-Instruct", data_path="data/specialized-small-lm",
        teacher="hf:Qwen/Qwen2.5-7B-Instruct", k_shot=4, problems=100_000, tokens=100_000_000,
        learning_rate=5e-4, batch_size=250, validation=500, test=10_000, max_tokens=256, seeds=3,
        real="hf:HuggingFaceTB/SmolLM2-360M", real_sums=500, real_test=200,
    ),
}  # fmt: skip

TARGET, CHOICE, SUMS = {"panel": "target"}, {"panel": "choice"}, {"panel": "sums"}
CLAIMS = (
    Claim(
        "Specialising raises accuracy on the target, at every size",
        greater("sample", "before", where=TARGET),
    ),
    Claim(
        "What comes out rises with size",
        monotone("parameters", where={**TARGET, "method": "sample"}),
    ),
    Claim(
        "It is paid for: the other tasks fall",
        less("sample", "before", on="generic", where=TARGET),
    ),
    Claim(
        "At the smallest size hardly anything of them is left (below 0.1)",
        less("sample", 0.1, on="generic", where={**TARGET, "rank": 0}),
    ),
    Claim(
        "The gain carries over to relatives of the target",
        greater("sample", "before", on="relatives", where=TARGET),
    ),
    Claim(
        "Validation on relatives chooses better checkpoints for relatives than on the target",
        greater("by-relatives", "by-target", where=CHOICE),
    ),
    Claim(
        "In-context data keep the skill with demonstrations, zero-shot data lose it",
        greater("in-context", "zero-shot", on="with_demonstrations", where=TARGET),
    ),
    Claim(
        "In-context data teach the skill without demonstrations too",
        greater("in-context", "before", where={**TARGET, "arms": "all"}),
    ),
    Claim(
        "Zero-shot data lose what in-context ability there was",
        less("zero-shot", "before", on="with_demonstrations", where={**TARGET, "arms": "all"}),
    ),
    Claim(
        "Matching the teacher's distribution is no worse than matching samples (within 0.05)",
        greater("distribution", "sample", where={**TARGET, "arms": "all"}),
        paper_says="better or equal, with a lower variance and faster",
    ),
    Claim(
        "Starting from the generic model beats random weights on the target",
        greater("sample", "from-scratch", where={**TARGET, "arms": "all"}),
    ),
    Claim(
        "And on its relatives",
        greater("sample", "from-scratch", on="relatives", where={**TARGET, "arms": "all"}),
    ),
    Claim(
        "SmolLM2 tuned on worked sums after a solved one gets more sums right",
        greater("in-context", "before", where=SUMS),
    ),
    Claim(
        "It is paid for: texts about other things become less probable to it",
        less("in-context", "before", on="texts", where=SUMS),
    ),
    Claim(
        "After an example it gets more right than when it was tuned without examples",
        greater("in-context", "zero-shot", on="with_demonstrations", where=SUMS),
    ),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every size, arm and seed, and of the choice among checkpoints."""
    from generality.experiments.specialist_tasks import specialist_scores

    tasks = specialist_tasks(config)
    bases = {size: tasks.base(lab, size) for size in config.sizes}
    found: dict[tuple[int, str, str], float] = {}
    for size in sorted(bases, key=lambda size: -bases[size][1]):  # the ceilings first
        weights, parameters = bases[size]
        score = functools.partial(specialist_scores, lab, tasks, size, max_tokens=config.max_tokens)
        before = score(weights)
        larger = [other for other in config.sizes if 4 * parameters <= bases[other][1] * 1.2]
        for seed in lab.seeds(config.seeds):
            about = {
                "seed": seed, "size": size, "parameters": parameters,
                "rank": config.sizes.index(size),
                "arms": "all" if size == config.main else "sample",
            }  # fmt: skip
            ceiling = found[seed, larger[0], "sample"] if larger else None
            edges = {"panel": "target", "floor": before["target"], "ceiling": ceiling}
            yield Row(method="before", score=before["target"], tokens=0, **edges, **about, **before)
            for method in tuple(ARMS) if size == config.main else ("sample",):
                tuned = specialise(config, lab, tasks, size, method, weights, seed)
                after = score(tuned.weights)
                found[seed, size, method] = after["target"]
                yield Row(
                    method=method, score=after["target"], tokens=tuned.tokens, **edges, **about,
                    **after,
                )  # fmt: skip
                if method == "sample":
                    history = [score(kept) for kept in tuned.kept.values()] + [after]
                    yield from (Row(row, **about) for row in choices(before, history))
    if config.real:
        yield from real_rows(config, lab, config.real)


def real_rows(config: Config, lab: Lab, name: str) -> Iterator[Row]:
    """A real model that learns sums, and what it then makes of other texts."""
    from generality.experiments.specialised_sums import specialised_rows
    from generality.experiments.sum_school import SumSchool, other_texts

    articles = other_texts(config.real_texts, config.real_articles)
    school = SumSchool(lab, name, max_tokens=config.real_tokens)
    for seed in lab.seeds(config.real_seeds):
        for row in specialised_rows(
            school, config.real_sums, config.real_test, articles, seed=seed
        ):
            yield Row(row, panel="sums")


def specialist_tasks(config: Config) -> SpecialistTasks:
    """Chains and lists, or the user's own files."""
    from generality.experiments.specialist_tasks import ChainTasks, FileTasks

    if config.data_path is not None:
        return FileTasks(
            Path(config.data_path), config.main, config.teacher, count=config.problems,
            test=config.test, validation=config.validation, k_shot=config.k_shot,
        )  # fmt: skip
    return ChainTasks(
        config.others, config.modulus, config.base_steps, config.steps, chains=config.base,
        lists=config.lists, count=config.problems, test=config.test, validation=config.validation,
        k_shot=config.k_shot, rate=config.base_learning_rate, batch_size=config.batch_size,
        teacher=config.teacher, teacher_chains=config.teacher_chains, style=config.style,
    )  # fmt: skip


def choices(before: dict[str, float], history: Sequence[dict[str, float]]) -> Iterator[Row]:
    """What comes of choosing a checkpoint by either validation set, for the relatives."""
    from generality.measures import select_checkpoint

    best = max(scores["relatives"] for scores in history)
    for method, by in (("by-target", "target_val"), ("by-relatives", "relatives_val")):
        chosen = select_checkpoint(history, by=[by], on=["relatives"])
        yield Row(
            method=method, panel="choice", score=chosen.score, floor=before["relatives"],
            ceiling=best, regret=chosen.regret, checkpoint=chosen.index + 1,
        )  # fmt: skip


def specialise(
    config: Config, lab: Lab, tasks: SpecialistTasks, size: str, method: str, weights: Any,
    seed: int,
) -> Any:  # fmt: skip
    """The model tuned on the target in the formats of an arm, for a number of tokens."""
    from generality.models import encode_response, topk_columns
    from generality.objectives import TopkDistillation
    from generality.selection import FormatMixer

    problems = tasks.problems(seed)
    mixer = FormatMixer(problems, k_shot=config.k_shot, template=tasks.template, seed=seed)
    examples = mixer.mix(problems, ARMS[method])
    encoded = [encode_response(tasks.tokenizer, e.prompt, e.response) for e in examples]
    options: dict[str, Any] = {}
    if method == "distribution":
        soft = tasks.topk(lab, problems, config.k)
        columns = [
            topk_columns(tasks.tokenizer, *row, soft[i] if "cot" in e.format else None, k=config.k)
            for i, (row, e) in enumerate(zip(encoded, examples, strict=True))
        ]
        ids, probs = ([column[part] for column in columns] for part in (0, 1))
        options = {"wrap": TopkDistillation, "extra": {"topk_ids": ids, "topk_probs": probs}}
    if method == "sample":
        options["keep"] = config.checkpoints
    return lab.sft(
        tasks.network(size), [e.prompt for e in examples], [e.response for e in examples],
        tokenizer=tasks.tokenizer, weights=None if method == "from-scratch" else weights, seed=seed,
        config=TrainConfig(
            config.tokens / sum(len(row) for row, _ in encoded), config.batch_size,
            learning_rate=config.learning_rate, warmup=0.05,
        ),
        **options,
    )  # fmt: skip
