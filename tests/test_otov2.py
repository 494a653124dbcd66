"""Channels found by tracing, emptied while training, and cut out exactly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from generality.weights.channel_groups import (
    channel_groups,
    remove_channels,
    verify_equivalence,
)
from generality.weights.dhspg import DHSPG, channel_scores, half_space_step


class Branches(nn.Module):
    """A residual sum, a sigmoid that no zero survives, a depthwise layer, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.residual, self.residual_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.gate, self.narrow = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6, padding=1)
        self.joined_norm, self.head = nn.BatchNorm2d(18), nn.Linear(18 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = torch.relu(x + self.residual_norm(self.residual(x)))
        thin = nn.functional.relu6(self.depthwise(self.narrow(x)))
        joined = self.joined_norm(torch.cat([x, torch.sigmoid(self.gate(x)), thin], 1))
        return self.head(nn.functional.max_pool2d(joined, 2).flatten(1))


@pytest.fixture(scope="module")
def branches() -> Branches:
    torch.manual_seed(0)
    model = Branches()
    for norm in (model.stem_norm, model.residual_norm, model.joined_norm):
        for tensor in (norm.running_mean, norm.weight, norm.bias):
            nn.init.normal_(tensor)
    return model


@torch.no_grad()
def emptied(model: nn.Module, groups, masks) -> nn.Module:
    model = copy.deepcopy(model)
    for group, mask in zip(groups, masks, strict=True):
        for name, rows in group.made.items():
            model.get_parameter(name)[rows[mask].flatten()] = 0
    return model


def test_what_is_tied_is_one_group_and_what_keeps_no_zero_is_none(branches):
    stem, thin = channel_groups(branches, (torch.randn(1, 3, 4, 4),))
    assert (stem.channels, thin.channels) == (8, 6)
    assert {n.split(".")[0] for n in stem.made} == {
        "stem", "stem_norm", "residual", "residual_norm", "joined_norm"
    }  # fmt: skip
    assert stem.read["head.weight"].shape == (8, 4)  # flattening: four columns a channel
    assert thin.made["joined_norm.weight"].flatten().tolist() == list(range(12, 18))  # after 8 + 4
    assert thin.read["head.weight"][0].tolist() == [48, 49, 50, 51]
    assert {n.split(".")[0] for n in thin.made} == {"narrow", "depthwise", "joined_norm"}


@pytest.mark.parametrize("training", [False, True])
def test_cutting_empty_channels_changes_nothing(branches, training):
    x = torch.randn(3, 3, 4, 4)
    groups = channel_groups(branches, (x[:1],))
    masks = [torch.arange(g.channels) % 2 == 1 for g in groups]
    full = emptied(branches, groups, masks)
    small = remove_channels(full, groups, masks)
    assert verify_equivalence(full, small, (x,), atol=1e-5) <= 1e-6
    assert (small.depthwise.groups, small.head.in_features) == (3, (4 + 4 + 3) * 4)
    full.train(training), small.train(training)  # the mean of a batch does not leak either
    torch.testing.assert_close(full(x), small(x), atol=1e-5, rtol=1e-5)
    small(x).sum().backward()


def test_the_sheet_s_network_to_the_last_bit():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    x = torch.randn(2, 3, 8, 8)
    groups = channel_groups(net, (x,))
    masks = [torch.tensor([False, True, False, True])]
    full = emptied(net, groups, masks)
    assert verify_equivalence(full, remove_channels(full, groups, masks), (x,), atol=0) == 0


def test_a_channel_that_is_not_empty_shows(branches):
    x = torch.randn(1, 3, 4, 4)
    groups = channel_groups(branches, (x,))
    masks = [torch.arange(g.channels) == 0 for g in groups]
    with pytest.raises(ValueError, match="differs from the full one"):
        verify_equivalence(branches, remove_channels(branches, groups, masks), (x,))


def test_a_language_model_gives_its_gated_layers():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.arange(5)[None]
    groups = channel_groups(model, (), {"input_ids": ids, "use_cache": False})
    assert [g.channels for g in groups] == [24, 24]
    assert all("gate_proj" in g.name and len(g.made) == 2 for g in groups)  # tied to up_proj
    masks = [torch.arange(24) < 10] * 2
    full = emptied(model, groups, masks)
    small = remove_channels(full, groups, masks)
    torch.testing.assert_close(full(ids).logits, small(ids).logits, atol=1e-6, rtol=1e-5)


class Attention(nn.Module):
    """Attention of plain torch: any number of heads, or as many as it was told."""

    def __init__(self, stated: int = -1) -> None:
        super().__init__()
        self.stated = stated
        self.q, self.k, self.v, self.o = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(*x.shape[:2], self.stated, 3).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(mixed.transpose(1, 2).flatten(2))


def test_heads_of_attention_are_cut_with_their_queries():
    torch.manual_seed(0)
    model, x = Attention(), torch.randn(2, 5, 12)
    assert channel_groups(model, (x[:1],)) == []
    (heads,) = channel_groups(model, (x[:1],), heads=True)
    assert (heads.channels, heads.name) == (4, "v.weight")
    assert set(heads.made) == {"v.weight", "v.bias"}
    assert set(heads.follows) == {"q.weight", "q.bias", "k.weight", "k.bias"}
    assert heads.read["o.weight"][2].tolist() == [6, 7, 8]
    masks = [torch.tensor([False, True, False, True])]
    full = emptied(model, [heads], masks)
    assert verify_equivalence(full, remove_channels(full, [heads], masks), (x,)) <= 1e-6
    assert channel_groups(Attention(4), (x[:1],), heads=True) == []  # its code states four
    multihead = nn.MultiheadAttention(12, 4, batch_first=True)
    assert channel_groups(multihead, (x, x, x), {"need_weights": False}, heads=True) == []


def test_an_empty_part_is_no_trouble():
    class Rest(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.up(x)
            return self.down(torch.cat([torch.relu(x[:, :8]), -x[:, 8:]], 1))

    (group,) = channel_groups(Rest(), (torch.zeros(2, 3),))
    assert group.channels == 8


def test_what_splits_and_does_not_attend_stays_whole():
    class Tiles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(torch.relu(self.up(x).view(len(x), -1, 4)).flatten(1))

    assert channel_groups(Tiles(), (torch.zeros(2, 3),), heads=True) == []


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
def test_a_key_value_head_goes_with_its_queries(kind):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=20, hidden_size=24, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=6, num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.arange(7)[None]
    inputs = {"input_ids": ids, "use_cache": False}
    groups = channel_groups(model, (), inputs, heads=True)
    heads = [g for g in groups if "self_attn" in g.name]
    assert [g.channels for g in heads] == [3, 3]
    assert all("v_proj" in name for g in heads for name in g.made)
    assert heads[0].follows["model.layers.0.self_attn.q_proj.weight"][1].tolist() == [*range(8, 16)]
    masks = [torch.tensor([False, True, False])] * 2
    full = emptied(model, heads, masks)
    small = remove_channels(full, heads, masks)
    torch.testing.assert_close(full(ids).logits, small(ids).logits, atol=1e-5, rtol=0)
    assert small.model.layers[1].self_attn.q_proj.out_features == 16
    written = [
        m.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0) for m in (full, small)
    ]
    assert torch.equal(*written)


def test_a_group_keeps_a_channel_and_masks_fit(branches):
    groups = channel_groups(branches, (torch.randn(1, 3, 4, 4),))
    with pytest.raises(ValueError, match="would keep no channel"):
        remove_channels(branches, groups, [torch.ones(8, dtype=bool), torch.zeros(6, dtype=bool)])
    with pytest.raises(ValueError, match="must be 8 booleans"):
        remove_channels(branches, groups, [torch.ones(7, dtype=bool), torch.zeros(6, dtype=bool)])
    assert [
        g.name for g in channel_groups(branches, (torch.randn(1, 3, 4, 4),), keep=["narrow"])
    ] == ["stem.weight"]
    with pytest.raises(ValueError, match="cannot be traced"):
        channel_groups(branches, (torch.randn(1, 5, 4, 4),))


def test_half_space_step_of_the_sheet():
    x = torch.tensor([[0.3, 0.4], [0.03, 0.04]])
    g = torch.tensor([[-1.0, 0.0], [0.2, 0.5]])
    step = half_space_step(x, g, lr=0.1, lam=1e-3, amplify=2, coefficient=10, eps=0.95)
    torch.testing.assert_close(step, torch.tensor([[0.3994, 0.3992], [0.0, 0.0]]))


def test_half_space_step_of_the_sheet_before_projection():
    x = torch.tensor([[0.3, 0.4], [0.03, 0.04]])
    g = torch.tensor([[-1.0, 0.0], [0.2, 0.5]])
    trial = half_space_step(x, g, lr=0.1, lam=1e-3, amplify=2, coefficient=10, eps=-10)
    expected = torch.tensor([[0.3994, 0.3992], [0.00994, -0.01008]])
    torch.testing.assert_close(trial, expected, atol=1e-6, rtol=0)
    inner = (trial * x).sum(1)
    torch.testing.assert_close(inner, torch.tensor([0.2795, -0.000105]), atol=5e-6, rtol=0)
    # λ = amplify · 0.6 is not cut at 10 · 1e-3 where the coefficient allows it: x · x̂ still falls
    free = half_space_step(x[:1], g[:1], lr=0.1, lam=1e-3, amplify=2, coefficient=1e4, eps=-10)
    torch.testing.assert_close(free, x[:1] - 0.1 * g[:1] - 0.1 * 1.2 * x[:1] / 0.5)
    # and λ of at least hi = 1.6667 is put between the two bounds
    most = half_space_step(x[:1], g[:1], lr=0.1, lam=1e-3, amplify=3, coefficient=1e4, eps=-10)
    between = (0.6 + 1 / 0.6) / 2
    torch.testing.assert_close(most, x[:1] - 0.1 * g[:1] - 0.1 * between * x[:1] / 0.5)


def test_zeros_around_an_image_keep_zero_channels():
    class Padded(nn.Module):
        def __init__(self, value: float = 0.0, mode: str = "constant") -> None:
            super().__init__()
            self.value, self.mode = value, mode
            self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            x = nn.functional.pad(x, (0, 1, 0, 1), self.mode, self.value)
            return self.second(x)

    x = torch.randn(1, 3, 6, 6)
    for model in (Padded(), Padded(mode="reflect")):
        groups = channel_groups(model, (x,))
        assert [group.channels for group in groups] == [6]
        masks = [torch.arange(6) < 2]
        full = emptied(model, groups, masks)
        verify_equivalence(full, remove_channels(full, groups, masks), (x,), atol=1e-6)
    assert channel_groups(Padded(1.0), (x,)) == []


def test_networks_may_give_several_tensors():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.down(torch.relu(self.up(x)))
            return y, y.softmax(-1)

    model, x = Two(), torch.randn(4, 3)
    (group,) = channel_groups(model, (x[:1],))
    assert group.channels == 8
    assert verify_equivalence(model, copy.deepcopy(model), (x,)) == 0


def test_what_the_optimiser_cannot_take():
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    groups = channel_groups(net, (torch.zeros(1, 3),))
    options = {"lr": 0.1, "target_group_sparsity": 0.5, "start_step": 2}
    with pytest.raises(ValueError, match="named_parameters"):
        DHSPG(net.parameters(), groups, **options)
    with pytest.raises(ValueError, match="base is one of sgd, adam, adamw, not 'rmsprop'"):
        DHSPG(net.named_parameters(), groups, base="rmsprop", **options)
    net[0].bias.requires_grad_(False)
    with pytest.raises(ValueError, match="'0.bias' of a group is not among"):
        DHSPG(net.named_parameters(), groups, **options)


def test_scores_by_hand():
    weights = [torch.tensor([[3.0, 4.0], [0.6, 0.8]])]
    moves = [torch.tensor([[3.0, 4.0], [-0.6, -0.8]])]
    (scores,) = channel_scores(weights, moves)
    small = torch.tensor([0.4, 2.0])  # 1 / (5 / 2), 1 / (1 / 2)
    expected = 0.5 * torch.tensor([1.0, -1.0]) / 2**0.5 + 0.5 * small / small.norm()
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("base", ["sgd", "adam", "adamw"])
def test_without_penalty_it_is_its_base_optimiser(base):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    twin = copy.deepcopy(net)
    groups = channel_groups(net, (torch.zeros(1, 4),))
    ours = DHSPG(
        net.named_parameters(), groups, lr=0.05, base=base, weight_decay=0.1,
        target_group_sparsity=0.5, start_step=100,
    )  # fmt: skip
    theirs = {
        "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.1),
        "adam": lambda p: torch.optim.Adam(p, 0.05, weight_decay=0.1),
        "adamw": lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.1),
    }[base](twin.parameters())
    for _ in range(8):
        x = torch.randn(16, 4)
        for model, optimizer in ((net, ours), (twin, theirs)):
            optimizer.zero_grad()
            (model(x) - x[:, :2]).square().mean().backward()
            optimizer.step()
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)


def trained(net: nn.Module, steps: int, **options) -> DHSPG:
    groups = channel_groups(net, (torch.zeros(1, 6),))
    optimizer = DHSPG(net.named_parameters(), groups, lr=0.05, start_step=10, **options)
    drawn = torch.Generator().manual_seed(0)
    for _ in range(steps):
        x = torch.randn(32, 6, generator=drawn)
        optimizer.zero_grad()
        (net(x).squeeze(1) - x[:, 0] * x[:, 1].sign()).square().mean().backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_it_reaches_the_target_and_zero_channels_stay(base):
    torch.manual_seed(0)
    first = (nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU())
    net = nn.Sequential(*first, nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 1))
    lam = {"sgd": 0.2, "adamw": None}[base]  # 200 steps; the default is for epochs
    options = {"base": base, "lam": lam, "target_group_sparsity": 0.3}
    optimizer = trained(net, 210, **options)
    zero = optimizer.zero_channels()
    assert 0.3 <= optimizer.group_sparsity() <= 0.4
    assert all(int((~z).sum()) >= 1 for z in zero)
    small = remove_channels(net, optimizer.groups, zero)
    assert verify_equivalence(net, small, (torch.randn(9, 6),)) <= 1e-6
    assert small[0].out_features == int((~zero[0]).sum())
    x = torch.randn(32, 6)
    net(x).sum().backward()
    optimizer.step()
    assert all(bool((a <= b).all()) for a, b in zip(zero, optimizer.zero_channels(), strict=True))


def test_every_group_may_have_its_own_share_and_strength():
    torch.manual_seed(0)
    first = (nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU())
    net = nn.Sequential(*first, nn.Linear(12, 1))
    shares = [0.25, 0.5]
    optimizer = trained(
        net, 210, base="adamw", even=True, target_group_sparsity=shares, lam=[2.0, 1.0]
    )
    empty = [float(zero.float().mean()) for zero in optimizer.zero_channels()]
    assert all(share <= found <= share + 0.1 for share, found in zip(shares, empty, strict=True))
    with pytest.raises(ValueError, match="needs even=True"):
        trained(net, 0, target_group_sparsity=shares)
    with pytest.raises(ValueError, match="3 values for 2 groups"):
        trained(net, 0, target_group_sparsity=[0.5] * 3, even=True)


def test_layers_keep_a_multiple_and_never_nothing():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 1))
    optimizer = trained(net, 11, target_group_sparsity=0.9, group_divisible=4)
    assert int((~optimizer.penalised[0]).sum()) == 4


def test_its_state_can_be_saved_and_taken_up():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = trained(net, 14, target_group_sparsity=0.5)
    again = DHSPG(
        net.named_parameters(), optimizer.groups, lr=0.05, start_step=10, target_group_sparsity=0.5
    )
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert again.steps == 14
    assert all(torch.equal(a, b) for a, b in zip(again.penalised, optimizer.penalised, strict=True))
    with pytest.raises(ValueError, match=r"share in \[0, 1\)"):
        DHSPG(net.named_parameters(), optimizer.groups, lr=1, start_step=0, target_group_sparsity=1)


def test_every_way_of_pruning_has_the_channels_it_should():
    from generality.training.channel_pruning import Budget, ChannelPruning, lowest

    drawn = torch.Generator().manual_seed(0)
    images = torch.randn(96, 6, generator=drawn)
    labels = (images[:, 0] > 0).long()
    budget = Budget(epochs=6, start=2, batch=16, learning_rate=0.05, lam=3.0, lasso=0.01)
    task = ChannelPruning(
        lambda: nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 2)),
        images,
        labels,
        budget,
        0,
    )
    small, masks, full = task.dhspg(0.5)
    assert task.difference(full, small) <= 1e-6
    assert small[0].out_features == int((~masks[0]).sum()) <= 6
    assert task.from_scratch(masks)[0].out_features == small[0].out_features
    for model in (task.fine_tuned(0.5), task.group_lasso(0.5)):
        assert model[0].out_features == 6
        assert float((model(images).argmax(1) == labels).float().mean()) > 0.8
    dense, again = task.dense(), task.dense()
    assert all(
        torch.equal(a, b) for a, b in zip(dense.parameters(), again.parameters(), strict=True)
    )
    scores = [torch.arange(4.0), torch.arange(4.0) + 10]
    assert [int(mask.sum()) for mask in lowest(scores, 0.9)] == [3, 3]
