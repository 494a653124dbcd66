"""Specialising a small language model: what is gained on one skill, and what is paid elsewhere?

Protocol (Fu et al. 2023, arXiv 2301.12726). A small model that knows several tasks is tuned on
chains of thought for one of them, sums of more steps than it has seen, from a solver and the token
probabilities of a larger teacher. Every checkpoint is scored on the target, on relatives of it
that are not tuned on (shorter and longer chains, other names), with a demonstration in the prompt,
and on five other tasks. Floor: the model before. Ceiling: a model of four times the size,
specialised alike. Data of several formats are compared at equal numbers of tokens.

Differences from the paper, each with its effect: decoders of 0.05M to 0.6M parameters and
procedural tasks instead of T5 and GSM8K (no pretrained knowledge; forgetting is quicker); solutions
come from an exact solver, so none needs to be filtered, and the teacher's probabilities are those
it gives to these solutions; the teacher reads pairs of digits as one token, so that its
probabilities need aligning; one demonstration instead of four; formats are mixed within a batch,
so a format weighs by its tokens; the same base is shared by all seeds, which differ in the data of
specialisation. "Starting from an instruction-tuned model" is starting from the generic model here,
against random weights.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from generality.benchmarks.worlds import ChainPrograms, string_task, terse, world_tokenizer
from generality.benchmarks.worlds.problem import answer_of
from generality.claims import Claim, Row, greater, less, monotone
from generality.errors import UserError
from generality.lab import Lab, TrainConfig
from generality.measures import CapabilityLedger, select_checkpoint
from generality.models import (
    encode_response,
    load_model,
    load_tokenizer,
    project_topk,
    teacher_topk,
    tiny_decoder,
)
from generality.objectives import TopkDistillation
from generality.selection import FormatMixer, NumberMatch, Template, Worked
from generality.studies.study import Paper

PAPER = Paper(
    "Specializing Smaller Language Models towards Multi-Step Reasoning",
    arxiv="2301.12726",
    year=2023,
)
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

    sizes: tuple[str, ...] = ("0.05M", "0.15M", "0.6M")  # ascending; with data_path model names
    main: str = "0.15M"  # the size at which all arms run; at the others "sample" alone
    data_path: str | None = None  # folder of your own tasks; None: chains and lists
    others: tuple[str, ...] = ("copy", "reverse", "first", "last", "max")  # tasks that should stay
    modulus: int = 5  # of the sums
    base_steps: int = 1  # of the longest chain before specialising
    steps: int = 2  # of the chains that are specialised on
    base: int = 10_000  # chains the generic model learns from
    lists: int = 15_000  # problems of the other tasks, in equal shares
    base_learning_rate: float = 3e-3
    teacher: str = "0.25M"  # size of the teacher
    teacher_chains: int = 12_000  # of up to `steps` steps that the teacher learns from
    k: int = 5  # token probabilities that the teacher tells
    k_shot: int = 1  # demonstrations in a prompt
    problems: int = 4000  # of specialisation
    tokens: int = 120_000  # read by each arm
    learning_rate: float = 3e-3
    batch_size: int = 32
    validation: int = 50  # problems of each kind that a checkpoint is chosen by
    test: int = 100  # problems of each kind that count
    max_tokens: int = 10  # of an answer
    checkpoints: tuple[float, ...] = (0.25, 0.5, 0.75)  # shares of training, and its end
    seeds: int = 4

    def __post_init__(self) -> None:
        if self.main not in self.sizes or not self.base_steps < self.steps:
            raise UserError("main is one of sizes, and steps are more than base_steps.")


SCALES = {
    "smoke": Config(
        sizes=("0.05M",), main="0.05M", others=("copy", "last"), base=64, lists=64, teacher="0.05M",
        teacher_chains=64, problems=48, tokens=2000, validation=6, test=8, checkpoints=(0.5,),
        seeds=1, max_tokens=5,
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
    ),
}  # fmt: skip

TARGET, CHOICE = {"panel": "target"}, {"panel": "choice"}
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
)  # fmt: skip


@dataclass(frozen=True)
class Exam:
    """Prompts with their answers."""

    prompts: list[str]
    answers: list[str]


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every size, arm and seed, and of the choice among checkpoints."""
    world = Files(config) if config.data_path is not None else Worlds(config)
    bases = {size: world.base(lab, size) for size in config.sizes}
    found: dict[tuple[int, str, str], dict[str, float]] = {}
    rows: list[Row] = []
    for size in config.sizes:
        weights, parameters = bases[size]
        score = functools.partial(scores, lab, world, size)
        before = score(weights)
        for seed in lab.seeds(config.seeds):
            arms = tuple(ARMS) if size == config.main else ("sample",)
            about = {
                "seed": seed, "size": size, "parameters": parameters,
                "rank": config.sizes.index(size),
                "arms": "all" if size == config.main else "sample",
            }  # fmt: skip
            rows.append(Row(method="before", panel="target", tokens=0, **about, **before))
            for method in arms:
                tuned = specialise(config, lab, world, size, method, weights, seed)
                found[seed, size, method] = after = score(tuned.weights)
                rows.append(
                    Row(method=method, panel="target", tokens=tuned.tokens, **about, **after)
                )
                if method == "sample":
                    history = [score(kept) for kept in tuned.kept.values()] + [after]
                    rows += [Row(row, **about) for row in choices(before, history)]
    for row in rows:
        if row["panel"] == "target":
            floor = next(
                other["target"] for other in rows
                if other["method"] == "before" and other["size"] == row["size"]
            )  # fmt: skip
            larger = [
                size for size in config.sizes if 4 * row["parameters"] <= bases[size][1] * 1.2
            ]
            ceiling = found[row["seed"], larger[0], "sample"]["target"] if larger else None
            row |= {"score": row["target"], "floor": floor, "ceiling": ceiling}
        yield row


def scores(lab: Lab, world: Worlds | Files, size: str, weights: Any) -> dict[str, float]:
    """Accuracies of one model on every exam, and their means."""

    def grade(exam: Exam) -> Callable[[Any], float]:
        def accuracy(model: Any) -> float:
            said = lab.generate(
                world.network(size), exam.prompts, weights=model, tokenizer=world.tokenizer,
                max_tokens=world.config.max_tokens,
            )  # fmt: skip
            return float(
                np.mean(
                    [
                        world.is_right(text, answer)
                        for (text,), answer in zip(said, exam.answers, strict=True)
                    ]
                )
            )

        return accuracy

    exams = {name: grade(exam) for name, exam in world.exams.items()}
    graded = CapabilityLedger(exams, target=["target"]).record(size, weights)
    for group in ("relatives", "relatives_val", "generic"):
        of = [score for name, score in graded.items() if name.startswith(f"{group}:")]
        graded[group] = float(np.mean(of))
    return {name: score for name, score in graded.items() if ":" not in name}


def choices(before: dict[str, float], history: Sequence[dict[str, float]]) -> Iterator[Row]:
    """What comes of choosing a checkpoint by either validation set, for the relatives."""
    best = max(scores["relatives"] for scores in history)
    for method, by in (("by-target", "target_val"), ("by-relatives", "relatives_val")):
        chosen = select_checkpoint(history, by=[by], on=["relatives"])
        yield Row(
            method=method, panel="choice", score=chosen.score, floor=before["relatives"],
            ceiling=best, regret=chosen.regret, checkpoint=f"{chosen.index + 1}/{len(history)}",
        )  # fmt: skip


def specialise(
    config: Config, lab: Lab, world: Worlds | Files, size: str, method: str, weights: Any, seed: int
) -> Any:
    """The model tuned on the target in the formats of an arm, for a number of tokens."""
    problems = world.problems(seed)
    mixer = FormatMixer(problems, k_shot=config.k_shot, template=world.template, seed=seed)
    examples = mixer.mix(problems, ARMS[method])
    encoded = [encode_response(world.tokenizer, e.prompt, e.response) for e in examples]
    options: dict[str, Any] = {}
    if method == "distribution":
        soft = world.topk(lab, problems)
        columns = [
            targets(world.tokenizer, config.k, *tokens, soft[i] if "cot" in e.format else None)
            for i, (tokens, e) in enumerate(zip(encoded, examples, strict=True))
        ]
        ids, probs = ([column[part] for column in columns] for part in (0, 1))
        options = {"wrap": TopkDistillation, "extra": {"topk_ids": ids, "topk_probs": probs}}
    if method == "sample":
        options["keep"] = config.checkpoints
    return lab.sft(
        world.network(size), [e.prompt for e in examples], [e.response for e in examples],
        tokenizer=world.tokenizer, weights=None if method == "from-scratch" else weights, seed=seed,
        config=TrainConfig(
            config.tokens / sum(len(row) for row, _ in encoded), config.batch_size,
            learning_rate=config.learning_rate, warmup=0.05,
        ),
        **options,
    )  # fmt: skip


def targets(
    tokenizer: Any, k: int, tokens: list[int], start: int, soft: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Targets of every token: none of the prompt's, the teacher's where they can be aligned."""
    ids, probs = np.zeros((len(tokens), k), np.int64), np.zeros((len(tokens), k), np.float32)
    ids[start:, 0], probs[start:, 0] = tokens[start:], 1.0
    if soft is not None:
        own = tokenizer.convert_ids_to_tokens(tokens[start:-1])  # the last one ends the sequence
        teacher, likely = soft
        vocabulary = tokenizer.get_vocab()
        ids[start:-1], probs[start:-1] = project_topk(likely, teacher, own, vocabulary, k=k)
    return ids, probs


def soft_targets(
    network: Any, weights: Any, tokenizer: Any, prompts: list[str], responses: list[str], k: int
) -> list[Any]:
    """A teacher's likeliest tokens; a kept step."""
    model = network(0)
    if weights is not None:
        model.load_state_dict(weights)
    return [list(pair) for pair in teacher_topk(model.eval(), tokenizer, prompts, responses, k=k)]


class Worlds:
    """Chains of sums as the target, operations on lists as the other tasks."""

    template = Template(ask="{question}", cue=" steps", final=" => {answer}", between=" | ")

    def __init__(self, config: Config) -> None:
        self.config, self.source = config, ChainPrograms(config.modulus)
        self.tokenizer = world_tokenizer([*config.others, "steps"])
        count = config.test + config.validation
        drawn = {
            "target": self.source.sample(count, config.steps, 0),
            "relatives:shorter": self.source.sample(count, (1, config.base_steps), 0),
            "relatives:longer": self.source.sample(count, config.steps + 1, 0),
            "relatives:renamed": replace(self.source, rename=True).sample(count, config.steps, 0),
        }
        self.held = {chain.prompt for chain in drawn["target"]}
        self.exams: dict[str, Exam] = {}
        shots = FormatMixer(self.problems(0), k_shot=config.k_shot, template=self.template)
        for name, chains in drawn.items():
            worked = [self._worked(chain) for chain in chains]
            parts = {name.replace("relatives", "relatives_val"): worked[config.test :]}
            if name == "target":
                parts = {"target_val": worked[config.test :]}
                self.exams["with_demonstrations"] = self._exam(
                    shots, worked[: config.test], "icl_cot"
                )
            for part, some in {name: worked[: config.test], **parts}.items():
                self.exams[part] = self._exam(shots, some, "zs_cot")
        for name in config.others:
            tests = string_task(name).sample(config.validation, (2, 4), 0)
            self.exams[f"generic:{name}"] = Exam(
                [test.prompt for test in tests], [test.answer for test in tests]
            )

    def is_right(self, text: str, answer: str) -> bool:
        """Whether a response gives this answer."""
        return answer_of(text) == answer

    def network(self, size: str) -> Any:
        """From a seed to a model of this size."""
        return functools.partial(tiny_decoder, size, vocabulary=len(self.tokenizer), context=256)

    def problems(self, seed: int) -> list[Worked]:
        """Chains of a seed to specialise on, none of the target's exams."""
        drawn = self.source.sample(self.config.problems, self.config.steps, seed + 1)
        return [self._worked(chain) for chain in drawn if chain.prompt not in self.held]

    def base(self, lab: Lab, size: str) -> tuple[Any, int]:
        """The generic model's weights and its number of parameters."""
        config = self.config
        chains = self.source.sample(config.base, (1, config.base_steps), 1)
        worked = [self._worked(chain) for chain in chains]
        mixer = FormatMixer(worked, k_shot=config.k_shot, template=self.template)
        pairs = [(example.prompt, example.response) for example in mixer.mix(worked)]
        for name in config.others:
            avoid = {*self.exams[f"generic:{name}"].prompts}
            count = config.lists // len(config.others)
            for problem in string_task(name).sample(count, (2, 4), 1, avoid=avoid):
                pairs.append((problem.prompt, terse(problem)))
        tuned = lab.sft(
            self.network(size), *zip(*pairs, strict=True), tokenizer=self.tokenizer, seed=0,
            config=TrainConfig(
                1, config.batch_size, learning_rate=config.base_learning_rate, warmup=0.05
            ),
        )  # fmt: skip
        return tuned.weights, self.network(size)(0).num_parameters()

    def topk(self, lab: Lab, problems: list[Worked]) -> list[Any]:
        """What a teacher with a tokenizer of its own thinks of the solutions, token by token."""
        config, tokenizer = self.config, pairing_tokenizer(self.config.modulus)
        network = functools.partial(
            tiny_decoder, config.teacher, vocabulary=len(tokenizer), context=256
        )
        lessons = [
            self._worked(chain)
            for chain in self.source.sample(config.teacher_chains, (1, config.steps), 0)
            if chain.prompt not in self.held
        ]
        teacher = lab.sft(
            network, [lesson.question for lesson in lessons], [_said(each) for each in lessons],
            tokenizer=tokenizer, seed=0,
            config=TrainConfig(
                1, config.batch_size, learning_rate=config.base_learning_rate, warmup=0.05
            ),
        )  # fmt: skip
        questions, solutions = [p.question for p in problems], [_said(p) for p in problems]
        return lab.step(
            soft_targets, network, teacher.weights, tokenizer, questions, solutions, config.k
        )

    @staticmethod
    def _worked(chain: Any) -> Worked:
        return Worked(chain.prompt, " ".join(chain.states), chain.answer)

    @staticmethod
    def _exam(mixer: FormatMixer, worked: list[Worked], way: Any) -> Exam:
        prompts = [mixer.write(each, way, draw=i).prompt for i, each in enumerate(worked)]
        return Exam(prompts, [each.answer for each in worked])


def pairing_tokenizer(modulus: int) -> Any:
    """A tokenizer for which an even digit and the digit after it are one token."""
    from tokenizers import Regex, pre_tokenizers

    pairs = [f"{a} {b}" for a in range(0, modulus, 2) for b in range(modulus)]
    tokenizer = world_tokenizer(pairs)
    even = "".join(map(str, range(0, modulus, 2)))
    pattern = Regex(rf"[{even}] [0-{modulus - 1}]|\S+")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(
        pattern, behavior="removed", invert=True
    )
    return tokenizer


def _said(problem: Worked) -> str:
    return f"{problem.reasoning} => {problem.answer}"


class Files:
    """Your own tasks: JSON lines of question, reasoning, answer in one folder.

    target.jsonl is tuned on but for its last rows, which are the exams; relatives/*.jsonl and
    generic/*.jsonl are exams alone. Teacher probabilities come from the teacher named.
    """

    template = Template()

    def __init__(self, config: Config) -> None:
        self.config, folder = config, Path(config.data_path or "")
        self.tokenizer = load_tokenizer(config.main)
        count = config.test + config.validation
        rows = _worked_lines(folder / "target.jsonl")
        self.pool, held = rows[:-count], rows[-count:]
        shots = FormatMixer(self.pool, k_shot=config.k_shot, template=self.template)
        self.exams = {
            "target": Worlds._exam(shots, held[: config.test], "zs_cot"),
            "target_val": Worlds._exam(shots, held[config.test :], "zs_cot"),
            "with_demonstrations": Worlds._exam(shots, held[: config.test], "icl_cot"),
        }
        for group in ("relatives", "generic"):
            for path in sorted((folder / group).glob("*.jsonl")):
                some, rest = np.split(np.arange(len(lines := _worked_lines(path))), [config.test])
                parts = {group: some} | ({"relatives_val": rest} if group == "relatives" else {})
                for name, places in parts.items():
                    self.exams[f"{name}:{path.stem}"] = Worlds._exam(
                        shots, [lines[i] for i in places], "zs_cot"
                    )

    def is_right(self, text: str, answer: str) -> bool:
        """Whether a response gives this answer."""
        return NumberMatch()("", text, answer) >= 0.5

    def network(self, size: str) -> Any:
        """The model of this name, whatever the seed."""
        return functools.partial(_named, size)

    def problems(self, seed: int) -> list[Worked]:
        """What is tuned on: the same for every seed."""
        return self.pool[: self.config.problems]

    def base(self, lab: Lab, size: str) -> tuple[Any, int]:
        """The model as it is published."""
        model = _named(size, 0)
        return dict(model.state_dict()), model.num_parameters()

    def topk(self, lab: Lab, problems: list[Worked]) -> list[Any]:
        """What the teacher thinks of the solutions."""
        mixer = FormatMixer(problems, k_shot=self.config.k_shot, template=self.template)
        written = [mixer.write(problem, "zs_cot") for problem in problems]
        name = self.config.teacher
        return lab.step(
            soft_targets, self.network(name), None, load_tokenizer(name),
            [each.prompt for each in written], [each.response for each in written], self.config.k,
        )  # fmt: skip


def _worked_lines(path: Path) -> list[Worked]:
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    except OSError as error:
        raise UserError(f"{path} is needed: see the study's page.") from error
    return [Worked(row["question"], row.get("reasoning", ""), row["answer"]) for row in rows]


def _named(name: str, seed: int) -> Any:
    return load_model(name, device="cpu")
