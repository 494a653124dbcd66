"""Demonstrations, exams, choices, pairs, drafts and searches, without a model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from generality.benchmarks.worlds import answer_of
from generality.benchmarks.worlds.chain_lessons import BETWEEN, chain_lessons
from generality.benchmarks.worlds.recipes import MOVES, Recipe, Recipes, recipe_problem
from generality.errors import UserError
from generality.experiments.recipe_school import RecipeSchool
from generality.lab import Lab
from generality.measures import discriminative_subset, item_information
from generality.models import RecordedChat
from generality.objectives.preference_losses import dpo_loss
from generality.selection import (
    ChatDrafter,
    DemonstrationOptimizer,
    Draft,
    DraftPool,
    ExactMatch,
    FixedExam,
    Question,
    SimilarExam,
    SoftmaxDrafter,
    TailoredTeacher,
    TeachingPair,
    VariantExam,
    WorldCheck,
    demonstration_value,
    demonstration_values,
    minority_f1,
    preference_pairs,
    select_answer,
    share_right,
    swap_in_mistakes,
)
from generality.selection.chain_drafter import chain_drafter, read_chain
from generality.selection.demonstration_optimizer import balanced_lists, swap_in_random
from generality.selection.draft_pool import best_of_each

# ------------------------------------------------------------------------- choosing answers

ANSWERS = ["A", "A", "A", "B", "C", "C"]
SCORES = [2, 3, 1, 8, 4, 5]


@pytest.mark.parametrize(
    ("rule", "chosen"), [("majority", "A"), ("max", "B"), ("sum", "C"), ("avg", "B")]
)
def test_each_rule_chooses_as_the_published_example(rule, chosen) -> None:
    assert select_answer(ANSWERS, SCORES, rule) == chosen


def test_ties_go_to_the_answer_with_more_samples_then_to_the_first() -> None:
    assert select_answer(["a", "b", "b"], [4, 2, 2], "sum") == "b"
    assert select_answer(["a", "b"], [4, 4], "max") == "a"
    thirds = [0.1 + 0.2, 0.3, 0.0]  # equal sums but for rounding
    assert select_answer(["a", "b", "b"], thirds, "sum") == "b"


def test_equal_answers_are_pooled_by_the_normaliser() -> None:
    assert select_answer(["1/2", "0.5", "3"], [1, 1, 1.5], equal=lambda a: eval(a)) == "1/2"
    assert select_answer([" 7 ", "7", "8"], rule="majority") == " 7 "


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=1), st.data())
def test_the_choice_does_not_depend_on_order_but_for_ties(samples, data) -> None:
    shuffled = data.draw(st.permutations(samples))
    for rule in ("sum", "max", "avg", "majority"):
        value = {}
        for answer in {a for a, _ in samples}:
            own = [s for a, s in samples if a == answer]
            mean = sum(own) / len(own)
            of = {"sum": sum(own), "max": max(own), "avg": mean, "majority": len(own)}[rule]
            value[answer] = (round(of, 9), len(own))
        for version in (samples, shuffled):
            chosen = select_answer(*map(list, zip(*version, strict=True)), rule)
            assert value[chosen] == max(value.values())


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="score for each"):
        select_answer(["a", "b"], [1.0])
    with pytest.raises(ValueError, match="rule is one of"):
        select_answer(["a"], [1.0], "median")
    with pytest.raises(ValueError, match="NaN"):
        select_answer(["a", "b"], [float("nan"), 1.0])


# ------------------------------------------------------------------------- preference pairs


def test_pairs_match_the_published_gaps() -> None:
    scores = [0.5 * right + 0.5 * exam / 9 for right, exam in [(1, 6), (1, 2), (0, 5), (0, 0)]]
    assert scores == pytest.approx([0.8333, 0.6111, 0.2778, 0], abs=1e-4)
    rows = preference_pairs("?", ["1", "2", "3", "4"], scores)
    gaps = {(r["chosen"], r["rejected"]): r["chosen_score"] - r["rejected_score"] for r in rows}
    wanted = {("1", "3"): 0.556, ("1", "4"): 0.833, ("2", "3"): 0.333, ("2", "4"): 0.611}
    assert gaps == pytest.approx(wanted, abs=1e-3)
    assert len(preference_pairs("?", ["1", "2", "3", "4"], scores, max_pairs=2)) == 2


def test_equal_texts_and_gaps_at_the_bound_make_no_pair() -> None:
    assert preference_pairs("?", ["a", "a", "b"], [0.9, 0.1, 0.6]) == [
        {"prompt": "?", "chosen": "b", "rejected": "a", "chosen_score": 0.6, "rejected_score": 0.1}
    ]
    assert preference_pairs("?", ["a", "b"], [0.8, 0.5]) == []


def test_texts_scored_twice_make_one_pair_the_widest() -> None:
    rows = preference_pairs("?", ["a", "b", "a", "b"], [0.9, 0.5, 0.1, 0.0])
    assert [(r["chosen"], r["rejected"], r["rejected_score"]) for r in rows] == [("a", "b", 0.0)]
    with pytest.raises(ValueError, match="NaN"):
        preference_pairs("?", ["a", "b"], [float("nan"), 0.0])


# ------------------------------------------------------------------------- demonstrations’ worth


def echo(prompts: list[str]) -> list[str]:
    """Answers with the last word of the demonstration."""
    return [prompt.split("\n\n")[0].split()[-1] for prompt in prompts]


def test_the_value_is_the_share_of_right_answers() -> None:
    exam = [Question("q1", "yes"), Question("q2", "no"), Question("q3", "yes")]
    demo = TeachingPair("q0", "because", "yes")
    assert demonstration_value(echo, demo, exam, ExactMatch()) == pytest.approx(2 / 3)
    summed = demonstration_value(echo, demo, exam, ExactMatch(), repeats=3, aggregate="sum")
    assert summed == 6


def test_each_prompt_is_asked_once_per_repeat_and_drawn_anew() -> None:
    asked: list[str] = []

    def sampler(prompts: list[str]) -> list[str]:
        asked.extend(prompts)
        return ["yes" if place % 2 else "no" for place in range(len(prompts))]

    demo, exam = TeachingPair("q0", "because"), [Question("q1", "yes")]
    values = demonstration_values(sampler, [demo, demo], [exam, exam], ExactMatch(), repeats=4)
    assert values.tolist() == [0.5, 0.5]
    assert len(asked) == 4


def test_an_exam_without_questions_and_a_silent_student_are_refused() -> None:
    demo, exam = TeachingPair("q", "r"), [Question("q1", "yes")]
    with pytest.raises(ValueError, match="exam of one question"):
        demonstration_value(echo, demo, [], ExactMatch())
    with pytest.raises(ValueError, match="answered 0 of 1"):
        demonstration_value(lambda prompts: [], demo, exam, ExactMatch())


def test_no_exam_holds_the_taught_problem() -> None:
    pool = [Question("q", "1"), Question("p", "2")]
    assert [item.prompt for item in FixedExam(pool)("q")] == ["p"]
    alike = SimilarExam(pool, lambda texts: np.ones((len(texts), 2)), k=2)
    assert [item.prompt for item in alike("q")] == ["p"]
    cycle = VariantExam(lambda q, n, seed: [Question("qpr"[i % 3], "0") for i in range(n)], 2)
    assert [item.prompt for item in cycle("q")] == ["p", "r"]
    with pytest.raises(ValueError, match="gave 0 variants"):
        VariantExam(lambda q, n, seed: [Question(q, "0")] * n)("q")


def test_what_is_not_alike_is_not_asked() -> None:
    pool = [Question("x", "1"), Question("y", "2")]
    vectors = {"x": [1.0, 0.0], "y": [0.0, 1.0], "z": [1.0, 0.1]}
    exam = SimilarExam(pool, lambda texts: np.array([vectors[t] for t in texts]), floor=0.5)
    assert [item.prompt for item in exam("z")] == ["x"]


# ------------------------------------------------------------------------- item response theory


def test_item_information_matches_the_published_numbers() -> None:
    assert expit(2 * (1 - 0.5)) == pytest.approx(0.731059, abs=1e-6)
    assert item_information(2, 0.5, 1) == pytest.approx(0.786448, abs=1e-6)
    assert item_information(1, 0, 1) == pytest.approx(0.196612, abs=1e-6)
    assert item_information(2, 3, 1) == pytest.approx(0.070651, abs=1e-6)


def responses(seed: int, people: int = 150) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    alpha, beta = np.exp(rng.normal(0, 0.7, 30)), rng.normal(0, 1, 30)
    chance = expit(alpha * (rng.normal(size=(people, 1)) - beta))
    return (rng.random((people, 30)) < chance).astype(float), alpha, beta


def test_the_fit_finds_discrimination_and_difficulty() -> None:
    correct, alpha, beta = responses(0)
    found = discriminative_subset(correct, 10)
    assert np.corrcoef(np.log(found.alpha), np.log(alpha))[0, 1] > 0.7
    assert np.corrcoef(found.beta, beta)[0, 1] > 0.9
    assert alpha[found.indices].mean() > 1.5 * alpha.mean()
    assert (found.alpha[found.indices] >= np.sort(found.alpha)[-10]).all()


def test_the_fit_is_a_maximum_of_the_posterior() -> None:
    correct, _, _ = responses(1, people=12)
    found = discriminative_subset(correct, 5)

    def posterior(theta: np.ndarray, beta: np.ndarray, alpha: np.ndarray) -> float:
        p = expit(alpha * (theta[:, None] - beta))
        likelihood = np.log(np.where(correct == 1, p, 1 - p)).sum()
        prior = (theta**2).sum() + (beta**2).sum() + (np.log(alpha) ** 2).sum() / 0.25
        return float(likelihood - prior / 2)

    best = posterior(found.theta, found.beta, found.alpha)
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = (found.theta + 0.05 * rng.normal(size=12), found.beta + 0.05 * rng.normal(size=30))
        assert posterior(*moved, found.alpha * np.exp(0.05 * rng.normal(size=30))) < best


def test_unasked_questions_do_not_count_and_other_numbers_are_refused() -> None:
    correct, _, _ = responses(2, people=20)
    unasked = np.vstack([correct, np.full((1, 30), np.nan)])
    with_one = discriminative_subset(unasked, 30)
    assert with_one.theta[-1] == pytest.approx(0, abs=1e-2)
    np.testing.assert_allclose(with_one.alpha, discriminative_subset(correct, 30).alpha, rtol=0.02)
    with pytest.raises(ValueError, match="0, 1 and NaN"):
        discriminative_subset(correct + 0.5, 3)
    with pytest.raises(ValueError, match="k is from 1"):
        discriminative_subset(correct, 31)


# ------------------------------------------------------------------------- drafts


def pool_of(questions: int) -> DraftPool:
    return DraftPool(
        [
            Draft(f"q{i}", f"r{i}{j}", technique="ab"[j], score=i / questions + 0.01 * j)
            for i in range(questions)
            for j in range(2)
        ]
    )


def test_a_question_is_worth_the_mean_of_its_rationales() -> None:
    scores = (0.51, 0.43, 0.37, 0.40)
    pool = DraftPool([Draft("q", f"r{i}", score=score) for i, score in enumerate(scores)])
    assert pool.question_scores() == {"q": pytest.approx(0.4275)}
    [pair] = pool.preference_pairs("rationale", prompt="{question}")
    assert (pair["chosen"], pair["rejected"]) == ("r0", "r2")


def test_question_pairs_come_from_the_top_and_bottom_quarters_once_each() -> None:
    rows = pool_of(16).preference_pairs("question", prompt="ask", count=100, seed=3)
    assert {row["prompt"] for row in rows} == {"ask"}
    assert {row["chosen"] for row in rows} == {"q12", "q13", "q14", "q15"}
    assert {row["rejected"] for row in rows} == {"q0", "q1", "q2", "q3"}
    assert len({(row["chosen"], row["rejected"]) for row in rows}) == len(rows) == 16


def test_the_paper_has_6900_pairs() -> None:
    pool = pool_of(250)
    question = pool.preference_pairs("question", prompt="ask", count=50)
    rationale = pool.preference_pairs("rationale", prompt="{question}", count=250)
    assert 23 * (len(question) + len(rationale)) == 6900


def test_equal_scores_make_no_pair_and_unscored_drafts_are_refused() -> None:
    same = DraftPool([Draft(q, r, score=0.5) for q in "xy" for r in "ab"])
    assert same.preference_pairs("rationale", prompt="") == []
    assert same.preference_pairs("question", prompt="") == []
    with pytest.raises(ValueError, match="score the drafts first"):
        DraftPool([Draft("q", "r")]).preference_pairs("rationale", prompt="")


def test_scores_are_the_student_s() -> None:
    exam = [Question("q1", "yes"), Question("q2", "no")]
    pool = DraftPool([Draft("q0", "yes"), Draft("q0", "maybe"), Draft("q1", "yes")])
    scored = pool.score(echo, exam, ExactMatch())
    assert [draft.score for draft in scored] == [0.5, 0.0, 0.0]  # q1 is not asked of its own draft


# ------------------------------------------------------------------------- tailored teachers


def sums() -> SoftmaxDrafter:
    return SoftmaxDrafter(
        {kind: (lambda seed, kind=kind: f"{kind} {seed} ?") for kind in ("easy", "hard")},
        {"right": lambda q, seed: f"so {q.split()[1]}", "wrong": lambda q, seed: "so none"},
        steps=300,
    )


def test_alignment_moves_the_teacher_to_what_the_student_learns_from() -> None:
    def student(prompts: list[str]) -> list[str]:  # learns only from hard questions, done right
        return ["yes" if "hard" in p and "none" not in p.split("\n\n")[0] else "no"
                for p in prompts]  # fmt: skip

    tailored = TailoredTeacher(sums(), student, [Question("e", "yes")], ExactMatch(), 40, 2, 20, 40)
    pool = tailored.draft()
    assert len(pool) == 80
    aligned = tailored.align(pool)
    assert aligned.teacher.kind_probabilities[1] > 0.9
    assert aligned.teacher.technique_probabilities[1, 0] > 0.9
    assert aligned.teacher.technique_probabilities[0, 0] == pytest.approx(0.5)  # no preference
    written = aligned.generate(20)
    assert np.mean([draft.kind == "hard" for draft in written]) > 0.8
    only = tailored.align(pool, levels=["rationale"]).teacher
    assert only.kind_probabilities.tolist() == [0.5, 0.5]


def test_a_teacher_without_preferences_stays_as_it_is() -> None:
    tailored = TailoredTeacher(sums(), echo, [Question("e", "never")], ExactMatch(), 10, 2, 5, 5)
    assert tailored.align() is tailored


def test_a_policy_without_pairs_stays_as_it_is() -> None:
    teacher = sums()
    assert teacher.aligned([], seed=0) is teacher


def test_the_policy_s_optimum_is_that_of_preference_optimisation() -> None:
    """One pair and its reverse three to one: beta times the log-odds is log 3 at the optimum."""
    row = {"level": "rationale", "chosen_kind": "easy", "rejected_kind": "easy"}
    good = {**row, "chosen_technique": "right", "rejected_technique": "wrong"}
    bad = {**row, "chosen_technique": "wrong", "rejected_technique": "right"}
    tuned = sums().aligned([good, good, good, bad], seed=0)
    odds = torch.log(tuned.technique_probabilities[0, 0] / tuned.technique_probabilities[0, 1])
    assert 0.1 * odds.item() == pytest.approx(np.log(3), abs=0.02)


def test_its_step_follows_the_gradient_of_the_published_loss() -> None:
    row = {"level": "rationale", "chosen_kind": "hard", "rejected_kind": "hard"}
    good = {**row, "chosen_technique": "right", "rejected_technique": "wrong"}
    asked = {"level": "question", "chosen_kind": "hard", "rejected_kind": "easy"}
    teacher = replace(sums(), steps=1, technique_logits=torch.tensor([[0.0, 1.0], [2.0, 0.5]]))
    after = teacher.aligned([good, asked, asked], seed=0)
    kinds = torch.zeros(2, requires_grad=True)
    techniques = teacher.technique_logits.clone().requires_grad_()
    of_kind, of_technique = kinds.log_softmax(-1), techniques.log_softmax(-1)
    chosen = torch.stack([of_technique[1, 0], of_kind[1], of_kind[1]])
    rejected = torch.stack([of_technique[1, 1], of_kind[0], of_kind[0]])
    dpo_loss(chosen, rejected, chosen.detach(), rejected.detach(), beta=0.1).mean().backward()
    for before, found in ((kinds, after.kind_logits), (techniques, after.technique_logits)):
        adam = before - 0.1 * before.grad / (before.grad.abs() + 1e-8)  # its first step
        torch.testing.assert_close(found.float(), adam.detach())


def test_a_chat_drafts_and_counts_what_it_drops() -> None:
    said = ["2 + 2 ?", "", "2 + 2 ?", "1 + 1 ?", "four", "", "4"]
    teacher = ChatDrafter(RecordedChat(said), ["1 + 1 ?"])
    asked = teacher.questions(4, seed=0)
    assert [draft.question for draft in asked] == ["2 + 2 ?"]
    drafts = teacher.rationales(asked, 3, seed=0)
    assert [draft.technique for draft in drafts] == ["step by step", "recall"]
    assert teacher.dropped == {"empty": 2, "repeated": 2}
    with pytest.raises(UserError, match="cannot be tuned"):
        teacher.aligned([], seed=0)


# ------------------------------------------------------------------------- demonstrations


def nearest(demonstrations, texts):
    return [min(demonstrations, key=lambda d: abs(len(d[0]) - len(t)))[1] for t in texts]


TEXTS = ["x" * n for n in range(1, 41)]
LABELS = [int(len(text) > 20) for text in TEXTS]


def test_the_search_never_gets_worse_and_repeats_itself() -> None:
    start = [(("x", 0), ("xx", 1))]
    search = DemonstrationOptimizer(nearest, [nearest], swap_in_mistakes, exam=20, seed=1)
    found = search.run(TEXTS, LABELS, start, metric=share_right)
    assert found[0].score >= share_right(np.array(LABELS), np.array(nearest(start[0], TEXTS)))
    assert [c.score for c in found] == sorted([c.score for c in found], reverse=True)
    assert len(found) <= 4
    assert found == search.run(TEXTS, LABELS, start, metric=share_right)


def test_a_reflector_sees_only_mistakes_with_their_true_classes() -> None:
    seen = []

    def reflect(demonstrations, mistakes, rng):
        seen.extend(mistakes)
        return demonstrations

    DemonstrationOptimizer(nearest, [nearest], reflect, rounds=1, exam=40).run(
        TEXTS, LABELS, [(("x", 0), ("xx", 1))]
    )
    assert seen
    for mistake in seen:
        assert mistake.label == LABELS[TEXTS.index(mistake.text)]
        assert all(said != mistake.label for said in mistake.said)


def test_mistakes_take_the_place_of_examples_of_their_class() -> None:
    from generality.selection import Mistake

    wrong = [Mistake("m", 1, (0, 0)), Mistake("n", 0, (1,)), Mistake("b", 1, (0,))]
    shown = (("a", 0), ("b", 1), ("c", 1))
    after = swap_in_mistakes(shown, wrong, np.random.default_rng(0))
    assert sorted(label for _, label in after) == [0, 1, 1]
    assert {"m", "n"} <= {text for text, _ in after}


def test_the_control_swaps_as_many_and_keeps_the_balance() -> None:
    from generality.selection import Mistake

    rng = np.random.default_rng(0)
    shown = balanced_lists(TEXTS, LABELS, 1, 6, rng)[0]
    assert [label for _, label in shown] == [0, 0, 0, 1, 1, 1]
    after = swap_in_random(TEXTS, LABELS)(shown, [Mistake("m", 1, (0,))] * 2, rng)
    assert sorted(label for _, label in after) == [0, 0, 0, 1, 1, 1]
    assert "m" not in {text for text, _ in after}
    assert 0 < len(set(after) - set(shown)) <= 2
    with pytest.raises(ValueError, match="evenly"):
        balanced_lists(TEXTS, LABELS, 1, 5, rng)


def test_f1_is_of_the_rarer_class() -> None:
    truth, said = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    assert minority_f1(truth, said) == pytest.approx(2 / 3)
    assert minority_f1(truth, np.zeros(4, int)) == 0


# ------------------------------------------------------------------------- chains


def test_lessons_are_right_and_every_other_follows_a_demonstration_in_its_style() -> None:
    lessons = list(zip(*chain_lessons(60, (1, 2), 3, styles=("full", "reversed")), strict=True))
    for place, (prompt, response) in enumerate(lessons):
        *shown, question = prompt.split(BETWEEN)
        assert len(shown) == place % 2
        assert answer_of(response) == read_chain(question).answer
        for text in shown:  # only the full style has semicolons in its work
            asked, _, work = text.partition(" ? ")
            assert answer_of(work) == read_chain(f"{asked} ?").answer
            assert (";" in work) == (";" in response)


def test_an_example_of_any_length_may_stand_before_a_question_of_any() -> None:
    told = [chain_lessons(200, n, n, shown_steps=(1, 3)) for n in (2, 3)]
    lengths = {2: [], 3: []}
    for asked, (prompts, _) in zip((2, 3), told, strict=True):
        for prompt in prompts:
            *shown, question = prompt.split(BETWEEN)
            assert len(read_chain(question).program) == asked
            for text in shown:
                lengths[asked].append(len(read_chain(text.partition(" ? ")[0] + " ?").program))
    assert {*lengths[2]} == {*lengths[3]} == {1, 2, 3}
    assert abs(np.mean(lengths[2]) - np.mean(lengths[3])) < 0.4  # three standard deviations
    plain = chain_lessons(6, (1, 2), 0)
    assert [prompt.split(BETWEEN)[-1] for prompt in plain[0]] == [
        prompt.split(BETWEEN)[-1] for prompt in chain_lessons(6, (1, 2), 0, shown_steps=3)[0]
    ]


def test_the_worth_of_a_kind_chooses_among_its_techniques() -> None:
    teacher = chain_drafter(lengths=(1,), operators=("+",))
    drafts = teacher.rationales(teacher.questions(60, seed=0), 4, seed=0)  # questions recur
    worth = {(draft.kind, draft.technique): float(draft.technique == "terse") for draft in drafts}
    best = best_of_each(drafts, 4, worth)
    assert [draft.technique for draft in best] == ["terse"] * 60
    one = teacher.only("1 +", "full")
    assert {d.technique for d in one.rationales(one.questions(5, seed=0), 1, seed=0)} == {"full"}


# ------------------------------------------------------------------------- recipes


def test_a_teacher_is_never_asked_what_it_has_seen_solved(home) -> None:
    school = RecipeSchool(Lab(device="cpu", progress=False), Recipes(), lessons=4)
    rules = school.recipes.rules(3, seed=0)
    fresh = school.fresh(rules, 5, practice=6, seed=2)
    seen = {p.prompt for p in (q for some in school._practice(rules, 6, 2) for q in some)}
    assert len(seen) == 18
    assert [len({p.prompt for p in some} - seen) for some in fresh] == [5, 5, 5]
    assert [some[:2] for some in fresh] == school.fresh(rules, 2, practice=6, seed=2)


MOVE = st.sampled_from(sorted(MOVES))


@settings(max_examples=50, deadline=None)
@given(MOVE, MOVE, st.lists(st.integers(0, 9), min_size=3, max_size=5))
def test_a_recipe_does_one_move_after_the_other(first, second, digits) -> None:
    problem = recipe_problem("a b", Recipe(first, second), digits)
    between = [int(word) for word in problem.states[0].split()]
    assert between == MOVES[first](digits)
    assert answer_of(problem.solution) == " ".join(map(str, MOVES[second](between)))
    assert WorldCheck()(problem.prompt, problem.solution, problem.answer) == 1


def test_moves_differ_and_neighbours_share_exactly_one() -> None:
    assert len({tuple(move([1, 2, 3])) for move in MOVES.values()}) == len(MOVES)
    recipes = Recipes()
    for seed in range(30):
        recipe = recipes.draw(np.random.default_rng(seed))
        near, far = recipes.neighbour(recipe, seed), recipes.unrelated(recipe, seed)
        assert (near.first == recipe.first) + (near.second == recipe.second) == 1
        assert (far.first == recipe.first) + (far.second == recipe.second) == 0
        assert not near.same_as(recipe)
        assert not far.same_as(recipe)


def test_problems_of_a_rule_are_different_and_avoid_what_they_should() -> None:
    recipes = Recipes()
    [(name, recipe)] = recipes.rules(1, seed=0).items()
    first = recipes.under(name, recipe, 5, seed=0)
    seen = {problem.prompt for problem in first}
    second = recipes.under(name, recipe, 5, seed=0, avoid=seen)
    assert len(seen) == 5
    assert not seen & {problem.prompt for problem in second}
    with pytest.raises(ValueError, match="are left under"):
        Recipes(length=1).under(name, recipe, 11, seed=0)


# ------------------------------------------------------------------------- tuning a language model
