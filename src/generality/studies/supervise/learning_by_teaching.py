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

Differences from the paper, each with its effect. m1 and m2: models of 0.05M to 0.25M parameters in
a world of named recipes for strings of digits, where teaching works by construction (that students
can learn from rationales is not in question; how good they must be is), whose recipes move digits
and do not compute with them (that took too long to learn at this size); one demonstration without
four generic ones (they are trained for it); sampling at temperature 1 without top-k (recipes leave
few words to choose from); equal samples of one problem share an exam (less noise averages out).
m3: teacher and students are prototypes and nearest neighbours on MiniLM features, and the reflector
is a template that puts the mistakes most students made among the demonstrations (no language model
explains them); accuracy instead of the rarer class's F1, as the classes are balanced.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from generality.claims import Claim, Row, equivalent, greater, monotone
from generality.lab import Lab, TrainConfig
from generality.studies.study import Paper

if TYPE_CHECKING:
    from generality.estimators.recipe_school import Reader, RecipeSchool, Rules

PAPER = Paper("Can LLMs Learn by Teaching for Better Reasoning? A Preliminary Study",
              arxiv="2406.14629", year=2024)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Every knob of the study."""

    panels: tuple[str, ...] = ("m1", "m2", "m3")
    seeds: int = 5  # of the rules, the teacher, its samples, the search
    students: tuple[str, ...] = ("0.05M", "0.15M", "0.25M")  # weaker, equal, stronger than teacher
    lessons: int = 50_000  # examples that teach students to follow recipes
    rules: int = 30  # named rules, each with one taught problem
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
    texts: int = 300  # training texts of m3, and as many for the test
    rounds: int = 5
    beam: int = 4
    shown: int = 8  # demonstrations in a list, half of each class


SCALES = {
    "smoke": Config(
        seeds=2, students=("0.05M", "0.05M", "0.05M"), lessons=128, rules=4, practice=4,
        teacher_epochs=1.0, samples=(2, 4), repeats=1, pairs_from=8, texts=24, rounds=2, beam=2,
    ),
    "small": Config(),
    "full": Config(
        seeds=20, students=("0.15M", "0.6M", "1M"), lessons=1_000_000, rules=600, practice=16,
        samples=(16, 64, 256), pairs_from=32, texts=2000,
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
)  # fmt: skip


Taught = Sequence[tuple[Any, list[Any]]]
"""Problems, each with the teacher's samples as teaching pairs."""


def run(config: Config, lab: Lab) -> Iterator[Row]:
    """Rows of every panel asked for."""
    if {"m1", "m2"} & set(config.panels):
        yield from recipe_rows(config, lab)
    if "m3" in config.panels:
        for seed in lab.seeds(config.seeds):
            yield from search_rows(config, lab, seed)


def recipe_rows(config: Config, lab: Lab) -> Iterator[Row]:
    """Whether students read what they are shown, then m1 and m2 with a teacher for each seed."""
    from generality.benchmarks.worlds.recipes import Recipes
    from generality.estimators.recipe_school import RecipeSchool

    school = RecipeSchool(lab, Recipes(), lessons=config.lessons)
    names = ("weak", "equal", "strong")
    students = {name: school.student(size)
                for name, size in zip(names, config.students, strict=True)}  # fmt: skip
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
        if "m1" in config.panels:
            yield from choice_rows(config, school, classroom, rules, seed)
        if "m2" in config.panels:
            yield from tuning_rows(config, school, classroom, rules, seed)


def sampled(config: Config, school: RecipeSchool, teacher: Reader, rules: Rules, seed: int,
            count: int, part: int) -> Taught:  # fmt: skip
    """One problem of each rule (not those of practice, nor of another part) and its samples."""
    from generality.estimators.recipe_school import teaching_pair

    problems = []
    for place, (name, recipe) in enumerate(rules.items()):
        at = 1000 * seed + place
        seen = {p.prompt for p in school.recipes.under(name, recipe, config.practice, at)}
        problems.append(school.recipes.under(name, recipe, 2, at, avoid=seen)[part])
    texts = school.write(teacher, [problem.prompt for problem in problems], samples=count,
                         temperature=1.0, seed=seed + part)  # fmt: skip
    return [(problem, [teaching_pair(problem.prompt, text) for text in said])
            for problem, said in zip(problems, texts, strict=True)]  # fmt: skip


def exam_scores(config: Config, school: RecipeSchool, student: Reader, exams: Any,
                taught: Taught, seed: int) -> list[list[float]]:  # fmt: skip
    """Share of right exam answers of every sample of every problem."""
    from generality.estimators.recipe_school import lesson_of
    from generality.selection import WorldCheck, demonstration_values

    questions = [exams(problem.prompt) for problem, _ in taught]
    pairs = [(pair, exam) for (_, said), exam in zip(taught, questions, strict=True)
             for pair in said]  # fmt: skip
    values = demonstration_values(
        school.answering(student, temperature=config.temperature, seed=seed),
        [pair for pair, _ in pairs], [exam for _, exam in pairs], WorldCheck(),
        repeats=config.repeats, template=lesson_of,
    ).reshape(len(taught), -1)  # fmt: skip
    return [row.tolist() for row in values]


def choice_rows(config: Config, school: RecipeSchool, classroom: dict[str, Reader], rules: Rules,
                seed: int) -> Iterator[Row]:  # fmt: skip
    """m1: every rule of choice, kind of exam, student and number of samples."""
    from generality.selection import select_answer

    calls = 1 + config.exam * config.repeats  # per sample
    most = max(*config.samples, min(config.samples) * calls)
    taught = sampled(config, school, classroom["self"], rules, seed, most, part=0)
    answers = [[pair.answer for pair in said] for _, said in taught]
    greedy = school.write(classroom["self"], [problem.prompt for problem, _ in taught])
    yield Row(method="greedy", seed=seed, floor=None, ceiling=None, panel="m1",
              score=np.mean([problem.check(text) for (problem, _), (text,)
                             in zip(taught, greedy, strict=True)]))  # fmt: skip

    def accuracy(rule: Any, scores: list[list[float]], count: int) -> float:
        chosen = [select_answer(said[:count], score[:count], rule)
                  for said, score in zip(answers, scores, strict=True)]  # fmt: skip
        return float(
            np.mean(
                [
                    answer == problem.answer
                    for answer, (problem, _) in zip(chosen, taught, strict=True)
                ]
            )
        )

    for kind in ("same", "neighbour", "unrelated"):
        exams = school.exams(kind, rules, config.exam, seed)
        names = classroom if kind == "same" else ("self",)
        scores = {name: exam_scores(config, school, classroom[name], exams, taught, seed)
                  for name in names}  # fmt: skip
        if kind == "same":
            both = np.add(scores["weak"], scores["equal"])
            scores["weak+equal"] = both.tolist()
        for (name, found), count in ((n, c) for n in scores.items() for c in config.samples):
            shared = {
                "seed": seed, "panel": "m1", "exam": kind, "student": name, "samples": count,
                "floor": accuracy("majority", found, count),
                "ceiling": float(np.mean([p.answer in said[:count] for (p, _), said
                                          in zip(taught, answers, strict=True)])),
            }  # fmt: skip
            for rule in ("sum", "max", "avg"):
                yield Row(method=rule, score=accuracy(rule, found, count), **shared)
            vote = accuracy("majority", found, min(most, count * calls))
            yield Row(method="equal-compute", score=vote, **shared)


def tuning_rows(config: Config, school: RecipeSchool, classroom: dict[str, Reader], rules: Rules,
                seed: int) -> Iterator[Row]:  # fmt: skip
    """m2: the teacher tuned on pairs by correctness, or by correctness and teaching."""
    from generality.estimators.recipe_school import Reader
    from generality.modules import prefer
    from generality.selection import preference_pairs

    teacher = classroom["self"]
    train = sampled(config, school, teacher, rules, seed, config.pairs_from, part=1)
    test = [problem for problem, _ in sampled(config, school, teacher, rules, seed, 1, part=0)]
    exams = school.exams("same", rules, config.exam, seed + config.seeds)
    taught = exam_scores(config, school, classroom["equal"], exams, train, seed)

    def right(reader: Reader) -> float:
        texts = school.write(reader, [problem.prompt for problem in test])
        return float(np.mean([p.check(text) for p, (text,) in zip(test, texts, strict=True)]))

    solved = school.tuned(
        teacher, [p.prompt for p, _ in train], [p.solution for p, _ in train],
        epochs=config.teacher_epochs, rate=config.teacher_rate, seed=seed,
    )  # fmt: skip
    floor, ceiling = right(teacher), right(solved)
    for method, weight in (("dpo-correct", 1.0), ("dpo-teaching", 0.5)):
        pairs = [
            pair
            for (problem, said), values in zip(train, taught, strict=True)
            for pair in preference_pairs(
                problem.prompt, [f"{p.rationale} => {p.answer}" for p in said],
                [weight * (p.answer == problem.answer) + (1 - weight) * value
                 for p, value in zip(said, values, strict=True)],
            )
        ]  # fmt: skip
        tuned = teacher
        if pairs:
            found = prefer(
                school.lab, teacher.network,
                *([str(pair[name]) for pair in pairs] for name in ("prompt", "chosen", "rejected")),
                tokenizer=school.tokenizer, weights=teacher.weights, seed=seed,
                config=TrainConfig(epochs=config.dpo_epochs, batch_size=16, warmup=0.1,
                                   learning_rate=config.dpo_rate),
            )  # fmt: skip
            tuned = Reader(teacher.network, found.weights)
        yield Row(method=method, seed=seed, score=right(tuned), floor=floor, ceiling=ceiling,
                  panel="m2", pairs=len(pairs))  # fmt: skip


def search_rows(config: Config, lab: Lab, seed: int) -> Iterator[Row]:
    """m3: demonstrations searched by mistakes of one's own or of other students, or at random."""
    from sklearn.linear_model import LogisticRegression

    from generality.benchmarks import load_transfer_task
    from generality.selection import DemonstrationOptimizer, Mistake, share_right, swap_in_mistakes
    from generality.selection.embedded_answerers import neighbour_answerer, prototype_answerer

    size = config.texts
    task = load_transfer_task(config.domain, supervised=size, transfer=0, test=size, words=32)
    vectors = lab.embed("minilm-l6", task.texts, max_length=64)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    features = dict(zip(task.texts, vectors, strict=True))
    train, test = np.array_split(np.arange(len(task.texts)), [size])
    texts, labels = [task.texts[row] for row in train], task.labels[train]
    teacher = prototype_answerer(features)
    mixed = [teacher, neighbour_answerer(features, 1), neighbour_answerer(features, 3)]
    rng = np.random.default_rng(seed)
    start = [
        tuple((texts[row], int(labels[row])) for label in (0, 1)
              for row in rng.choice(np.flatnonzero(labels == label), config.shown // 2, False))
        for _ in range(config.beam)
    ]  # fmt: skip

    def at_random(list_: Any, wrong: Any, rng: np.random.Generator) -> Any:
        rows = rng.choice(len(texts), len(wrong), replace=False)
        drawn = [Mistake(texts[row], int(labels[row]), (1 - int(labels[row]),)) for row in rows]
        return swap_in_mistakes(list_, drawn, rng)

    def right(list_: Any) -> float:
        said = teacher(list_, [task.texts[row] for row in test])
        return share_right(task.labels[test], np.asarray(said))

    search = functools.partial(
        DemonstrationOptimizer, teacher, beam=config.beam, rounds=config.rounds, seed=seed
    )
    first = search([teacher], swap_in_mistakes, rounds=0).run(
        texts, labels.tolist(), start, metric=share_right
    )
    probe = LogisticRegression(max_iter=1000).fit(vectors[train], labels)
    ceiling = float(probe.score(vectors[test], task.labels[test]))
    arms: dict[str, tuple[list[Any], Any]] = {
        "mistakes-self": ([teacher], swap_in_mistakes),
        "mistakes-weaker": (mixed[1:2], swap_in_mistakes),
        "mistakes-mixed": (mixed, swap_in_mistakes),
        "random": ([teacher], at_random),
    }
    for method, (students, reflect) in arms.items():
        best = search(students, reflect).run(texts, labels.tolist(), start, metric=share_right)[0]
        yield Row(method=method, seed=seed, score=right(best.demonstrations), panel="m3",
                  floor=right(first[0].demonstrations), ceiling=ceiling,
                  training_score=best.score)  # fmt: skip
