"""Edge maps beside images: thin lines as a second view, and a classifier that reads both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.errors import import_extra

THRESHOLDS = ("otsu", "yen", "mean", "isodata", "li")
_CANNY = 4 * 2**0.5  # how much larger the slopes inside skimage's Canny are than its Sobel filter's


class EdgeView(nn.Module):
    """The edges of an image: Canny's thin lines, between thresholds that fit the image.

    Grey, blurred by a Gaussian, Sobel's magnitude, on which a threshold t is found by Otsu's or
    another method; Canny's hysteresis then runs from (0.5 − p) t to (1.5 + p) t, never below 0.1 t
    or above 2 t. An image whose threshold cannot be found, or in which these thresholds leave no
    edge, gets Canny's own. In train mode the blur is one of `sigmas`, the method one of
    `THRESHOLDS` (or the one named) and p from N(0, 0.2); in eval mode they are 1, Otsu and 0.

    Runs on the CPU, an image at a time (about 1 ms at 28 pixels), without gradients: draw views
    once, or in a loader's workers. Needs the extra "vision".

    Args:
        sigmas: of the Gaussian in train mode, in pixels, one at random for each image.
        threshold: "random", or one of `THRESHOLDS`.
        invert: black lines on white; otherwise white on black.

    Source: Efthymiadis et al. 2024 (arXiv 2409.19774), section 4. The released code adds noise
    N(0, 10) to thresholds in [0, 1] and then rejects them, and draws its sigma once for a worker;
    here the noise is p above and sigma is drawn for every image.

    >>> square = torch.zeros(1, 3, 28, 28)
    >>> square[..., 8:20, 8:20] = 1
    >>> lines = EdgeView(invert=False).eval()(square)
    >>> lines.shape, int(lines[0, 0].sum())
    (torch.Size([1, 3, 28, 28]), 52)
    """

    def __init__(
        self,
        sigmas: Sequence[float] = (0, 1, 2),
        threshold: Literal["random", "otsu", "yen", "mean", "isodata", "li"] = "random",
        invert: bool = True,
    ) -> None:
        super().__init__()
        if threshold not in ("random", *THRESHOLDS):
            raise ValueError(f"threshold is 'random' or one of {THRESHOLDS}, not '{threshold}'")
        self.sigmas, self.threshold, self.invert = tuple(sigmas), threshold, invert

    @torch.no_grad()
    def forward(
        self,
        images: Float[Tensor, "batch channels height width"],
        generator: np.random.Generator | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """Edge maps, 0 or 1, of images in [0, 1]; the generator is for train mode.

        Without one, numpy's is seeded by torch's, so that `torch.manual_seed` settles both.
        """
        if generator is None and self.training:
            generator = np.random.default_rng(int(torch.randint(2**31, ()).item()))
        given = images.cpu().float().numpy()
        maps = np.empty((len(given), *given.shape[2:]), np.float32)
        for place, image in enumerate(given):
            maps[place] = self._lines(image, generator)
        lines = torch.from_numpy(maps).to(images)[:, None].expand_as(images)
        return 1 - lines if self.invert else lines.clone()

    def _lines(
        self, image: np.ndarray, rng: np.random.Generator | None
    ) -> Float[np.ndarray, "height width"]:
        filters, feature = (
            import_extra(f"skimage.{name}", "vision") for name in ("filters", "feature")
        )
        weights = [0.2125, 0.7154, 0.0721] if len(image) == 3 else [1 / len(image)] * len(image)
        grey = np.tensordot(np.array(weights, np.float32), image, 1)
        sigma, method, noise = 1.0, "otsu", 0.0
        if self.training and rng is not None:
            sigma = float(rng.choice(self.sigmas))
            method = str(rng.choice(THRESHOLDS)) if self.threshold == "random" else self.threshold
            noise = float(rng.normal(0, 0.2))
        slope = filters.sobel(filters.gaussian(grey, sigma) if sigma else grey)
        t = _threshold(filters, method, slope)
        if not np.isfinite(t) or t <= 0:
            return feature.canny(grey, sigma=sigma).astype(np.float32)
        low, high = max(0.5 - noise, 0.1) * t, min(1.5 + noise, 2.0) * t
        low, high = _CANNY * min(low, high), _CANNY * max(low, high)
        found = feature.canny(grey, sigma=sigma, low_threshold=low, high_threshold=high)
        if not found.any():
            found = feature.canny(grey, sigma=sigma)
        return found.astype(np.float32)


def _threshold(filters: Any, method: str, slope: np.ndarray) -> float:
    """NaN where the method finds none, as on a blank image."""
    if np.ptp(slope) < 1e-6:
        return float("nan")
    try:
        return float(getattr(filters, f"threshold_{method}")(slope))
    except (ValueError, RuntimeError, IndexError):
        return float("nan")


class DualViewClassifier(nn.Module):
    """One classifier for an image and its edge map, and the mixtures of what it says of both.

    Both views go through in one batch, so batch norms see both; the head is shared.

    Args:
        classifier: from (batch, channels, height, width) to logits (batch, classes).
        lam: weight of the edge map's loss, in [0, 1].
        mix: exponents of the image's probabilities in the mixtures.

    Source: Efthymiadis et al. 2024 (arXiv 2409.19774), section 4.

    >>> from generality.models import Featurized, TinyConvNet
    >>> body = TinyConvNet(3, width=4)
    >>> model = DualViewClassifier(Featurized(body, nn.Linear(body.features, 10)))
    >>> views = torch.rand(5, 2, 3, 28, 28)
    >>> logits = model(views)
    >>> logits.shape, sorted(model.outputs(logits.softmax(-1)))
    (torch.Size([5, 2, 10]), ['edges', 'image', 'mix-0.25', 'mix-0.5', 'mix-0.75'])
    """

    def __init__(
        self, classifier: nn.Module, lam: float = 1.0, mix: Sequence[float] = (0.25, 0.5, 0.75)
    ) -> None:
        super().__init__()
        if not 0 <= lam <= 1 or not all(0 < a < 1 for a in mix):
            raise ValueError("lam lies in [0, 1] and every exponent of mix between 0 and 1")
        self.classifier, self.lam, self.mix = classifier, lam, tuple(mix)

    def forward(
        self, views: Float[Tensor, "batch 2 channels height width"]
    ) -> Float[Tensor, "batch 2 classes"]:
        """Logits of the image, at [:, 0], and of its edge map, at [:, 1]."""
        logits: Tensor = self.classifier(views.flatten(0, 1))
        return logits.unflatten(0, (-1, 2))

    def objective(
        self,
        logits: Float[Tensor, "batch 2 classes"],
        targets: Float[Tensor, "batch classes"],
        progress: float = 0.0,
    ) -> Float[Tensor, ""]:
        """See `dual_view_loss`."""
        return dual_view_loss(logits, targets, progress, lam=self.lam)

    def outputs(
        self, probabilities: Float[Any, "n 2 classes"]
    ) -> dict[str, Float[Any, "n classes"]]:
        """What it may answer with: "image", "edges" and the mixtures; torch or numpy."""
        return view_outputs(probabilities, self.mix)


def dual_view_loss(
    logits: Float[Tensor, "batch 2 classes"],
    targets: Float[Tensor, "batch classes"],
    progress: float = 0.0,
    *,
    lam: float = 1.0,
) -> Float[Tensor, ""]:
    """(Σ cross-entropy of the images + λ Σ cross-entropy of their edge maps) / 2·batch.

    With λ = 0 it is half the plain mean, as in the paper: the denominator stays. `progress` is
    ignored.

    >>> targets = torch.tensor([[1.0, 0.0]])
    >>> round(dual_view_loss(torch.zeros(1, 2, 2), targets, lam=0.0).item(), 4)
    0.3466
    """
    each = -(targets[:, None] * logits.log_softmax(-1)).sum(-1)
    return (each[:, 0].sum() + lam * each[:, 1].sum()) / (2 * len(logits))


def view_outputs(
    probabilities: Float[Any, "n 2 classes"], mix: Sequence[float] = (0.25, 0.5, 0.75)
) -> dict[str, Float[Any, "n classes"]]:
    """Each view's probabilities and their geometric mixtures p_image^a · p_edges^(1−a).

    Mixtures are not normalised: the largest is the answer. "mix-0.25" leans on the edge map.
    """
    image, edges = probabilities[:, 0], probabilities[:, 1]
    mixtures = {f"mix-{a:g}": image**a * edges ** (1 - a) for a in mix}
    return {"image": image, "edges": edges, **mixtures}
