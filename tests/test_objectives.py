import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.objectives import ConfidenceLoss, ProductLoss, soft_cross_entropy
from generality.objectives.confidence import balanced_prediction

LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0], [-1.0, 1.0]])
WEAK = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])


@pytest.mark.parametrize(
    ("alpha", "expected"), [(0.0, 0.660299), (0.5, 0.460299), (0.75, 0.360299)]
)
def test_confidence_matches_the_published_numbers(alpha: float, expected: float) -> None:
    loss = ConfidenceLoss(alpha_max=alpha)(LOGITS, WEAK, progress=1.0)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_product_matches_the_published_number() -> None:
    assert ProductLoss()(LOGITS, WEAK).item() == pytest.approx(0.432870, abs=1e-6)
    assert ProductLoss(beta=0)(LOGITS, WEAK).item() == pytest.approx(
        soft_cross_entropy(LOGITS, WEAK).item(), abs=1e-6
    )


def test_self_prediction_keeps_the_balance_of_the_weak_labels() -> None:
    guess = balanced_prediction(LOGITS, WEAK.mean(0))
    assert guess[:, 0].tolist() == [1.0, 0.0, 1.0, 0.0]


def test_no_gradient_flows_through_the_self_prediction_or_the_product() -> None:
    logits = LOGITS.clone().requires_grad_()
    guess = balanced_prediction(LOGITS, WEAK.mean(0))
    ConfidenceLoss(0.75)(logits, WEAK, 1.0).backward()
    expected = (LOGITS.softmax(-1) - (0.25 * WEAK + 0.75 * guess)) / len(LOGITS)
    torch.testing.assert_close(logits.grad, expected)

    logits.grad = None
    ProductLoss()(logits, WEAK).backward()
    target = LOGITS.softmax(-1) * WEAK
    target /= target.sum(-1, keepdim=True)
    torch.testing.assert_close(logits.grad, (LOGITS.softmax(-1) - target) / len(LOGITS))


def test_the_weight_ramps_linearly_and_the_released_ramp_jumps() -> None:
    loss = ConfidenceLoss(alpha_max=0.5, warmup=0.2)
    assert [loss.alpha(t) for t in (0.0, 0.1, 0.2, 1.0)] == pytest.approx([0, 0.25, 0.5, 0.5])
    released = ConfidenceLoss(alpha_max=0.5, warmup=0.1, released_behaviour=True)
    assert [released.alpha(t) for t in (0.0, 0.1, 0.11)] == pytest.approx([0, 0.05, 0.5])


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6), st.integers(8, 64), st.integers(0, 10_000))
def test_losses_do_not_depend_on_the_order_of_examples(k: int, n: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, generator=g)
    weak = torch.randn(n, k, generator=g).softmax(-1)
    order = torch.randperm(n, generator=g)
    for loss in (ConfidenceLoss(0.75), ProductLoss(), soft_cross_entropy):
        torch.testing.assert_close(
            loss(logits, weak, 1.0), loss(logits[order], weak[order], 1.0), atol=1e-5, rtol=1e-5
        )


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 6), st.integers(0, 10_000))
def test_many_classes_come_close_to_their_quotas(k: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(200, k, generator=g) + 2 * torch.randn(k, generator=g)
    shares = (0.5 * torch.randn(k, generator=g)).softmax(-1)
    counts = balanced_prediction(logits, shares).mean(0)
    assert (counts - shares).abs().max() < 0.1
    assert (counts - shares).abs().max() <= (
        balanced_prediction(logits, None).mean(0) - shares
    ).abs().max() + 1e-6


def test_balancing_by_biases_equals_the_threshold_at_two_classes() -> None:
    from generality.objectives.confidence import _balance

    logits = torch.randn(33, 2, generator=torch.Generator().manual_seed(0))
    shares = torch.tensor([0.3, 0.7])
    torch.testing.assert_close(
        _balance(logits, shares).argmax(-1), balanced_prediction(logits, shares).argmax(-1)
    )


@pytest.mark.parametrize("classes", [2, 5])
def test_losses_work_under_vmap(classes: int) -> None:
    logits = torch.randn(3, 16, classes)
    weak = torch.randn(3, 16, classes).softmax(-1)
    for loss in (ConfidenceLoss(0.75), ProductLoss(), soft_cross_entropy):
        together = torch.func.vmap(lambda z, w, loss=loss: loss(z, w, 0.5))(logits, weak)
        alone = torch.stack([loss(z, w, 0.5) for z, w in zip(logits, weak, strict=True)])
        torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("classes", [2, 3])
def test_logits_may_have_another_precision_than_the_labels(classes: int, dtype) -> None:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(16, classes, generator=g).to(dtype)
    weak = torch.randn(16, classes, generator=g).softmax(-1)
    for loss in (ConfidenceLoss(0.75), ProductLoss()):
        mixed = loss(logits, weak, 1.0).float()
        torch.testing.assert_close(mixed, loss(logits.float(), weak, 1.0), atol=0.02, rtol=0.02)
        one = loss(logits[:1], weak[:1], 1.0)
        assert one.isfinite()


def test_class_numbers_and_empty_batches_are_refused() -> None:
    for loss in (ConfidenceLoss(0.5), soft_cross_entropy):
        with pytest.raises(ValueError, match=r"not .*\(4,\)"):
            loss(LOGITS, torch.tensor([0, 1, 1, 1]), 1.0)
    with pytest.raises(ValueError, match="one shape"):
        ConfidenceLoss(0.5)(LOGITS[:0], WEAK[:0], 1.0)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="alpha_max"):
        ConfidenceLoss(alpha_max=1.5)
    with pytest.raises(ValueError, match="balance"):
        ConfidenceLoss(balance="most")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="two classes"):
        ConfidenceLoss(balance=0.3)(torch.zeros(4, 3), torch.full((4, 3), 1 / 3), 0.5)
    with pytest.raises(ValueError, match="alpha > 0"):
        ProductLoss(alpha=0)
