"""Updates that must not break what worked: flips, the masked loss, training on real models."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from generality.measures import flip_report, nfr_floor, relative_nfr, score_flip_report
from generality.models import tiny_decoder
from generality.objectives import (
    UPDATE_LOSSES,
    CompatibleUpdate,
    OutputEnsemble,
    UpdateObjective,
    copy_adapter,
    focal_distillation,
    token_masked_kd,
)

Z = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
OLD, NEW = torch.tensor([[0.0, 2, 0], [2, 0, 0]]), torch.tensor([[2.0, 0, 0], [0, 0, 1]])
TRUE = torch.tensor([0, 0])


def test_flips_of_the_paper_by_hand() -> None:
    found = flip_report([0, 1, 1, 0, 0, 2], [0, 2, 2, 2, 0, 1], [0, 1, 2, 1, 0, 2])
    assert (found.old_accuracy, found.new_accuracy) == pytest.approx((4 / 6, 3 / 6))
    assert (found.negative, found.positive) == pytest.approx((2 / 6, 1 / 6))
    assert found.inconsistent == pytest.approx(0.5)
    assert found.quadrants == pytest.approx(
        {"both right": 2 / 6, "positive flip": 1 / 6, "negative flip": 2 / 6, "both wrong": 1 / 6}
    )
    assert found.relative == pytest.approx((2 / 6) / (4 / 6 * 3 / 6))
    assert found.floor == pytest.approx(nfr_floor(4 / 6, 3 / 6))
    said = [[f"It is {n}." for n in group]
            for group in ([0, 1, 1, 0, 0, 2], [0, 2, 2, 2, 0, 1], [0, 1, 2, 1, 0, 2])]  # fmt: skip
    assert flip_report(*said) == found, "answers may be texts"


def test_the_interval_is_the_bootstrap_over_examples() -> None:
    old, new, truth = np.zeros(200, int), np.r_[np.ones(20, int), np.zeros(180, int)], np.zeros(200)
    found = flip_report(old, new, truth)
    rng = np.random.default_rng(0)
    draws = (new[rng.integers(200, size=(4000, 200))] == 1).mean(1)
    assert found.interval == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.01)


def test_flips_of_scores_by_hand() -> None:
    found = score_flip_report(np.zeros(5), [0.2, -0.1, 0, 0.3, -0.4])
    assert (found.positive, found.negative) == (0.4, 0.4)
    assert (found.gain, found.regression) == pytest.approx((0.25, 0.25))
    lenient = score_flip_report(np.zeros(5), [0.2, -0.1, 0, 0.3, -0.4], tolerance=0.25)
    assert (lenient.positive, lenient.negative) == (0.2, 0.2)
    assert math.isnan(score_flip_report([1.0], [1.0]).gain)
    with pytest.raises(ValueError, match="same examples"):
        score_flip_report([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="not finite"):
        score_flip_report([1.0], [math.nan])


def test_independent_errors_have_a_relative_rate_of_one() -> None:
    rng = np.random.default_rng(0)
    old, new = (rng.random(100_000) > 0.3).astype(int), (rng.random(100_000) > 0.2).astype(int)
    assert flip_report(old, new, np.ones(100_000)).relative == pytest.approx(1, abs=0.03)
    assert math.isnan(relative_nfr(0.0, 0.5, 1.0))


def test_the_masked_loss_by_hand() -> None:
    assert token_masked_kd(Z, OLD, NEW, TRUE).item() == pytest.approx(0.1220, abs=5e-5)
    assert token_masked_kd(Z, OLD, NEW, TRUE, mask="all_old").item() == pytest.approx(
        0.2131, abs=5e-5
    )
    only_new = token_masked_kd(Z, OLD, NEW, TRUE, mask="all_new").item()
    assert only_new == pytest.approx((0.0310 + 0.0889) / 2, abs=1e-4)
    # the old model is right at the second label only, and finds it likelier there only
    for mask in ("old_right", "ll_token"):
        mixed = token_masked_kd(Z, OLD, NEW, TRUE, mask=mask).item()
        assert mixed == pytest.approx((0.0310 + 0.2131) / 2, abs=1e-4)
    # over the sequence: log-likelihoods of old and new
    gain = sum((OLD.log_softmax(-1) - NEW.log_softmax(-1))[:, 0].tolist())
    whole = token_masked_kd(Z, OLD, NEW, TRUE, mask="ll_sequence").item()
    assert whole == pytest.approx(0.2131 if gain > 0 else only_new, abs=1e-4)
    hard = nn.functional.cross_entropy(Z, TRUE).item()
    both = token_masked_kd(Z, OLD, NEW, TRUE, ce_weight=0.25).item()
    assert both == pytest.approx(0.75 * 0.12205 + 0.25 * hard, abs=1e-4)
    with pytest.raises(ValueError, match="one vocabulary"):
        token_masked_kd(Z, OLD[:, :2], NEW, TRUE)
    with pytest.raises(ValueError, match="mask is one of"):
        token_masked_kd(Z, OLD, NEW, TRUE, mask="none")  # type: ignore[arg-type]


def test_padding_counts_nowhere_and_teachers_get_no_gradient() -> None:
    padded = [torch.cat([each, torch.full((1, 3), 7.0)])[None] for each in (Z, OLD, NEW)]
    labels = torch.tensor([[0, 0, -100]])
    for each in padded:
        each.requires_grad_()
    for loss in UPDATE_LOSSES.values():
        assert loss(*padded, labels).item() == pytest.approx(
            loss(Z[None], OLD[None], NEW[None], TRUE[None]).item(), abs=1e-6
        )
    gradients = torch.autograd.grad(token_masked_kd(*padded, labels), padded, allow_unused=True)
    assert gradients[0] is not None
    assert gradients[0][0, 2].abs().sum() == 0
    assert gradients[1:] == (None, None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_a_finite_loss(dtype) -> None:
    sure = torch.tensor([[40.0, 0, 0], [0, 40, 0]], dtype=dtype)  # probabilities of 0 in half
    for loss in UPDATE_LOSSES.values():
        found = loss(Z.to(dtype), sure, sure.flip(-1), TRUE)
        expected = loss(Z, sure.float(), sure.flip(-1).float(), TRUE)
        assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_token_that_no_model_may_say_counts_nowhere() -> None:
    barred = torch.full((2, 1), -math.inf)
    start = torch.cat([Z, barred], 1).requires_grad_()
    teachers = [torch.cat([each, barred], 1) for each in (OLD, NEW)]
    loss = token_masked_kd(start, *teachers, TRUE)
    assert loss.item() == pytest.approx(0.1220, abs=5e-5)
    (gradient,) = torch.autograd.grad(loss, start)
    assert gradient[:, :3].isfinite().all()


@given(st.integers(0, 500))
def test_it_starts_at_the_new_model_and_stays_where_both_agree(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    old, new = torch.randn(2, 6, 4, generator=generator)
    labels = torch.randint(4, (6,), generator=generator)
    start = new.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(token_masked_kd(start, old, new, labels), start)
    right = new.argmax(-1) == labels
    assert gradient[right].abs().max().item() < 1e-6 if right.any() else True
    assert token_masked_kd(new, new, new, labels).item() == pytest.approx(0, abs=1e-6)


def test_the_average_of_both_pulls_as_their_mean_does() -> None:
    start = Z.clone().requires_grad_()
    halves = token_masked_kd(start, OLD, NEW, TRUE, mask="average", temperature=1.0)
    mean = (OLD.softmax(-1) + NEW.softmax(-1)) / 2
    whole = nn.functional.kl_div(start.log_softmax(-1), mean, reduction="batchmean")
    for one, other in zip(
        torch.autograd.grad(halves, start), torch.autograd.grad(whole, start), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_focal_distillation_by_hand() -> None:
    kl = (OLD.softmax(-1) * (OLD.log_softmax(-1) - Z.log_softmax(-1))).sum(-1)
    expected = nn.functional.cross_entropy(Z, TRUE) + (1 * kl[0] + 6 * kl[1]) / 2
    assert focal_distillation(Z, OLD, None, TRUE).item() == pytest.approx(expected.item(), abs=1e-5)


def decoder(seed: int) -> nn.Module:
    return tiny_decoder("0.05M", seed, vocabulary=30)


def test_a_language_model_is_updated_and_its_labels_are_shifted() -> None:
    old, new = decoder(0), decoder(1)
    update = CompatibleUpdate(copy.deepcopy(new), old, new)
    ids = torch.randint(3, 30, (2, 7), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[0, 5:] = -100
    output = update(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
    with torch.no_grad():
        logits = [model(input_ids=ids).logits[:, :-1] for model in (new, old, new)]
    expected = token_masked_kd(*logits, labels[:, 1:])
    assert output.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    output.loss.backward()
    assert all(parameter.grad is None for parameter in old.parameters())
    assert update.state_dict().keys() == {f"model.{name}" for name in new.state_dict()}
    plain = CompatibleUpdate(copy.deepcopy(new), old, new, loss=UPDATE_LOSSES["continued"])
    own = new(input_ids=ids, labels=labels).loss
    assert plain(input_ids=ids, labels=labels).loss.item() == pytest.approx(own.item(), abs=1e-4)


def test_other_vocabularies_are_refused() -> None:
    update = CompatibleUpdate(nn.Linear(3, 4), nn.Linear(3, 5), nn.Linear(3, 4))
    with pytest.raises(ValueError, match="one tokenizer and vocabulary"):
        update(input=torch.zeros(2, 3), labels=torch.tensor([0, 1]))


def test_a_model_is_not_its_own_teacher() -> None:
    model = nn.Linear(3, 4)
    with pytest.raises(ValueError, match="give a copy"):
        CompatibleUpdate(model, nn.Linear(3, 4), model)
    assert model.weight.requires_grad


def test_adapters_of_one_body_are_teachers_and_student() -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    model = get_peft_model(decoder(0), config, adapter_name="a1")
    model.add_adapter("a2", config)
    copy_adapter(model, "a2", "compatible")
    weights = dict(model.named_parameters())
    names = [name for name in weights if ".compatible." in name]
    assert names
    for name in names:
        assert weights[name].equal(weights[name.replace(".compatible.", ".a2.")])
    update = CompatibleUpdate(
        model, "a1", "a2", loss=functools.partial(token_masked_kd, mask="all_old")
    )
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    optimizer = torch.optim.SGD([weights[name] for name in trained], lr=5.0)
    ids = torch.randint(3, 30, (4, 8), generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(8):
        loss = update(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    moved = {name for name in weights if not weights[name].equal(before[name])}
    assert moved
    assert all(".compatible." in name for name in moved)
    with pytest.raises(ValueError, match="must be one of them"):
        copy_adapter(model, "a9", "b")


def test_an_ensemble_answers_with_the_mean_probability() -> None:
    one, two = nn.Linear(4, 3), nn.Linear(4, 3)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    mean = (one(x).softmax(-1) + two(x).softmax(-1)) / 2
    torch.testing.assert_close(OutputEnsemble(one, two)(input=x).logits.softmax(-1), mean)


def test_known_answers_teach_many_replicas_at_once(tmp_path) -> None:
    from generality.lab import Lab
    from generality.lab.replicate import zero_head

    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 60)
    x = (generator.normal(size=(60, 5)) + np.eye(3, 5)[truth]).astype(np.float32)
    labels = np.eye(3, dtype=np.float32)[truth]
    old = np.full_like(labels, 0.05) + 0.85 * np.eye(3, dtype=np.float32)[(truth + 1) % 3]
    targets = np.concatenate([labels, old, labels], -1)
    lab = Lab(home=tmp_path, device="cpu", progress=False)

    def right(loss: str, warm: float) -> float:
        trained = lab.replicate(
            zero_head(5, 3), x, targets, loss=UpdateObjective(loss, warm=warm), seeds=[0, 1],
            epochs=20, learning_rate=0.05,
        )  # fmt: skip
        return float((trained.predict_proba(x).argmax(-1).numpy() == truth).mean())

    assert right("continued", 0.0) > 0.6
    assert right("distill-old", 0.0) < 0.2  # it follows an old model that is always wrong
    assert right("distill-old", 0.95) > 0.6
    with pytest.raises(ValueError, match="loss is one of"):
        UpdateObjective("plain")
