"""Learning by teaching: does watching students pick better answers than voting does?

Protocol (Ning et al. 2024, arXiv 2406.14629), its three levels:

- m1: a teacher samples answers with rationales to a problem; each is shown to a student, who then
  sits an exam of similar problems with known answers. The score of an answer is what the student
  got right. Floor: majority vote over the same samples. Ceiling: one of the samples is right.
- m2: preference pairs from half the answer's correctness and half its exam, and direct preference
  optimisation of the teacher. Floor: the teacher as it is, answering greedily. Ceiling: the teacher
  tuned on the true solutions of the same problems.
- m3: a beam search over demonstrations in which students' mistakes become new demonstrations.
  Floor: the best demonstrations that it started from. Ceiling: a probe on all the labels.
- smollm2: m1 on a model people know, its own student, with sums of reasoning-gym.

Differences from the paper, each with its effect. m1 and m2: models of 0.05M to 0.25M parameters in
a world of named recipes for strings of digits, where teaching works by construction (that students
can learn from rationales is not in question; how good they must be is), whose recipes move digits
and do not compute with them (that took too long to learn at this size); one demonstration without
four generic ones (they are trained for it); sampling at temperature 1 without top-k (recipes leave
few words to choose from); equal samples of one problem share an exam (less noise averages out).
m3: teacher and students are prototypes and nearest neighbours on MiniLM features, and the reflector
is a template that puts the mistakes most students made among the demonstrations (no language model
explains them); accuracy instead of the rarer class's F1, as the classes are balanced. smollm2: a
demonstration's score is how probable the student then finds right work, not a share of right
answers (finer; it also rewards the wording of the exam's answers).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from generality.claims import Claim, Row, equivalent, greater, monotone
from generality.lab import Lab
from generality.studies.study import Paper

if TYPE_CHECKING:
    from generality.experiments.recipe_school import Reader, RecipeSchool, Rules, Taught

PAPER = Paper("Can LLMs Learn by Teaching for Better Reasoning? A Preliminary Study",
              arxiv="2406.14629", year=2024)  # fmt: skip
FACTORS = ("panel", "exam", "student", "samples", "search")


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    panels: tuple[str, ...] = ("m1", "m2", "m3", "smollm2")
    seeds: int = 10  # of the rules, the teacher, its samples, the search
    students: tuple[str, ...] = ("0.05M", "0.15M")  # weaker than the teacher, equal; or stronger
    lessons: int = 50_000  # examples that teach students to follow recipes
    rules: int = 24  # named rules
    asked: int = 2  # problems of each rule that the teacher samples answers to, in m1
    practice: int = 6  # problems of each rule that the teacher has seen solved
    teacher_epochs: float = 20.0  # over these, mixed with as many lessons, at most
    teacher_rate: float = 2e-3  # Adam, batch 32, cosine
    enough: float = 0.4  # share of right samples at which a teacher's training ends
    samples: tuple[int, ...] = (4, 8, 16, 32)
    exam: int = 3  # questions
    repeats: int = 3  # answers to each question
    temperature: float = 0.7  # of students; the teacher samples at 1
    pairs_from: int = 16  # samples of each training problem, for m2
    dpo_epochs: float = 1.0
    dpo_rate: float = 5e-4  # Adam, batch 16
    domain: str = "movie"  # of m3: a sentiment domain
    texts: int = 300  # training texts of m3
    test_texts: int = 1200
    searches: int = 3  # from different first lists, for each seed
    rounds: int = 5
    beam: int = 4
    shown: int = 8  # demonstrations in a list, half of each class
    real: str = "smollm2-135m"  # the model of its panel; a size of `tiny_decoder` for a trial
    real_seeds: int = 5  # of its sums and samples
    real_terms: int = 2  # one-digit numbers in a sum
    real_sums: int = 6  # taught
    real_samples: int = 8  # answers to each
    real_exam: int = 2  # other sums
    real_tokens: int = 40  # of an answer


SCALES = {
    "smoke": Config(
        seeds=2, students=("0.05M", "0.05M"), lessons=128, rules=4, practice=4,
        teacher_epochs=1.0, samples=(2, 4), repeats=1, pairs_from=8, texts=24, test_texts=24,
        searches=1, rounds=2, beam=2, real="0.05M", real_seeds=1, real_sums=2, real_samples=2,
        real_exam=1, real_tokens=4,
    ),
    "small": Config(),
    "full": Config(
        seeds=20, students=("0.15M", "0.6M", "1M"), lessons=1_000_000, rules=600, practice=16,
        samples=(16, 64, 256), pairs_from=32, texts=2000, test_texts=2000,
        real="hf:Qwen/Qwen2.5-1.5B", real_seeds=20, real_terms=4, real_sums=50,
        real_samples=32, real_exam=9, real_tokens=80,
    ),
}  # fmt: skip

TAUGHT = {"panel": "m1", "exam": "same", "samples": 32}
OWN = {**TAUGHT, "student": "self"}
CLAIMS = (
    Claim("Among sampled answers, those whose rationales teach best (sum) beat the majority, the "
          "teacher being its own student", greater("sum", "floor", where=OWN)),
    Claim("So does the answer of the single best-teaching rationale (max)",
          greater("max", "floor", where=OWN)),
    Claim("A weaker student suffices to improve a stronger teacher",
          greater("sum", "floor", where={**TAUGHT, "student": "weak"})),
    Claim("Four samples with their exams beat a vote over as many samples as there were calls",
          greater("sum", "equal-compute", where={**OWN, "samples": 4})),
    Claim("Two different students are better than one",
          greater("weak+equal", "equal", by="student", where={**TAUGHT, "method": "sum"})),
    Claim("What is gained rises with the exam's likeness to the taught problem",
          monotone("exam", order=("unrelated", "neighbour", "same"),
                   where={"panel": "m1", "samples": 32, "student": "self", "method": "sum"})),
    Claim("With an unrelated exam nothing is gained",
          equivalent("sum", "floor", margin=0.05, where={**OWN, "exam": "unrelated"})),
    Claim("Preference optimisation on teaching scores improves the teacher's greedy answers",
          greater("dpo-teaching", "floor", where={"panel": "m2"})),
    Claim("It does so more than on correctness alone",
          greater("dpo-teaching", "dpo-correct", where={"panel": "m2"}), expected_at="full"),
    Claim("Demonstrations found by students' mistakes beat those that the search began with",
          greater("mistakes-self", "floor", where={"panel": "m3"})),
    Claim("Mistakes make better demonstrations than random texts in the same search",
          greater("mistakes-self", "random", where={"panel": "m3"})),
    Claim("Mistakes of several different students serve better than the teacher's own",
          greater("mistakes-mixed", "mistakes-self", where={"panel": "m3"}), expected_at="full"),
    Claim("After right work on a sum SmolLM2 finds right work on others more probable than after "
          "wrong work", greater("after right", "after wrong", where={"panel": "smollm2"})),
    Claim("Those of SmolLM2's samples that teach it best (sum) beat the majority",
          greater("sum", "floor", where={"panel": "smollm2"}), expected_at="full"),
)  # fmt: skip


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every panel asked for."""
    if {"m1", "m2"} & set(config.panels):
        yield from recipe_rows(config, lab)
    if "m3" in config.panels:
        for seed in lab.seeds(config.seeds):
            yield from search_rows(config, lab, seed)
    if "smollm2" in config.panels:
        from generality.experiments.sum_panels import teaching_rows
        from generality.experiments.sum_school import SumSchool

        school = SumSchool(lab, config.real, terms=config.real_terms, max_tokens=config.real_tokens)
        for seed in lab.seeds(config.real_seeds):
            for row in teaching_rows(school, config.real_sums, samples=config.real_samples,
                                     exam=config.real_exam, seed=seed):  # fmt: skip
                yield Row(row, panel="smollm2", student="self", exam="same")


def recipe_rows(config: Config, lab: Lab) -> Iterator[Row]:
    """Whether students read what they are shown, then m1 and m2 with a teacher for each seed."""
    from generality.benchmarks.worlds.recipes import Recipes
    from generality.experiments.recipe_school import TRIAL, RecipeSchool

    school = RecipeSchool(lab, Recipes(), lessons=config.lessons)
    names = ("weak", "equal", "strong")
    students = {
        name: school.student(size) for name, size in zip(names, config.students, strict=False)
    }
    for seed in lab.seeds(config.seeds):
        rules = school.recipes.rules(config.rules, seed)
        teacher = school.teacher(
            students["equal"], rules, practice=config.practice, epochs=config.teacher_epochs,
            rate=config.teacher_rate, enough=config.enough, seed=seed,
        )  # fmt: skip
        classroom = {**students, "self": teacher}
        for name, reader in classroom.items():
            for told in ("right", "wrong"):
                yield Row(method=f"told {told}", seed=seed, panel="students", student=name,
                          score=school.follows(reader, told, rules, seed), floor=None,
                          ceiling=None)  # fmt: skip
        fresh = school.fresh(rules, TRIAL + 1 + config.asked, practice=config.practice, seed=seed)
        test = [problem for some in fresh for problem in some[TRIAL + 1 :]]
        if "m1" in config.panels:
            yield from choice_rows(config, school, classroom, rules, test, seed)
        if "m2" in config.panels:
            train = school.taught(teacher, [some[TRIAL] for some in fresh],
                                  samples=config.pairs_from, seed=seed)  # fmt: skip
            yield from tuning_rows(config, school, classroom, rules, train, test, seed)


def choice_rows(
    config: Config, school: RecipeSchool, classroom: dict[str, Reader], rules: Rules,
    problems: Any, seed: int,
) -> Iterator[Row]:  # fmt: skip
    """m1: every rule of choice, kind of exam, student and number of samples."""
    from generality.experiments.recipe_school import share_chosen_right

    calls = 1 + config.exam * config.repeats  # per sample
    most = max(*config.samples, min(config.samples) * calls)
    taught = school.taught(classroom["self"], problems, samples=most, seed=seed)
    heard = [each.first(max(config.samples)) for each in taught]
    yield Row(method="greedy", seed=seed, floor=None, ceiling=None, panel="m1",
              score=school.right(classroom["self"], problems))  # fmt: skip
    for kind in ("same", "neighbour", "unrelated"):
        exams = school.exams(kind, rules, config.exam, seed)
        scores = {
            name: school.exam_scores(classroom[name], exams, heard, repeats=config.repeats,
                                     temperature=config.temperature, seed=seed)
            for name in (classroom if kind == "same" else ("self",))
        }  # fmt: skip
        if kind == "same":
            scores["weak+equal"] = np.add(scores["weak"], scores["equal"]).tolist()
        for (name, found), count in itertools.product(scores.items(), config.samples):
            right = functools.partial(share_chosen_right, heard, found)
            shared = {
                "seed": seed, "panel": "m1", "exam": kind, "student": name, "samples": count,
                "floor": right("majority", count),
                "ceiling": float(np.mean([
                    any(pair.answer == each.problem.answer for pair in each.samples[:count])
                    for each in taught
                ])),
            }  # fmt: skip
            for rule in ("sum", "max", "avg"):
                yield Row(method=rule, score=right(rule, count), **shared)
            vote = share_chosen_right(taught, None, "majority", min(most, count * calls))
            yield Row(method="equal-compute", score=vote, **shared)


def tuning_rows(
    config: Config, school: RecipeSchool, classroom: dict[str, Reader], rules: Rules,
    train: Sequence[Taught], test: Any, seed: int,
) -> Iterator[Row]:  # fmt: skip
    """m2: the teacher tuned on pairs by correctness, or by correctness and teaching."""
    from generality.selection import preference_pairs

    teacher = classroom["self"]
    exams = school.exams("same", rules, config.exam, seed + config.seeds)
    worth = school.exam_scores(classroom["equal"], exams, train, repeats=config.repeats,
                               temperature=config.temperature, seed=seed)  # fmt: skip
    solved = school.tuned(
        teacher, [each.problem.prompt for each in train], [each.problem.solution for each in train],
        epochs=config.teacher_epochs, rate=config.teacher_rate, seed=seed,
    )  # fmt: skip
    floor, ceiling = school.right(teacher, test), school.right(solved, test)
    for method, weight in (("dpo-correct", 1.0), ("dpo-teaching", 0.5)):
        pairs = [
            pair
            for each, values in zip(train, worth, strict=True)
            for pair in preference_pairs(
                each.problem.prompt, [f"{s.rationale} => {s.answer}" for s in each.samples],
                [weight * (s.answer == each.problem.answer) + (1 - weight) * value
                 for s, value in zip(each.samples, values, strict=True)],
            )
        ]  # fmt: skip
        tuned = school.preferring(teacher, pairs, epochs=config.dpo_epochs, rate=config.dpo_rate,
                                  seed=seed)  # fmt: skip
        yield Row(method=method, seed=seed, score=school.right(tuned, test), floor=floor,
                  ceiling=ceiling, panel="m2", pairs=len(pairs))  # fmt: skip


def search_rows(config: Config, lab: Lab, seed: int) -> Iterator[Row]:
    """m3: demonstrations searched by mistakes of one's own or of other students, or at random."""
    from sklearn.linear_model import LogisticRegression

    from generality.benchmarks import load_transfer_task
    from generality.selection import DemonstrationOptimizer, share_right, swap_in_mistakes
    from generality.selection.demonstration_optimizer import balanced_lists, swap_in_random
    from generality.selection.embedded_answerers import neighbour_answerer, prototype_answerer

    task = load_transfer_task(config.domain, supervised=config.texts, transfer=0,
                              test=config.test_texts, words=32)  # fmt: skip
    vectors = lab.embed("minilm-l6", task.texts, max_length=64)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    features = dict(zip(task.texts, vectors, strict=True))
    texts, test, truth = task.texts[: config.texts], task.texts[config.texts :], task.labels
    labels = truth[: config.texts].tolist()
    teacher = prototype_answerer(features)
    others = [neighbour_answerer(features, 1), neighbour_answerer(features, 3)]
    probe = LogisticRegression(max_iter=1000).fit(vectors[: config.texts], labels)
    ceiling = float(probe.score(vectors[config.texts :], truth[config.texts :]))
    arms: dict[str, tuple[list[Any], Any]] = {
        "first": ([teacher], swap_in_mistakes),
        "mistakes-self": ([teacher], swap_in_mistakes),
        "mistakes-weaker": (others[:1], swap_in_mistakes),
        "mistakes-mixed": ([teacher, *others], swap_in_mistakes),
        "random": ([teacher], swap_in_random(texts, labels)),
    }
    for place in range(config.searches):
        at = config.searches * seed + place
        start = balanced_lists(texts, labels, config.beam, config.shown, np.random.default_rng(at))
        scores: dict[str, float] = {}
        for method, (students, reflect) in arms.items():
            best = DemonstrationOptimizer(
                teacher, students, reflect, beam=config.beam, seed=at,
                rounds=0 if method == "first" else config.rounds,
            ).run(texts, labels, start, metric=share_right)[0]  # fmt: skip
            said = np.array(list(teacher(best.demonstrations, test)))
            scores[method] = share_right(truth[config.texts :], said)
            if method != "first":
                yield Row(method=method, seed=seed, score=scores[method], panel="m3",
                          floor=scores["first"], ceiling=ceiling, search=place,
                          training_score=best.score)  # fmt: skip
