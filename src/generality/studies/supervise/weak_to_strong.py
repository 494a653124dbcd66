"""Weak-to-strong generalization: how much of a strong model's skill do a weak one's labels elicit?

Protocol (Burns et al. 2023, arXiv 2312.09390). A weak supervisor learns from true labels on one
half of the training data and labels the other half; a strong student learns from those labels
alone. Floor: the supervisor's test accuracy. Ceiling: the same student, the same half, true
labels. Models are the steps of a ladder; every pair of a lower and a higher one is tried.

Differences from the paper, each with its effect: the models are 22M and 135M parameters instead
of GPT-2 to GPT-4 (smaller gaps); probes on standardised features stand beside full tuning
(cheap, and the student cannot change its representation); supervision is hundreds of labels
instead of ten thousand (noisier supervisors, wider intervals).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from generality.benchmarks import TransferTask, load_transfer_task
from generality.claims import Claim, Row, greater, interacts, less
from generality.errors import UserError, unknown
from generality.estimators import ProbeLadder
from generality.lab import Lab, TrainConfig
from generality.measures import accuracy, harden, student_supervisor_agreement
from generality.objectives import ConfidenceLoss, ProductLoss, soft_cross_entropy
from generality.studies.study import Paper

PAPER = Paper(
    "Weak-to-Strong Generalization: Eliciting Strong Capabilities With Weak Supervision",
    arxiv="2312.09390",
    year=2023,
)
FACTORS = ("task", "weak", "strong", "tuning", "epochs")

OBJECTIVES: dict[str, Callable[..., Any]] = {
    "naive": soft_cross_entropy,
    "hard": soft_cross_entropy,
    "bootstrapped": soft_cross_entropy,
    "generative-first": soft_cross_entropy,
    "confidence-0.5": ConfidenceLoss(alpha_max=0.5),
    "confidence-0.75": ConfidenceLoss(alpha_max=0.75),
    "product": ProductLoss(),
}
LOSSES = ("naive", "hard", "confidence-0.5", "confidence-0.75", "product")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    tasks: tuple[str, ...] = ("movie",)  # a sentiment domain, "bbc", or a binary task of the paper
    data_path: str | None = None  # folder of local files for the paper's tasks; None: the hub
    ladder: tuple[str, ...] = ("bag-of-words", "minilm-l6", "smollm2-135m")  # weakest first
    layers: tuple[int, ...] = (0, -1, 15)  # hidden state each one is probed at
    supervised: int = 600  # examples with true labels for the supervisor
    transfer: int = 1600  # examples the supervisor labels for the student
    test: int = 1400  # examples everything is scored on
    max_length: int = 128  # tokens
    seeds: int = 5  # of probes
    probe_methods: tuple[str, ...] = (*LOSSES, "bootstrapped")
    probe_epochs: tuple[int, ...] = (2, 10)
    probe_learning_rate: float = 5e-4  # Adam, batch 32; chosen on the supervisors' own labels
    tuned: tuple[str, ...] = ("minilm-l6",)  # students that are also tuned, from the first rung
    tuning: Literal["full", "lora"] = "full"
    tuned_methods: tuple[str, ...] = ("naive", "confidence-0.75")
    tuned_seeds: int = 3  # at most `seeds`: each needs its supervisor
    tuned_transfer: int = 320  # examples, of the transfer half
    tuned_epochs: int = 2
    tuned_learning_rate: float = 2e-4  # Adam, batch 32, cosine to 0; chosen as the probes' rate
    generative_epochs: float = 1.0  # of "generative-first", on the transfer half's texts

    def __post_init__(self) -> None:
        for method in (*self.probe_methods, *self.tuned_methods):
            if method not in OBJECTIVES:
                raise unknown("method", method, OBJECTIVES)
        if "generative-first" in self.probe_methods or "bootstrapped" in self.tuned_methods:
            raise UserError("bootstrapped is for probes, generative-first for tuned students.")
        if len(self.ladder) < 2 or len(self.layers) != len(self.ladder):
            raise UserError("layers names one hidden state for each of two rungs or more.")
        counts = ("supervised", "transfer", "test", "max_length", "seeds", "tuned_transfer")
        for name in (*counts, "tuned_epochs", "tasks", "probe_epochs"):
            if not getattr(self, name) or 0 in np.atleast_1d(getattr(self, name)):
                raise UserError(f"{name} must not be 0 or empty.")


SCALES = {
    "smoke": Config(
        ladder=("bag-of-words", "minilm-l6"), layers=(0, 1), supervised=64, transfer=96, test=128,
        max_length=32, seeds=2, probe_epochs=(1, 3), tuned_seeds=1, tuned_transfer=32,
        tuned_epochs=1, tuned_methods=("naive",),
    ),
    "small": Config(),
    "full": Config(
        tasks=("sciq", "boolq", "cosmos_qa", "amazon_polarity", "hh_rlhf"),
        ladder=(
            "hf:HuggingFaceTB/SmolLM2-135M", "hf:HuggingFaceTB/SmolLM2-360M",
            "hf:EleutherAI/pythia-410m", "hf:Qwen/Qwen2.5-0.5B", "hf:EleutherAI/pythia-1.4b",
            "hf:HuggingFaceTB/SmolLM2-1.7B", "hf:Qwen/Qwen2.5-1.5B", "hf:Qwen/Qwen2.5-7B",
        ),
        layers=(-1,) * 8,
        tuned=("hf:Qwen/Qwen2.5-0.5B", "hf:Qwen/Qwen2.5-1.5B", "hf:Qwen/Qwen2.5-7B"),
        supervised=10_000, transfer=10_000, test=10_000, max_length=1024,
        tuned_transfer=10_000, tuned_learning_rate=1e-5,
        tuned_methods=(*LOSSES, "generative-first"),
    ),
}  # fmt: skip

PROBED = {"tuning": "probe"}
TUNED = {"tuning": ["full", "lora"]}
CLAIMS = (
    Claim(
        "A strong student trained on a weak model's labels beats that weak model",
        greater("naive", "floor", where=PROBED),
    ),
    Claim(
        "So does one of which every weight is tuned",
        greater("naive", "floor", where=TUNED),
    ),
    Claim(
        "Naive training leaves part of the gap open",
        less("naive", "ceiling", where=PROBED),
    ),
    Claim(
        "The confidence loss recovers more than naive training",
        greater("confidence-0.75", "naive", where=PROBED),
    ),
    Claim(
        "It does so too when every weight is tuned",
        greater("confidence-0.75", "naive", where=TUNED),
    ),
    Claim(
        "The confidence loss helps more where the student would copy errors (long training)",
        interacts(
            ("method", "confidence-0.75", "naive"), ("epochs", 10, 2), on="score", where=PROBED
        ),
    ),
    Claim(
        "The confidence loss helps more when the gap between supervisor and student is larger",
        interacts(
            ("method", "confidence-0.75", "naive"), ("weak", "bag-of-words", "minilm-l6"),
            on="score", where={**PROBED, "strong": "smollm2-135m"},
        ),
        expected_at="full",
    ),
    Claim(
        "Longer training copies more of the supervisor's errors",
        greater(10, 2, by="epochs", on="copied_errors", where={**PROBED, "method": "naive"}),
    ),
    Claim(
        "Bootstrapping through an intermediate model recovers more than going there directly",
        greater("bootstrapped", "naive", where=PROBED),
        expected_at="full",
    ),
    Claim(
        "Generative finetuning on the task's texts first recovers more",
        greater("generative-first", "naive"),
        expected_at="full",
    ),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every task: probes of every pair, then tuned students."""
    cut = {"supervised": config.supervised, "transfer": config.transfer, "test": config.test}
    tasks = {  # all of them first: one that is too small is known before any work is done
        name: load_transfer_task(name, words=config.max_length // 2, path=config.data_path, **cut)
        for name in config.tasks
    }
    for name, task in tasks.items():
        probes = ProbeLadder(
            task, lab, dict(zip(config.ladder, config.layers, strict=True)), seeds=config.seeds,
            learning_rate=config.probe_learning_rate, max_length=config.max_length,
        )  # fmt: skip
        for row in itertools.chain(probe_rows(config, probes), tuned_rows(config, probes)):
            yield Row(task=name, **row)


def probe_rows(config: Config, probes: ProbeLadder) -> Iterator[Row]:
    """Every pair of the ladder, every length of training, every method, every seed."""
    test = probes.task.test
    pairs = list(itertools.combinations(config.ladder, 2))
    for (weak, strong), epochs in itertools.product(pairs, dict.fromkeys(config.probe_epochs)):
        ceiling = probes.ceiling(strong, epochs)
        for method in config.probe_methods:
            if method == "bootstrapped" and not probes.between(weak, strong):
                continue
            if method == "bootstrapped":
                student = probes.bootstrapped(weak, strong, epochs)
            else:
                labels = teach(method, probes.labels(weak))
                student = probes.student(strong, labels, epochs, OBJECTIVES[method])
            three = student, ceiling, probes.supervisor(weak)
            for seed in probes.lab.seeds(config.seeds):
                yield Row(
                    method=method, seed=seed, weak=weak, strong=strong, tuning="probe",
                    epochs=epochs,
                    **measured(probes.task.labels[test], *(each[seed, test] for each in three)),
                )  # fmt: skip


def tuned_rows(config: Config, probes: ProbeLadder) -> Iterator[Row]:
    """Students that are tuned as a whole (or by low-rank updates) on the lowest rung's labels."""
    items = [
        (probes.task, config, strong, method, seed, probes.supervisor(config.ladder[0])[seed])
        for strong in config.tuned
        for seed in probes.lab.seeds(min(config.seeds, config.tuned_seeds))
        for method in config.tuned_methods
    ]
    yield from probes.lab.map(tuned_row, items, description="Tuning students")


def tuned_row(lab: Lab, item: tuple[TransferTask, Config, str, str, int, np.ndarray]) -> Row:
    """One tuned student beside the ceiling of its seed."""
    task, config, strong, method, seed, supervisor = item
    rows = task.halves(seed)[1][: config.tuned_transfer]
    texts = [task.texts[row] for row in rows]
    generative = {"generative_epochs": config.generative_epochs, "generative_texts": texts}
    arms = {
        "student": (teach(method, supervisor[rows]), OBJECTIVES[method]),
        "ceiling": (task.one_hot(rows), soft_cross_entropy),
    }
    student, ceiling = (
        lab.finetune(
            strong, texts, targets, objective=objective, seed=seed, tuning=config.tuning,
            predict={"test": [task.texts[row] for row in task.test]}, max_length=config.max_length,
            config=TrainConfig(
                epochs=config.tuned_epochs, learning_rate=config.tuned_learning_rate
            ),
            **(generative if (arm, method) == ("student", "generative-first") else {}),
        ).probabilities["test"]
        for arm, (targets, objective) in arms.items()
    )  # fmt: skip
    return Row(
        method=method, seed=seed, weak=config.ladder[0], strong=strong, tuning=config.tuning,
        epochs=config.tuned_epochs,
        **measured(task.labels[task.test], student, ceiling, supervisor[task.test]),
    )  # fmt: skip


def teach(method: str, labels: np.ndarray) -> np.ndarray:
    """The supervisor's labels as the method takes them: distributions, or one-hot."""
    return harden(labels) if method == "hard" else labels


def measured(
    truth: np.ndarray, student: np.ndarray, ceiling: np.ndarray, supervisor: np.ndarray
) -> Row:
    """Test accuracies, and whether the student repeats what its supervisor gets wrong."""
    agreement = student_supervisor_agreement(student, supervisor, truth)
    return Row(
        score=accuracy(student, truth),
        floor=accuracy(supervisor, truth),
        ceiling=accuracy(ceiling, truth),
        agreement=agreement.overall,
        copied_errors=agreement.where_wrong,
    )
