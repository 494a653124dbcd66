"""Perturbed channel statistics: the papers' numbers, the sign of the ascent, and insertion."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from generality.models import TinyConvNet
from generality.modules import FeatureStatPerturb, insert_after, style_parameters

ALWAYS = (0.0, 1.0, 0.0)
LEARNT = ("advstyle", "advstyle_direction")
MODES = (*LEARNT, "dsu", "mixstyle", "efdmix")


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_noise(monkeypatch, value: float) -> None:
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.full_like(x, value))


def started(perturb: FeatureStatPerturb, by_mean: float, by_std: float) -> FeatureStatPerturb:
    with torch.no_grad():
        perturb.style_mean.fill_(by_mean)
        perturb.style_std.fill_(by_std)
        perturb.start.fill_(0.1)
    return perturb.train()


def test_the_papers_example_by_hand(monkeypatch) -> None:
    """(1, 3): mean 2, unbiased variance 2; a mean of 2.5 and a spread of 2 give 1.0858, 3.9142."""
    with_noise(monkeypatch, 1.0)
    perturb = started(FeatureStatPerturb(1, probs=ALWAYS), 0.5, 0.585786)
    found = perturb(torch.tensor([1.0, 3.0]).view(1, 1, 1, 2))
    torch.testing.assert_close(
        found.flatten(), torch.tensor([1.085787, 3.914213]), atol=2e-6, rtol=0
    )


def test_the_learnt_style_climbs(monkeypatch) -> None:
    """d mean(x′) / d S_μ is 1; turned round with λ = 5 it is −5, and the input's own is not."""
    with_noise(monkeypatch, 1.0)
    perturb = started(FeatureStatPerturb(1, adv_weight=5.0, probs=ALWAYS), 0.0, 0.0)
    x = maps(1, 1, 4, 4).requires_grad_()
    perturb(x).mean().backward()
    assert perturb.style_mean.grad.item() == pytest.approx(-5.0)
    torch.testing.assert_close(x.grad, torch.full_like(x, 1 / 16))


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 7, 3)])
def test_no_intensity_changes_nothing(shape: tuple[int, ...]) -> None:
    x = maps(*shape)
    perturb = started(FeatureStatPerturb(3, probs=ALWAYS), 0.0, 0.0)
    torch.testing.assert_close(perturb(x), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_eval_is_the_identity_and_the_state_is_saved(mode: str) -> None:
    perturb, x = FeatureStatPerturb(3, mode, probs=ALWAYS), maps(4, 3, 5, 5)
    perturb(x)
    assert torch.equal(perturb.eval()(x), x)
    again = FeatureStatPerturb(3, mode)
    again.load_state_dict(load(save(perturb.state_dict())))
    assert set(again.state_dict()) == (
        {"style_mean", "style_std", "start"} if mode in LEARNT else set()
    )
    for name, tensor in perturb.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_it_starts_at_the_first_batchs_spread_in_the_optimisers_own_parameters() -> None:
    perturb, x = FeatureStatPerturb(3, probs=ALWAYS), maps(6, 3, 5, 5)
    before = perturb.style_mean
    assert before.tolist() == pytest.approx([0.1] * 3)
    perturb(x)
    assert perturb.style_mean is before
    by_mean = x.mean((2, 3)).var(0).add(1e-6).sqrt()
    by_std = x.var((2, 3)).add(1e-6).sqrt().var(0).add(1e-6).sqrt()
    torch.testing.assert_close(perturb.style_mean.data, by_mean)
    torch.testing.assert_close(perturb.style_std.data, by_std)
    perturb(maps(6, 3, 5, 5, seed=1))
    torch.testing.assert_close(perturb.style_mean.data, by_mean)
    assert perturb.growth == 1
    with torch.no_grad():
        for parameter in style_parameters(perturb).values():
            parameter.mul_(-3)
    assert perturb.growth == pytest.approx(3)


@pytest.mark.parametrize("mode", MODES)
def test_maps_of_half_precision_stay_so_under_styles_of_single(mode: str) -> None:
    """The next layer of a bfloat16 network takes nothing else."""
    perturb = FeatureStatPerturb(3, mode, probs=ALWAYS)
    assert perturb(maps(4, 3, 5, 5).bfloat16()).dtype == torch.bfloat16


def test_thirds_are_drawn_for_the_whole_batch() -> None:
    torch.manual_seed(0)
    perturb, x = started(FeatureStatPerturb(2), 5.0, 0.0), maps(8, 2, 4, 4)
    moved = torch.stack([(perturb(x) - x).mean((2, 3)).square().mean(1) for _ in range(300)])
    left = (moved < 1e-8).all(1)
    assert (left == (moved < 1e-8).any(1)).all(), "all samples or none"
    strong = moved.mean(1) > 2  # S = 5 against a batch spread of about a quarter
    assert [round(share.float().mean().item(), 1) for share in (left, strong)] == [0.3, 0.3]


def test_intensity_is_of_a_channel_noise_of_a_sample_and_channel() -> None:
    torch.manual_seed(0)
    x = torch.zeros(4000, 2, 2, 2)
    perturb = started(FeatureStatPerturb(2, probs=ALWAYS), 0.0, 0.0)
    with torch.no_grad():
        perturb.style_mean.copy_(torch.tensor([1.0, 3.0]))
    means = perturb(x).mean((2, 3))
    torch.testing.assert_close(means.std(0), torch.tensor([1.0, 3.0]), rtol=0.05, atol=0)
    assert torch.corrcoef(means.T)[0, 1].abs() < 0.05


def test_dsu_and_the_direction_have_the_batchs_intensity(monkeypatch) -> None:
    with_noise(monkeypatch, 1.0)
    x = maps(16, 3, 6, 6)
    shift = FeatureStatPerturb(3, "dsu", probs=ALWAYS)(x).mean((2, 3)) - x.mean((2, 3))
    spread = x.mean((2, 3)).var(0).add(1e-6).sqrt()
    torch.testing.assert_close(shift, spread.expand_as(shift), atol=1e-5, rtol=1e-4)
    turned = started(FeatureStatPerturb(3, "advstyle_direction", probs=ALWAYS), 0.0, 1.0)
    with torch.no_grad():
        turned.style_mean.copy_(torch.tensor([0.0, 7.0, 0.0]))
    shift = turned(x).mean((2, 3)) - x.mean((2, 3))
    wanted = torch.tensor([0.0, spread.norm(), 0.0]).expand_as(shift)
    torch.testing.assert_close(shift, wanted, atol=1e-5, rtol=1e-4)


@given(seed=st.integers(0, 10_000), mode=st.sampled_from(["mixstyle", "efdmix"]))
def test_mixing_keeps_order_and_stays_between(seed: int, mode: str) -> None:
    """Within a channel the order of places is kept; means stay among the batch's."""
    torch.manual_seed(seed)
    x = maps(5, 2, 3, 3, seed=seed)
    mixed = FeatureStatPerturb(2, mode, probs=ALWAYS)(x)
    assert (mixed.flatten(2).argsort(-1) == x.flatten(2).argsort(-1)).all()
    means, before = mixed.mean((2, 3)), x.mean((2, 3))
    assert (means <= before.amax(0) + 1e-4).all()
    assert (means >= before.amin(0) - 1e-4).all()


def test_efdmix_takes_every_order_statistic(monkeypatch) -> None:
    monkeypatch.setattr(torch, "randperm", lambda n: torch.arange(n).flip(0))
    perturb, x = FeatureStatPerturb(2, "efdmix", probs=ALWAYS), maps(2, 2, 3, 3)
    monkeypatch.setattr(perturb, "shares", lambda m: torch.zeros(len(m), 1, 1))
    torch.testing.assert_close(perturb(x).flatten(2).sort(-1)[0], x.flip(0).flatten(2).sort(-1)[0])


def test_bad_arguments_are_said() -> None:
    with pytest.raises(ValueError, match="mode is one of"):
        FeatureStatPerturb(3, "adv")
    with pytest.raises(ValueError, match="sum to 1"):
        FeatureStatPerturb(3, probs=(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="tokens, 3"):
        FeatureStatPerturb(3)(maps(2, 4, 5, 5))
    with pytest.raises(ValueError, match="single place"):
        FeatureStatPerturb(3, probs=ALWAYS)(maps(2, 3, 1, 1))
    one = maps(1, 3, 4, 4)
    assert torch.equal(FeatureStatPerturb(3, "dsu", probs=ALWAYS)(one), one)
    assert FeatureStatPerturb(3, probs=ALWAYS)(one).isfinite().all()


# ------------------------------------------------------------------------- insertion


class Tokens(nn.Module):
    """A layer as transformers has them: a tuple of which the first entry is the hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, str]:
        return self.linear(hidden), "attention"


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Tokens()])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.layer[0](hidden)[0]


def dsu(channels: int) -> FeatureStatPerturb:
    return FeatureStatPerturb(channels, "dsu", probs=ALWAYS)


def learnt(channels: int) -> FeatureStatPerturb:
    return FeatureStatPerturb(channels, probs=ALWAYS)


def test_insertion_changes_training_only_and_keeps_names() -> None:
    model = TinyConvNet(3, width=4)
    names, x = list(model.state_dict()), maps(4, 3, 28, 28)
    expected = model.eval()(x)
    model.train()
    inserted = insert_after(model, ["block1", "block2"], learnt, x[:2])
    assert [module.num_channels for module in inserted.values()] == [4, 8]
    assert model.training
    assert [name for name in model.state_dict() if not name.startswith("inserted.")] == names
    assert torch.equal(model.eval()(x), expected)
    assert set(style_parameters(model)) == {
        f"inserted.block{k}.style_{what}" for k in (1, 2) for what in ("mean", "std")
    }
    model.train()(x).square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in style_parameters(model).values())


def test_a_copy_has_its_own() -> None:
    model = TinyConvNet(3, width=4)
    insert_after(model, ["block1"], learnt, maps(1, 3, 28, 28))
    twin = copy.deepcopy(model)
    twin.train()(maps(4, 3, 28, 28))
    assert bool(twin.inserted["block1"].start.all())
    assert not bool(model.inserted["block1"].start.any())


def test_tokens_and_tuples() -> None:
    model = Encoder()
    x = maps(3, 5, 4)
    inserted = insert_after(model, ["layer.0"], dsu, {"hidden": x})
    assert inserted["layer.0"].num_channels == 6
    torch.manual_seed(0)
    changed = model.train()(x)
    assert changed.shape == (3, 5, 6)
    assert not torch.allclose(changed, model.eval()(x), atol=1e-3)


def test_places_that_are_not_there_are_said() -> None:
    x = maps(1, 3, 28, 28)
    with pytest.raises(ValueError, match="no layer block9"):
        insert_after(TinyConvNet(3), ["block9"], dsu, x)
    with pytest.raises(ValueError, match="Sequential itself"):
        insert_after(nn.Sequential(nn.Conv2d(3, 2, 3)), ["0"], dsu, x)
