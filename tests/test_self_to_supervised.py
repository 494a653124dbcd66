import math

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from generality.benchmarks.worlds import ChainPrograms, solution, world_tokenizer
from generality.measures import forgetting_report, kl_to_base, response_logprob
from generality.models import tiny_decoder
from generality.models.generation import generate_texts
from generality.selection import SelfToSupervised, WorldCheck

GOLD = ["g0", "g1", "g2", "g3"]
DATA = Dataset.from_dict({"prompt": ["p0", "p1", "p2", "p3"], "response": GOLD, "source": GOLD})
RIGHT = {"own0", "own3", "para1"}  # J(own), J(paraphrase) = (1,-), (0,1), (0,0), (1,-)
asked: list[str] = []


def write(prompts: list[str], samples: int) -> list[list[str]]:
    return [[f"own{prompt[1:]}"] * samples for prompt in prompts]


def paraphrase(prompts: list[str], references: list[str]) -> list[str]:
    asked.extend(prompts)
    assert references == [f"g{prompt[1:]}" for prompt in prompts]
    return [f"para{prompt[1:]}" for prompt in prompts]


def judge(prompt: str, response: str, reference: object) -> float:
    return float(response in RIGHT)


def test_routing_matches_the_published_example() -> None:
    asked.clear()
    built = SelfToSupervised(write, judge, paraphrase=paraphrase).build(DATA)
    assert built["target_source"][:] == ["self", "paraphrase", "gold", "self"]
    assert built["target"][:] == ["own0", "para1", "g2", "own3"]
    assert asked == ["p1", "p2"]
    assert built["source"][:] == GOLD  # the data's own column is left alone


def test_variants_route_as_their_names_say() -> None:
    distilled = SelfToSupervised(write, judge, paraphrase=paraphrase, own=False).build(DATA)
    assert distilled["target"][:] == ["g0", "para1", "g2", "g3"]
    own = SelfToSupervised(write, judge, fallback="drop").build(DATA)
    assert own["target"][:] == ["own0", "own3"]
    assert own["prompt"][:] == ["p0", "p3"]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=8))
def test_every_example_takes_the_first_step_that_is_right(flags: list[tuple[bool, bool]]) -> None:
    right = {f"own{i}" for i, (own, _) in enumerate(flags) if own}
    right |= {f"para{i}" for i, (_, para) in enumerate(flags) if para}
    data = Dataset.from_dict(
        {"prompt": [f"p{i}" for i in range(len(flags))],
         "response": [f"g{i}" for i in range(len(flags))]}
    )  # fmt: skip
    method = SelfToSupervised(write, lambda p, r, g: float(r in right), paraphrase=paraphrase)
    expected = ["self" if own else "paraphrase" if para else "gold" for own, para in flags]
    assert method.build(data)["target_source"][:] == expected
    parts = [method.build(data.select([i]))["target"][0] for i in range(len(flags))]
    assert parts == method.build(data)["target"][:]


def test_a_judge_that_accepts_nothing_leaves_the_gold_answers() -> None:
    method = SelfToSupervised(write, lambda p, r, g: 0.0, paraphrase=paraphrase)
    assert method.build(DATA)["target"][:] == GOLD


def test_the_likeliest_of_several_right_answers_is_the_target() -> None:
    def several(prompts: list[str], samples: int) -> list[list[str | None]]:
        assert samples == 3
        return [["wrong", "right but odd", None] if p == "p0" else ["right", "right!", "right?"]
                for p in prompts]  # fmt: skip

    method = SelfToSupervised(
        several, lambda p, r, g: float(r.startswith("right")), n_samples=3,
        score=lambda prompts, responses: [-len(response) for response in responses],
    )  # fmt: skip
    built = method.build(DATA.select([0, 1]))
    assert built["target"][:] == ["right but odd", "right"]
    assert built["base_logprob"][:] == [-13.0, -5.0]


TOKENIZER = world_tokenizer()
MODEL = tiny_decoder("0.05M", vocabulary=len(TOKENIZER))
MODEL.lm_head.weight = nn.Parameter(MODEL.lm_head.weight.detach().clone())
MODEL.lm_head.weight.data[[0, 1, 3]] = 0  # special tokens are lost when a text is decoded
MODEL.lm_head.weight.data[2] *= -2  # it ends now and then
CHAINS = ChainPrograms().sample(6, (1, 3), seed=0)
TASK = Dataset.from_dict(
    {"prompt": [c.prompt for c in CHAINS], "response": [solution(c, "full") for c in CHAINS],
     "reference": [c.answer for c in CHAINS]}
)  # fmt: skip


def test_a_model_whose_answers_are_all_right_is_trained_on_what_it_writes_greedily() -> None:
    prompts = TASK["prompt"][:]
    method = SelfToSupervised.of_model(MODEL, TOKENIZER, lambda p, r, g: 1.0, max_tokens=12)
    written = generate_texts(MODEL, TOKENIZER, prompts, max_tokens=11)
    whole = generate_texts(MODEL, TOKENIZER, prompts, max_tokens=12)
    built = method.build(TASK)
    ended = [cut == text for cut, text in zip(written, whole, strict=True)]
    assert True in ended
    assert False in ended
    assert [source == "self" for source in built["target_source"]] == ended
    for text, target, own in zip(whole, built["target"], ended, strict=True):
        assert not own or target == text
    expected = response_logprob(MODEL, TOKENIZER, prompts, built["target"][:])
    assert built["base_logprob"][:] == pytest.approx(expected.tolist(), abs=1e-4)


def test_worlds_are_judged_by_the_reference_not_the_style() -> None:
    styles = [solution(chain, "terse") for chain in CHAINS]
    method = SelfToSupervised(lambda prompts, n: [[s] for s in styles], WorldCheck())
    assert set(method.build(TASK)["target_source"]) == {"self"}


def test_bad_data_are_refused() -> None:
    with pytest.raises(ValueError, match="response"):
        SelfToSupervised(write, judge).build(DATA.remove_columns("response"))
    with pytest.raises(ValueError, match="answers to 1 of 4 prompts"):
        SelfToSupervised(lambda prompts, n: [["a"]], judge).build(DATA)
    with pytest.raises(ValueError, match="n_samples"):
        SelfToSupervised(write, judge, n_samples=0)
    assert len(SelfToSupervised(write, judge).build(DATA.select([]))) == 0


def test_forgetting_avoided_matches_the_published_share() -> None:
    before = {"a": 50.0, "b": 60.0}
    after, plain = {"a": 48.0, "b": 57.0}, {"a": 45.0, "b": 56.2}
    report = forgetting_report(before, after, baseline=plain)
    assert report.avoided == pytest.approx(0.431818, abs=1e-6)
    assert report.drops == {"a": 2.0, "b": 3.0}
    assert report.worst == "b"
    assert math.isnan(forgetting_report(before, after).avoided)
    assert math.isnan(forgetting_report(before, after, baseline=before).avoided)
    with pytest.raises(ValueError, match="suites"):
        forgetting_report(before, {"a": 1.0})


def test_kl_is_the_mean_log_ratio_of_whole_responses() -> None:
    base, tuned = (tiny_decoder("0.05M", seed, vocabulary=len(TOKENIZER)) for seed in (0, 1))
    base.lm_head.weight.data *= 0.1
    tuned.lm_head.weight.data *= 0.1
    prompts = [c.prompt for c in CHAINS]
    options = {"samples": 50, "max_tokens": 3, "seed": 0}
    estimate = kl_to_base(tuned, base, TOKENIZER, prompts, batch_size=50, **options)
    asked = [p for p in prompts for _ in range(50)]
    texts = generate_texts(tuned, TOKENIZER, asked, max_tokens=3, temperature=1.0, seed=0)
    ours, theirs = (
        response_logprob(model, TOKENIZER, asked, texts, reduce="none")[:, :3].nansum(1)
        for model in (tuned, base)
    )
    plain = ours - theirs
    stderr = plain.std().item() / len(plain) ** 0.5
    assert estimate.responses == 300
    assert abs(estimate.per_response - plain.mean().item()) < 4 * math.hypot(
        stderr, estimate.stderr
    )
    assert estimate.stderr < stderr
    with pytest.raises(ValueError, match="prompt"):
        kl_to_base(tuned, base, TOKENIZER, [])
