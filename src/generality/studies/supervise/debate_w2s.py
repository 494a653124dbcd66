"""Can a strong model that is not trusted, by debating itself, make a weak one a better supervisor?

Protocol (Lang et al. 2025, arXiv 2501.13124). Two copies of a frozen strong model argue for
opposite answers to every question, on sides drawn at random. A weak model learns from true labels
of questions with their transcripts and labels other questions, each with its own transcript;
several weak models, each with debates of its own seed, average their probabilities. A strong
student learns from these labels and sees no transcript, in training or test. Floor: the weak model
without transcripts. Ceiling: the student on true labels.

Panels. `facts` and `members`: questions about 24 facts of which the weak model sees 6; a network
trained on few questions debates by quoting the facts it counts most on, at times falsely. `text`: a
language model argues about real texts.

Differences from the paper, each with its effect: in the simulation arguments are single facts and
nothing is eloquent, so it tests the protocol and not whether a model argues well; a linear reader
takes long transcripts as easily as short ones, so harm of long debates cannot come from its limits;
students are linear heads on the debater's hidden units. In the text panel at `small` a 135M model
debates, which the paper's 14B stands far above: no gain is expected. A consultant is also given as
many turns as both debaters together (`consultancy-long`), a control of ours.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from generality.agents import Consultancy, Debate
from generality.agents.debate import with_context
from generality.benchmarks import load_transfer_task
from generality.claims import Claim, Row, equivalent, greater
from generality.errors import UserError
from generality.estimators import combine_soft_labels
from generality.experiments import FactDebaters
from generality.experiments.text_transfer import TextTransfer
from generality.lab import Lab
from generality.measures import accuracy, ensemble_diversity
from generality.objectives import ConfidenceLoss
from generality.studies.study import Paper
from generality.training.text_learner import TextLearner

PAPER = Paper("Debate Helps Weak-to-Strong Generalization", arxiv="2501.13124", year=2025)
FACTORS = ("panel", "task", "turns", "lies", "members")
ANSWERS = ("no", "yes")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    seeds: int = 5
    facts: int = 24
    relevant: int = 9  # facts that the answer depends on
    visible: int = 6  # facts that the weak model sees
    pretraining: int = 150  # questions whose answers the strong model knew before: .88 right then
    supervised: int = 600  # questions with true labels for the weak model
    transfer: int = 1000  # questions it labels
    test: int = 1000
    hidden: int = 32  # units of the strong model
    turns: tuple[int, ...] = (1, 3, 5, 8)
    base_turns: int = 3
    lies: tuple[float, ...] = (0.0, 0.1, 0.3)  # share of quotes that are false
    members: tuple[int, ...] = (1, 2, 4, 8)
    base_members: int = 4
    flag_accuracy: float = 0.8  # share of an opponent's verdicts on a quote that are right
    temperature: float = 0.5  # of the debaters' choice of facts
    epochs: int = 10
    learning_rate: float = 5e-3  # Adam, batch 32
    text_task: str | None = None  # as load_transfer_task takes it; None leaves the text panel out
    text_path: str | None = None  # folder of local files; None: the hub
    text_question: str = "Review: {text}\nIs this review positive?"
    debater: str = "smollm2-135m"
    weak: str = "bag-of-words"
    student: str = "minilm-l6"
    tuning: str = "probe"  # of weak model and student: probe, lora or full
    text_supervised: int = 40
    text_transfer: int = 60
    text_test: int = 100  # these are not debated
    text_turns: int = 1
    text_members: int = 2
    text_tokens: int = 24  # of a turn
    text_seeds: int = 3
    text_epochs: int = 10
    text_learning_rate: float = 5e-4

    def __post_init__(self) -> None:
        if self.base_turns not in self.turns or self.base_members not in self.members:
            raise UserError("base_turns is among turns and base_members among members.")
        if self.tuning not in ("probe", "lora", "full"):
            raise UserError(f"tuning is probe, lora or full, not {self.tuning}.")


SCALES = {
    "smoke": Config(
        seeds=2, facts=8, relevant=3, visible=2, pretraining=64, supervised=64, transfer=64,
        test=96, hidden=8, turns=(1, 3), lies=(0.1,), members=(1, 4), epochs=3,
    ),
    "small": Config(text_task="movie"),
    "full": Config(
        seeds=20, text_task="sciq", text_question="{text}\nIs this answer right?",
        debater="hf:Qwen/Qwen2.5-7B", weak="hf:Qwen/Qwen2.5-1.5B", student="hf:Qwen/Qwen2.5-7B",
        tuning="full", text_supervised=10_000, text_transfer=10_000, text_test=10_000,
        text_turns=3, text_members=4, text_tokens=200, text_epochs=2, text_learning_rate=1e-5,
    ),
}  # fmt: skip

BASE = {"panel": "facts", "turns": 3, "lies": 0.1}
CLAIMS = (
    Claim(
        "An ensemble of weak models with debates teaches better than weak labels with the "
        "confidence loss",
        greater("debate-ensemble", "confidence", where=BASE),
        paper_says="SciQ: 76.5 % of the gap recovered against 41.2 %",
    ),
    Claim(
        "One weak model with a debate teaches better than one without",
        greater("debate", "naive", where=BASE),
    ),
    Claim(
        "An ensemble over debates teaches better than one weak model with one debate",
        greater("debate-ensemble", "debate", where=BASE),
    ),
    Claim(
        "It teaches better than an ensemble over seeds of training",
        greater("debate-ensemble", "finetune-ensemble", where=BASE),
    ),
    Claim(
        "Its members err less alike than members that differ by their seed of training",
        greater(
            "finetune-ensemble", "debate-ensemble", on="error_correlation", where=BASE
        ),
    ),
    Claim("A debate beats a consultancy", greater("debate", "consultancy", where=BASE)),
    Claim(
        "It beats a consultancy that says as much as both debaters",
        greater("debate", "consultancy-long", where=BASE),
    ),
    Claim("It beats market making", greater("debate", "market", where=BASE)),
    Claim(
        "Four members are enough: eight are within 1 point",
        equivalent(8, 4, by="members", margin=0.01, where={
            "panel": "members", "lies": 0.1, "method": "debate-ensemble"}),
    ),
    Claim(
        "More than three turns hurt: three are better than eight",
        greater(3, 8, by="turns", where={**BASE, "turns": [3, 8], "method": "debate-ensemble"}),
    ),
    Claim(
        "With a language model's debates about texts, the ensemble beats plain weak labels",
        greater("debate-ensemble", "naive", where={"panel": "text"}),
        expected_at="full",
    ),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of the simulation, then of the texts."""
    yield from simulated_rows(config, lab)
    if config.text_task is not None:
        yield from text_rows(config, lab)


def simulated_rows(config: Config, lab: Lab) -> Iterator[Row]:
    """Labels by every protocol, then all students at once."""
    world = FactDebaters(
        lab, facts=config.facts, relevant=config.relevant, visible=config.visible,
        sizes=(config.pretraining, config.supervised, config.transfer, config.test),
        seeds=config.seeds, hidden=config.hidden, flag_accuracy=config.flag_accuracy,
        temperature=config.temperature, epochs=config.epochs, learning_rate=config.learning_rate,
    )  # fmt: skip
    most = max(config.members)
    taught: dict[tuple[str, str, int, float, int], np.ndarray] = {}
    for turns, lies in itertools.product(config.turns, config.lies):
        found = world.protocols(turns, lies, most)
        for method, said in found.items():
            few = said[:, : config.base_members]
            taught["facts", method, turns, lies, few.shape[1]] = few
        if turns == config.base_turns:
            for method in ("debate-ensemble", "finetune-ensemble"):
                for members in config.members:
                    taught["members", method, turns, lies, members] = found[method][:, :members]
    plain = found["naive"]
    labels = [combine_soft_labels(said.swapaxes(0, 1)) for said in taught.values()]
    scores = list(world.students(labels))
    confident = world.students(labels[:1], ConfidenceLoss(alpha_max=0.75))[0]  # of "naive"
    for turns, lies in itertools.product(config.turns, config.lies):
        taught["facts", "confidence", turns, lies, 1] = plain
        labels, scores = [*labels, plain[:, 0]], [*scores, confident]
    floor, ceiling = world.accuracy(plain[:, 0], world.test), world.students([world.truth])[0]
    for (key, said), label, score in zip(taught.items(), labels, scores, strict=True):
        right = world.accuracy(label, world.transfer)
        for seed in lab.seeds(config.seeds):
            truth = world.truth[seed, world.transfer].argmax(1)
            yield Row(
                method=key[1], seed=seed, score=score[seed], floor=floor[seed],
                ceiling=ceiling[seed], panel=key[0], turns=key[2], lies=key[3], members=key[4],
                label_accuracy=right[seed], debater_accuracy=world.debater_accuracy[seed],
                **apart(said[seed][:, world.transfer], truth),
            )  # fmt: skip


def text_rows(config: Config, lab: Lab) -> Iterator[Row]:
    """A language model debates about real texts; the student never reads what it said."""
    assert config.text_task is not None
    task = load_transfer_task(
        config.text_task, supervised=config.text_supervised, transfer=config.text_transfer,
        test=config.text_test, path=config.text_path,
    )  # fmt: skip
    argued = [task.texts[row] for row in task.train]
    questions = [config.text_question.format(text=text) for text in argued]
    debater = functools.partial(written, lab, config.debater)
    turns, tokens, members = config.text_turns, config.text_tokens, range(config.text_members)
    debate, consultancy = (
        kind(debater, turns, max_tokens=tokens, words=tokens // 2) for kind in (Debate, Consultancy)
    )
    talks = {
        "naive": [Debate(debater, 0).run_all(questions, ANSWERS)],
        "consultancy": [consultancy.run_all(questions, ANSWERS)],
        "debate-ensemble": [debate.run_all(questions, ANSWERS, seed) for seed in members],
    }
    talks = {**talks, "debate": talks["debate-ensemble"][:1]}
    read = {  # what the weak model has before it, from each run of each protocol
        method: [[with_context(text, talk.to_context()) for text, talk in zip(
            argued, run, strict=True)] for run in runs]
        for method, runs in talks.items()
    }  # fmt: skip
    weak, strong = (
        TextLearner(model, config.tuning, config.text_epochs, config.text_learning_rate)
        for model in (config.weak, config.student)
    )
    transfer, truth = TextTransfer(lab, task, weak, strong), task.labels[task.test]
    for seed in lab.seeds(config.text_seeds):
        floor, ceiling = transfer.floor(seed), transfer.ceiling(seed)
        known = task.labels[task.halves(seed)[1]]
        for method, runs in read.items():
            said = np.stack([transfer.labels(run, seed) for run in runs])
            label = combine_soft_labels(said)
            yield Row(
                method=method, seed=seed, score=accuracy(transfer.student(label, seed), truth),
                floor=accuracy(floor, truth), ceiling=accuracy(ceiling, truth), panel="text",
                turns=turns, members=len(runs), task=config.text_task,
                label_accuracy=accuracy(label, known), **apart(said, known),
            )  # fmt: skip


def written(
    lab: Lab, model: str, prompts: list[str], max_tokens: int, temperature: float, seed: int
) -> list[str]:
    """One sampled text after each prompt, kept."""
    said = lab.generate(model, prompts, max_tokens=max_tokens, temperature=temperature, seed=seed)
    return [text for [text] in said]


def apart(said: np.ndarray, truth: np.ndarray) -> Row:
    """How differently the members of an ensemble label."""
    if len(said) < 2:
        return Row(disagreement=None, error_correlation=None)
    found = ensemble_diversity(said, truth)
    correlation = None if np.isnan(found.error_correlation) else found.error_correlation
    return Row(disagreement=found.disagreement, error_correlation=correlation)
