"""Logit fusion: the paper's numbers, its invariants, and models that write together."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.benchmarks.worlds import world_tokenizer
from generality.decoding import (
    FusedCausalLM,
    FusionLogitsProcessor,
    KLMatchedFusion,
    StaticFusion,
    check_same_vocabulary,
    fuse_logits,
)
from generality.decoding.logit_fusion import _divergences, fuse_weighted
from generality.errors import UserError
from generality.models import generate_texts, tiny_decoder

BASE, TUNED = torch.tensor([[1.5, 1, 0.5, -1]]), torch.tensor([[0.5, 2.5, 0, -1]])
MILD, SURE = torch.tensor([[2.0, 1, 0, -1]]), torch.tensor([[4, 0.5, 0, -1]])
SECOND = torch.tensor([[3, 1, 0.5, -1]])


def criterion(large, experts, base, weights) -> float:
    """The paper's sum, written out."""
    fused = large + sum(a * (expert - base) for a, expert in zip(weights, experts, strict=True))
    out, back = _divergences(fused, large)
    moved = [_divergences(expert, base) for expert in experts]
    return float(sum((out - o) ** 2 + (back - b) ** 2 for o, b in moved))


def test_divergences_of_the_sheet():
    out, back = _divergences(TUNED, BASE)
    assert (float(out), float(back)) == pytest.approx((0.5607, 0.6335), abs=1e-4)


@pytest.mark.parametrize(
    ("large", "losses", "alpha", "best", "fused"),
    [
        (MILD, [0.7157, 0.3762, 0.0062, 0.8272, 3.1400], 1.0, 0.0062,
         [0.1712, 0.7674, 0.0382, 0.0232]),
        (SURE, [0.7157, 0.6220, 0.2145, 0.5132, 4.0333], 1.2, 0.0917,
         [0.6016, 0.3649, 0.0201, 0.0135]),
    ],
)  # fmt: skip
def test_one_expert_by_the_numbers(large, losses, alpha, best, fused):
    found = [criterion(large, [TUNED], BASE, [a]) for a in (0, 0.5, 1, 1.5, 2)]
    assert found == pytest.approx(losses, abs=1e-4)
    logits, weights = fuse_weighted(large, [TUNED], [BASE], KLMatchedFusion())
    assert weights.tolist() == [[pytest.approx(alpha)]]
    assert logits.softmax(-1)[0].tolist() == pytest.approx(fused, abs=1e-4)
    assert criterion(large, [TUNED], BASE, [alpha]) == pytest.approx(best, abs=1e-4)


def test_two_experts_by_the_numbers():
    experts = [TUNED, SECOND]
    _, weights = fuse_weighted(MILD, experts, [BASE, BASE], KLMatchedFusion())
    assert weights[0].tolist() == pytest.approx([0.8, 0.0])
    assert criterion(MILD, experts, BASE, [0.8, 0]) == pytest.approx(0.1318, abs=1e-4)
    of_second = [criterion(MILD, experts, BASE, [0, 0.1 * k]) for k in range(21)]
    assert (min(range(21), key=of_second.__getitem__), min(of_second)) == (
        16, pytest.approx(0.1534, abs=1e-4),
    )  # fmt: skip


def test_static_fusion_is_proxy_tuning_and_unir():
    proxy = fuse_logits(SURE, [TUNED], [BASE]).softmax(-1)
    assert proxy[0].tolist() == pytest.approx([0.7060, 0.2597, 0.0213, 0.0129], abs=1e-4)
    summed = fuse_logits(SURE, [TUNED, SECOND], None, StaticFusion((1.0, 0.5)))
    torch.testing.assert_close(summed, SURE + TUNED + 0.5 * SECOND)


rows = st.integers(0, 2**31).map(
    lambda seed: torch.randn(6, 3, 17, generator=torch.Generator().manual_seed(seed)) * 3
)


@settings(max_examples=15, deadline=None)
@given(rows, st.sampled_from(["one", "all"]))
def test_the_fast_search_finds_what_a_plain_one_does(drawn, active):
    large, base, *experts = drawn[:4]
    strategy = KLMatchedFusion(0.5, 1.5, 0.25, active=active)
    _, weights = fuse_weighted(large, experts, [base, base], strategy)
    grid = strategy.grid
    tried = [[a, 0.0] for a in grid] + [[0.0, a] for a in grid]
    if active == "all":
        tried = [[a, b] for a in grid for b in grid]
    for row in range(3):
        one = slice(row, row + 1)
        found = criterion(large[one], [e[one] for e in experts], base[one], weights[row].tolist())
        least = min(criterion(large[one], [e[one] for e in experts], base[one], w) for w in tried)
        assert found == pytest.approx(least, rel=1e-3, abs=1e-5)


@settings(max_examples=15, deadline=None)
@given(rows)
def test_what_must_hold(drawn):
    large, base, expert = drawn[:3]
    same, none = fuse_weighted(large, [base], [base], KLMatchedFusion())
    assert not none.any()
    torch.testing.assert_close(same, large)
    _, weights = fuse_weighted(base, [expert], [base], KLMatchedFusion())
    torch.testing.assert_close(weights, torch.ones_like(weights))
    moved = fuse_logits(large + 3, [expert - 2], [base + 7], KLMatchedFusion())
    plain = fuse_logits(large, [expert], [base], KLMatchedFusion())
    torch.testing.assert_close(moved.softmax(-1), plain.softmax(-1), atol=1e-4, rtol=1e-3)


def test_ruled_out_tokens_and_padding():
    barred = torch.tensor([[0.0, 0, 0, -torch.inf]])
    for strategy in (StaticFusion(), KLMatchedFusion()):
        fused = fuse_logits(MILD + barred, [TUNED + barred], [BASE + barred], strategy)
        assert fused[0, 3] == -torch.inf
        assert fused[0, :3].isfinite().all()
        wide = fuse_logits(torch.cat([MILD, MILD], 1), [TUNED], [BASE], strategy)
        assert wide.shape == (1, 8)
        torch.testing.assert_close(wide[:, :4], fuse_logits(MILD, [TUNED], [BASE], strategy))
        assert (wide[0, 4:] == -torch.inf).all()


def test_shifts_too_large_for_float32():
    large, expert = torch.tensor([[0.0, -30.0]]), torch.tensor([[0.0, 90.0]])
    fused, weights = fuse_weighted(large, [expert], [torch.zeros(1, 2)], KLMatchedFusion())
    assert fused.isfinite().all()
    assert 0 < float(weights[0, 0]) <= 2


def test_wrong_arguments():
    with pytest.raises(ValueError, match="2 weights for 1"):
        fuse_logits(MILD, [TUNED], [BASE], StaticFusion((1.0, 2.0)))
    with pytest.raises(ValueError, match="base of every expert"):
        fuse_logits(MILD, [TUNED], None, KLMatchedFusion())
    with pytest.raises(ValueError, match="1 experts and 2 bases"):
        fuse_logits(MILD, [TUNED], [BASE, BASE])
    with pytest.raises(ValueError, match="low at most high"):
        KLMatchedFusion(1.0, 0.5)
    with pytest.raises(UserError, match="token 66 is 'up' in the first and missing in the second"):
        check_same_vocabulary({"a": world_tokenizer(["up"]), "b": world_tokenizer()})


TOKENIZER = world_tokenizer()
make = functools.lru_cache(functools.partial(tiny_decoder, "0.05M", vocabulary=len(TOKENIZER)))
STRATEGIES = [StaticFusion(), StaticFusion((1.5, 0.5)), KLMatchedFusion()]


@pytest.mark.parametrize(
    "wrong", [torch.zeros(5), torch.zeros(3, 5), torch.full((2, 5), torch.nan)]
)
def test_logits_that_are_no_batch_are_refused(wrong):
    good = torch.zeros(2, 5)
    for large, expert, base in ((wrong, good, good), (good, wrong, good), (good, good, wrong)):
        with pytest.raises(ValueError, match="NaN" if wrong.isnan().any() else "as many rows each"):
            fuse_logits(large, [expert], [base])
    with pytest.raises(ValueError, match="need experts"):
        fuse_logits(good, [], [], KLMatchedFusion())


def fused_lm(strategy) -> FusedCausalLM:
    large, base, *experts = (make(seed=seed) for seed in range(4))
    return FusedCausalLM(large, experts, [base, large], strategy)  # the large one is a base too


def padded(prompts: list[str]) -> dict[str, torch.Tensor]:
    return TOKENIZER(prompts, padding=True, padding_side="left", return_tensors="pt")


def by_hand(model: FusedCausalLM, tokens: list[int], count: int) -> list[int]:
    """Greedy, without any cache."""
    for _ in range(count):
        with torch.no_grad():
            tokens = [*tokens, int(model(torch.tensor([tokens])).logits[0, -1].argmax())]
    return tokens


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_batches_padded_on_the_left_write_as_each_row_alone(strategy):
    model = fused_lm(strategy)
    prompts = ["a = 3 ; b = a + 4 ; b ?", "c ?", "a = 3 ; a ?"]
    asked = padded(prompts)
    written = model.generate(
        asked["input_ids"], attention_mask=asked["attention_mask"], max_new_tokens=6,
        do_sample=False, eos_token_id=None,
    )  # fmt: skip
    for row, prompt in zip(written, prompts, strict=True):
        alone = TOKENIZER(prompt)["input_ids"]
        assert row[-6:].tolist() == by_hand(model, alone, 6)[-6:]
    texts = generate_texts(model, TOKENIZER, prompts, max_tokens=6)
    assert texts == [
        generate_texts(model, TOKENIZER, [prompt], max_tokens=6)[0] for prompt in prompts
    ]


def test_the_processor_alone_is_the_same_and_can_be_used_again():
    model = fused_lm(KLMatchedFusion())
    large, base, *experts = (make(seed=seed) for seed in range(4))
    asked = padded(["a = 3 ; a ?", "c ?"])
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    processor = FusionLogitsProcessor(experts, [base, large], KLMatchedFusion(), pad_token_id=0)
    for _ in range(2):
        written = large.generate(**asked, logits_processor=[processor], **options)
        assert torch.equal(written, model.generate(**asked, **options))
    assert processor.weights.shape == (2, 2)


def test_the_temperature_divides_the_sum():
    model, tokens = fused_lm(StaticFusion((1.5, 0.5))), padded(["a = 3 ; a ?"])["input_ids"]
    found = model.generate(
        tokens, max_new_tokens=1, do_sample=True, temperature=2.0, top_k=0, output_scores=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    fused = model(tokens).logits[:, -1]
    torch.testing.assert_close(found.scores[0].softmax(-1), (fused / 2).softmax(-1))


def test_beam_search_follows_the_rows():
    model = fused_lm(KLMatchedFusion())
    asked = padded(["a = 3 ; a ?", "c ?"])
    options = {
        "max_new_tokens": 5, "num_beams": 3, "do_sample": False, "eos_token_id": None,
        "length_penalty": 0.0, "return_dict_in_generate": True, "output_scores": True,
    }  # fmt: skip
    found = model.generate(**asked, **options)
    for place, prompt in enumerate(["a = 3 ; a ?", "c ?"]):
        tokens = torch.tensor([[*TOKENIZER(prompt)["input_ids"], *found.sequences[place, -5:]]])
        labels = tokens.clone()
        labels[:, :-5] = -100
        total = float(model.score(tokens, labels).logprobs.sum())
        assert float(found.sequences_scores[place]) == pytest.approx(total, abs=1e-3)


def test_fused_with_itself_writes_as_the_large_model():
    large, base = make(seed=0), make(seed=1)
    same = FusedCausalLM(large, [base], [base], KLMatchedFusion())
    prompts = ["a = 3 ; b = a + 4 ; b ?", "c ?"]
    assert generate_texts(same, TOKENIZER, prompts, max_tokens=8) == generate_texts(
        large, TOKENIZER, prompts, max_tokens=8
    )


def test_a_reasoner_that_says_nothing_leaves_the_backbone_as_it_is():
    backbone, reasoner = make(seed=0), tiny_decoder("0.05M", 1, vocabulary=len(TOKENIZER))
    for parameter in reasoner.parameters():
        parameter.data.zero_()
    prompts = ["a = 3 ; b = a + 4 ; b ?", "c ?"]
    assert generate_texts(
        FusedCausalLM(backbone, [reasoner]), TOKENIZER, prompts, max_tokens=8
    ) == generate_texts(backbone, TOKENIZER, prompts, max_tokens=8)


def test_score_is_the_log_probability_of_what_is_written():
    model = fused_lm(KLMatchedFusion())
    tokens = torch.tensor([[1, 5, 9, 12, 14], [1, 6, 7, 0, 0]])
    labels = torch.tensor([[-100, -100, 9, 12, 14], [-100, 6, 7, -100, -100]])
    score = model.score(tokens, labels)
    logits = model(tokens).logits.log_softmax(-1)
    expected = [
        logits[0, 1, 9],
        logits[0, 2, 12],
        logits[0, 3, 14],
        logits[1, 0, 6],
        logits[1, 1, 7],
    ]
    assert sorted(score.logprobs.tolist()) == pytest.approx(
        sorted(each.item() for each in expected), abs=1e-4
    )
    assert score.loss == pytest.approx(float(model(tokens, labels=labels).loss), abs=1e-4)
    assert score.weights.shape == (5, 2)
    assert score.rows.tolist() == [0, 0, 0, 1, 1]
    assert 0 <= score.exact <= score.accuracy <= 1


def test_gradients_reach_the_trained_model_only():
    backbone, reasoner = (
        tiny_decoder("0.05M", s, vocabulary=60).requires_grad_(s == 1) for s in (0, 1)
    )
    model = FusedCausalLM(backbone, [reasoner])
    tokens = torch.tensor([[1, 5, 9, 12]])
    model(tokens, labels=tokens).loss.backward()
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert all(parameter.grad is not None for parameter in reasoner.parameters())
    twice = FusedCausalLM(backbone, [reasoner, reasoner], None, StaticFusion((0.5, 0.5)))
    torch.testing.assert_close(twice(tokens).logits, model(tokens).logits)
