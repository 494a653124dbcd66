"""New styles by perturbing the channel statistics of feature maps, and a way to put it anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from generality.objectives.reverse_grad import ReverseGrad

StyleMode = Literal["advstyle", "dsu", "mixstyle", "efdmix", "advstyle_direction"]
_EPS = 1e-6


class FeatureStatPerturb(nn.Module):
    """Changes the mean and spread of every channel of a feature map at random, while training.

    With μ, σ the mean and standard deviation (unbiased, 1e-6 added to the variance) of a sample's
    channel over places, and e standard normal, one for each sample and channel, the output is

        (x − μ) / σ · (σ + e_σ S_σ) + μ + e_μ S_μ

    - "advstyle": S is learnt, one number per channel, by gradient *ascent* on the task's loss: its
      gradient is multiplied by −adv_weight, so that one backward pass and one optimiser do both.
      It starts at the spread of μ and σ over the first perturbed batch, which `start` keeps.
    - "dsu": S is the spread of μ and σ over the batch (Li et al. 2022): nothing is learnt.
    - "advstyle_direction": the learnt S gives the direction only; its length is that of the
      batch's spread, times `mix_weight` (the paper's variant for re-identification).
    - "mixstyle": μ and σ are mixed with another sample's, Beta(mix_alpha) (Zhou et al. 2021).
    - "efdmix": all order statistics are mixed (Zhang et al. 2022).

    What happens is drawn once for each call, for the whole batch. In eval mode nothing does. A
    batch of one sample has no spread and passes unchanged, but under a learnt S.

    Source: Zhang et al. 2023, "Adversarial Style Augmentation for Domain Generalization"
    (arXiv 2301.12643), and its released code.

    Args:
        num_channels: C of maps (batch, C, height, width), or of tokens (batch, tokens, C), whose
            statistics are over tokens.
        mode: see above.
        adv_weight: λ of the ascent, 1 to 10 in the paper. Use it with SGD: Adam divides it out.
        probs: chances of leaving the batch as it is, of `mode`, and of "dsu". By default thirds for
            "advstyle" and (1/2, 1/2, 0) otherwise, as in the papers.
        mix_alpha: both parameters of the Beta distribution of "mixstyle" and "efdmix".
        mix_weight: of "advstyle_direction".

    Raises:
        ValueError: an unknown mode; chances that are no distribution; maps of other channels or of
            one place, which have no spread.

    >>> perturb = FeatureStatPerturb(8, adv_weight=5.0)
    >>> maps = torch.randn(4, 8, 7, 7, generator=torch.Generator().manual_seed(0))
    >>> perturb(maps).shape, torch.equal(perturb.eval()(maps), maps)
    (torch.Size([4, 8, 7, 7]), True)
    """

    start: Tensor

    def __init__(
        self,
        num_channels: int,
        mode: StyleMode = "advstyle",
        *,
        adv_weight: float = 5.0,
        probs: tuple[float, float, float] | None = None,
        mix_alpha: float = 0.1,
        mix_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if mode not in get_args(StyleMode):
            raise ValueError(f"mode is one of {', '.join(get_args(StyleMode))}, not '{mode}'")
        if probs is None:
            probs = (1 / 3, 1 / 3, 1 / 3) if mode == "advstyle" else (0.5, 0.5, 0.0)
        if min(probs) < 0 or abs(sum(probs) - 1) > 1e-6:
            raise ValueError(f"probs are three chances that sum to 1, not {probs}")
        self.num_channels, self.mode, self.probs = num_channels, mode, probs
        self.mix_alpha, self.mix_weight = mix_alpha, mix_weight
        self.ascent = ReverseGrad(adv_weight)
        if mode in ("advstyle", "advstyle_direction"):
            self.style_mean = nn.Parameter(torch.full((num_channels,), 0.1))
            self.style_std = nn.Parameter(torch.full((num_channels,), 0.1))
            self.register_buffer("start", torch.zeros(2, num_channels))

    def extra_repr(self) -> str:
        """What tells this module from others of its shape."""
        chances = ", ".join(f"{chance:.3g}" for chance in self.probs)
        return f"{self.num_channels}, mode={self.mode}, probs=({chances})"

    @property
    def growth(self) -> float:
        """How many times as strong as at its start the learnt style is; NaN before the start."""
        with torch.no_grad():
            now = torch.stack([self.style_mean, self.style_std]).norm()
            return float(now / self.start.norm()) if bool(self.start.any()) else float("nan")

    def forward(self, maps: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """The maps in another style; themselves in eval mode."""
        if not self.training:
            return maps
        tokens = maps.ndim == 3
        if maps.ndim not in (3, 4) or maps.shape[-1 if tokens else 1] != self.num_channels:
            raise ValueError(
                f"maps of shape {tuple(maps.shape)} are neither (batch, {self.num_channels}, "
                f"height, width) nor (batch, tokens, {self.num_channels})"
            )
        leave, perturb, _ = self.probs
        drawn = torch.rand(()).item()
        if drawn < leave:
            return maps
        mode = self.mode if drawn < leave + perturb else "dsu"
        places = (maps.transpose(1, 2) if tokens else maps).flatten(2)
        if places.shape[2] < 2:
            raise ValueError("statistics of a map with a single place have no spread")
        changed = self.restyle(places, mode).to(maps.dtype)  # styles may be kept more precisely
        return changed.transpose(1, 2) if tokens else changed.view_as(maps)

    def restyle(
        self, maps: Float[Tensor, "batch channels places"], mode: StyleMode
    ) -> Float[Tensor, "batch channels places"]:
        """One perturbation, whatever `probs` and the module's mode are."""
        if len(maps) < 2 and mode != "advstyle":
            return maps
        if mode == "efdmix":
            return self.mix_ranks(maps)
        mean = maps.mean(-1, keepdim=True)
        std = _std(maps, -1)
        if mode == "mixstyle":
            return self.mix_statistics(maps, mean.detach(), std.detach())
        if mode == "dsu":
            by_mean, by_std = _std(mean, 0), _std(std, 0)
        else:
            by_mean, by_std = self.learnt(mean, std, mode)
        new_std = std + torch.randn_like(std) * by_std
        new_mean = mean + torch.randn_like(mean) * by_mean
        return (maps - mean) / std * new_std + new_mean

    def learnt(
        self,
        mean: Float[Tensor, "batch channels 1"],
        std: Float[Tensor, "batch channels 1"],
        mode: StyleMode,
    ) -> tuple[Float[Tensor, "1 channels 1"], Float[Tensor, "1 channels 1"]]:
        """S_μ and S_σ, whose gradients are reversed."""
        if len(mean) > 1 and not bool(self.start.any()):
            with torch.no_grad():  # in place: the optimiser has these very parameters
                self.start.copy_(torch.stack([_std(mean, 0).flatten(), _std(std, 0).flatten()]))
                self.style_mean.copy_(self.start[0])
                self.style_std.copy_(self.start[1])
        by_mean, by_std = (
            self.ascent(style)[None, :, None] for style in (self.style_mean, self.style_std)
        )
        if mode == "advstyle":
            return by_mean, by_std
        return (
            by_mean / by_mean.norm() * _std(mean, 0).norm() * self.mix_weight,
            by_std / by_std.norm() * _std(std, 0).norm() * self.mix_weight,
        )

    def mix_statistics(
        self,
        maps: Float[Tensor, "batch channels places"],
        mean: Float[Tensor, "batch channels 1"],
        std: Float[Tensor, "batch channels 1"],
    ) -> Float[Tensor, "batch channels places"]:
        """MixStyle: every sample's statistics mixed with another's."""
        other, share = torch.randperm(len(maps)), self.shares(maps)
        new_mean = share * mean + (1 - share) * mean[other]
        new_std = share * std + (1 - share) * std[other]
        return (maps - mean) / std * new_std + new_mean

    def mix_ranks(
        self, maps: Float[Tensor, "batch channels places"]
    ) -> Float[Tensor, "batch channels places"]:
        """EFDMix: the k-th smallest value mixed with the k-th smallest of another sample."""
        values, order = maps.sort(-1)
        ranks = order.argsort(-1)
        matched = values[torch.randperm(len(maps))].gather(-1, ranks)
        return maps + (matched - maps.detach()) * (1 - self.shares(maps))

    def shares(self, maps: Tensor) -> Float[Tensor, "batch 1 1"]:
        """What each sample keeps of its own style."""
        alpha = torch.tensor(self.mix_alpha)
        return torch.distributions.Beta(alpha, alpha).sample((len(maps), 1, 1)).to(maps)


def insert_after(
    model: nn.Module,
    names: Sequence[str],
    factory: Callable[[int], nn.Module],
    example: Any,
) -> dict[str, nn.Module]:
    """Apply new modules to the outputs of some of a model's layers; the model is changed in place.

    The modules become children of the model (`model.inserted`), so that they move, train and are
    saved with it; layers keep their names, so that pretrained weights load before or after. Of a
    layer that gives a tuple the first entry is changed, as transformers' layers need it.

    Args:
        names: of layers, as `model.named_modules()` has them: "conv1", "layer1", "encoder.layer.3".
        factory: called with the number of channels of a layer's output.
        example: inputs of the model, passed once (as `**example` if a dict) to see these channels.

    Returns:
        The new module of each layer.

    Raises:
        ValueError: a layer that is not there or was not reached; a model that is an
            `nn.Sequential`, which would run a new child: put the module into it where it belongs.

    >>> from generality.models import TinyConvNet
    >>> net = TinyConvNet(3, width=8)
    >>> image = torch.zeros(1, 3, 28, 28)
    >>> styles = insert_after(net, ["block1", "block2"], FeatureStatPerturb, image)
    >>> {name: style.num_channels for name, style in styles.items()}
    {'block1': 8, 'block2': 16}
    """
    layers = dict(model.named_modules())
    missing = [name for name in names if name not in layers]
    if missing:
        raise ValueError(f"the model has no layer {', '.join(missing)}")
    if isinstance(model, nn.Sequential):
        raise ValueError("put the module into the nn.Sequential itself, where it belongs")
    channels: dict[str, int] = {}
    hooks = [layers[name].register_forward_hook(_Channels(channels, name)) for name in names]
    was_training = model.training
    with torch.no_grad():
        model.eval()(**example) if isinstance(example, dict) else model.eval()(example)
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    if len(channels) < len(set(names)):
        raise ValueError("the example never reached " + ", ".join(set(names) - set(channels)))
    inserted = {name: factory(channels[name]) for name in dict.fromkeys(names)}
    known = getattr(model, "inserted", None)
    children = known if isinstance(known, nn.ModuleDict) else nn.ModuleDict()
    children.update({name.replace(".", "_"): module for name, module in inserted.items()})
    model.inserted = children.train(was_training)
    for name, module in inserted.items():
        layers[name].register_forward_hook(_Apply(module))
    return inserted


def style_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The learnt styles of every `FeatureStatPerturb` in a model, by their names there.

    For a group of an optimiser without weight decay, which would work against the ascent.
    """
    return {
        f"{name}.{own}" if name else own: parameter
        for name, module in model.named_modules()
        if isinstance(module, FeatureStatPerturb)
        for own, parameter in module.named_parameters(recurse=False)
    }


class _Channels:
    """A hook that notes how many channels a layer's output has."""

    def __init__(self, found: dict[str, int], name: str) -> None:
        self.found, self.name = found, name

    def __call__(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        maps = output[0] if isinstance(output, tuple) else output
        self.found[self.name] = maps.shape[-1 if maps.ndim == 3 else 1]


class _Apply:
    """A hook that applies a module; an object, so that a copy of the model has a copy of it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, layer: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (self.module(output[0]), *output[1:])
        return self.module(output)


def _std(values: Tensor, dim: int) -> Tensor:
    return (values.var(dim, keepdim=True) + _EPS).sqrt()
