"""Edge maps and the classifier of two views: numbers by hand, wiring, what is random when."""

import numpy as np
import pytest
import torch
from torch import nn

from generality.models import Featurized, TinyConvNet
from generality.modules import DualViewClassifier, EdgeView, dual_view_loss, view_outputs


def discs(n: int = 3) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    radius = torch.arange(5.0, 5 + n)[:, None, None]
    return ((x - 14) ** 2 + (y - 14) ** 2 < radius**2).float()[:, None].repeat(1, 3, 1, 1)


def test_the_mixtures_of_the_sheet() -> None:
    views = np.array([[[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]]])
    found = view_outputs(views)
    np.testing.assert_allclose(found["mix-0.25"], [[0.2632, 0.5664, 0.1]], atol=1e-4)
    np.testing.assert_allclose(found["mix-0.5"], [[0.3464, 0.4583, 0.1]], atol=1e-4)
    np.testing.assert_allclose(found["mix-0.75"], [[0.4559, 0.3708, 0.1]], atol=1e-4)
    assert [int(found[f"mix-{a}"].argmax()) for a in (0.25, 0.5, 0.75)] == [1, 1, 0]


def test_without_the_edge_maps_the_loss_is_half_the_mean() -> None:
    logits, targets = torch.randn(6, 2, 4), torch.eye(4)[[0, 1, 2, 3, 0, 1]]
    plain = nn.functional.cross_entropy(logits[:, 0], targets)
    edges = nn.functional.cross_entropy(logits[:, 1], targets)
    torch.testing.assert_close(dual_view_loss(logits, targets, lam=0.0), plain / 2)
    torch.testing.assert_close(dual_view_loss(logits, targets), (plain + edges) / 2)


def test_batch_norms_see_both_views_and_the_head_is_shared() -> None:
    body = TinyConvNet(3, width=4)
    model = DualViewClassifier(Featurized(body, nn.Linear(body.features, 5)), lam=0.5).train()
    views = torch.rand(8, 2, 3, 28, 28)
    logits = model(views)
    both = model.classifier(views.flatten(0, 1))
    torch.testing.assert_close(logits.flatten(0, 1), both)
    model.objective(logits, torch.eye(5)[[0, 1, 2, 3, 4, 0, 1, 2]]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_edges_lie_where_the_brightness_changes() -> None:
    lines = EdgeView(invert=False).eval()(discs())
    for radius, found in zip((5, 6, 7), lines[:, 0], strict=True):
        rows, columns = torch.nonzero(found, as_tuple=True)
        distance = ((rows - 14.0) ** 2 + (columns - 14.0) ** 2).sqrt()
        assert len(rows) >= 4 * radius
        assert (distance - radius).abs().max() < 2
    torch.testing.assert_close(EdgeView().eval()(discs()), 1 - lines)


def test_fixed_when_tested_random_when_trained() -> None:
    images = torch.rand(4, 3, 28, 28)
    view = EdgeView()
    torch.testing.assert_close(view.eval()(images), view.eval()(images))
    view.train()
    one, two = (view(images, np.random.default_rng(seed)) for seed in (0, 1))
    assert not torch.equal(one, two)
    torch.testing.assert_close(view(images, np.random.default_rng(0)), one)
    torch.manual_seed(0)
    first = view(images)
    torch.manual_seed(0)
    torch.testing.assert_close(view(images), first)


def test_where_the_thresholds_leave_nothing_cannys_own_are_taken() -> None:
    """Of an even slope no pixel is steep beside the others: 1.5 times their mean is above all."""
    canny = pytest.importorskip("skimage.feature").canny
    ramp = np.tile(np.linspace(0, 1, 28, dtype=np.float32), (28, 1))
    view = EdgeView(sigmas=(0,), threshold="mean", invert=False).train()
    image = torch.from_numpy(ramp)[None, None]
    for seed in range(3):
        found = view(image, np.random.default_rng(seed))[0, 0].numpy()
        np.testing.assert_array_equal(found, canny(ramp, sigma=0))
    assert found.any()
    assert EdgeView().eval()(torch.zeros(0, 3, 28, 28)).shape == (0, 3, 28, 28)


def test_blank_and_broken_images() -> None:
    for blank in (torch.zeros(1, 3, 28, 28), torch.ones(1, 1, 28, 28)):
        for mode in (True, False):
            assert EdgeView(invert=False).train(mode)(blank).sum() == 0
    with pytest.raises(ValueError, match="'random' or one of"):
        EdgeView(threshold="median")
    with pytest.raises(ValueError, match="lam lies in"):
        DualViewClassifier(nn.Identity(), lam=2)
