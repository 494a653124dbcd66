"""Mixtures, grids, cells and their schedule; ensembles that share a trunk, and supernets."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from generality.lab import CosinePowerAnnealingLR, cosine_power_factors
from generality.measures import ensemble_diversity, flops, operator_diversity, rank_correlation
from generality.measures.operator_diversity import jensen_shannon
from generality.models import MultiHead, combine_heads
from generality.modules import (
    CellNetwork,
    DartsCell,
    DifferentiableGrid,
    EnsembleArchitecture,
    GenotypeCell,
    MixedOp,
    SharpSepConv,
    Stage,
    Supernet,
    Zero,
    architecture_parameters,
    max_w,
    mixing_coefficients,
    shared_trunk_ensemble,
    sharp_operators,
    split_backbone,
)
from generality.modules.digit_spaces import CellSpace
from generality.objectives import member_cross_entropy
from generality.training.architecture_search import (
    SearchPlan,
    recalibrated_accuracy,
    search_architecture,
)
from generality.training.ensemble_search import (
    SupernetPlan,
    one_shot_accuracy,
    search_ensemble,
    train_supernet,
)
from generality.training.evolution_search import evolution_search
from generality.training.shrinking_sampler import ShrinkingSampler, combo_diversity

# ------------------------------------------------------------------ cosine power annealing

SCHEDULES = {
    (10, 0): [0.1, 0.08315, 0.06182, 0.04163, 0.02566, 0.01447, 0.00728, 0.00301, 0.00079, 0.0001],
    (1, 0): [0.1, 0.09273, 0.08140, 0.06713, 0.05130, 0.03548, 0.02121, 0.00988, 0.00261, 0.0001],
    (2, 3): [0.02508, 0.05005, 0.07503, 0.1, 0.07556, 0.05281, 0.03099, 0.01402, 0.00359, 0.0001],
}


@pytest.mark.parametrize(("order", "warmup"), SCHEDULES)
def test_the_sheet_s_schedules(order, warmup):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = CosinePowerAnnealingLR(optimizer, 10, 1e-4, order, warmup)
    rates = []
    for _ in range(12):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:10] == pytest.approx(SCHEDULES[order, warmup], abs=5.1e-6)
    assert rates[10:] == pytest.approx([1e-4, 1e-4])


def test_a_schedule_goes_on_where_it_was_and_scales_every_group():
    groups = [
        {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.1},
        {"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0},
    ]
    optimizer = torch.optim.SGD(groups)
    schedule = CosinePowerAnnealingLR(optimizer, 10)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    small, large = schedule.get_last_lr()
    assert large == pytest.approx(10 * small)
    again = CosinePowerAnnealingLR(torch.optim.SGD(groups), 10)
    again.load_state_dict(schedule.state_dict())
    optimizer.step()
    schedule.step()
    again.step()
    assert again.get_last_lr() == pytest.approx(schedule.get_last_lr())


@settings(deadline=None, max_examples=50)
@given(st.integers(3, 60), st.floats(1, 50), st.integers(0, 40))
def test_a_schedule_rises_then_falls_from_one_to_zero(epochs, order, warmup):
    if epochs - warmup < 2:
        with pytest.raises(ValueError, match="at least 2 epochs after warm-up"):
            cosine_power_factors(epochs, order, warmup)
        return
    factors = cosine_power_factors(epochs, order, warmup)
    assert len(factors) == epochs
    assert (max(factors), factors[warmup]) == pytest.approx((1, 1))
    assert factors[-1] == pytest.approx(0, abs=1e-12)
    assert np.all(np.diff(factors[: warmup + 1]) > 0)
    assert np.all(np.diff(factors[warmup:]) < 1e-12)


# ----------------------------------------------------------------------------------- Max-W


def test_the_sheet_s_max_w():
    outputs = torch.tensor([1.0, 2.0, 3.0])
    for weighting, value, slope in (
        ("max_w", 4.2961, [-1.8015, 1.2278, 0.5736]),
        ("softmax", 1.5754, [-0.3145, 0.1408, 0.1737]),
    ):
        alpha = torch.tensor([0.5, 0.0, -1.0], requires_grad=True)
        mixed = (mixing_coefficients(alpha, weighting) * outputs).sum()
        mixed.backward()
        assert mixed.item() == pytest.approx(value, abs=1e-4)
        assert alpha.grad.tolist() == pytest.approx(slope, abs=1e-4)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_max_w_takes_the_heaviest_whole_and_keeps_distances(logits):
    weights = torch.tensor(logits, dtype=torch.float64).softmax(0)
    found = max_w(weights)
    assert found.max().item() == pytest.approx(1)
    torch.testing.assert_close(found - found[0], weights - weights[0])


@pytest.mark.parametrize(("detach", "slope"), [(False, 0.0), (True, 0.5465 * (1 - 0.5465))])
def test_the_heaviest_credits_itself_only_where_the_maximum_is_detached(detach, slope):
    alpha = torch.tensor([0.5, 0.0, -1.0], requires_grad=True)
    max_w(alpha.softmax(0), detach_max=detach)[0].backward()
    assert alpha.grad[0].item() == pytest.approx(slope, abs=1e-4)


def test_a_mixture_is_its_coefficients_or_one_candidate():
    op = MixedOp({"a": nn.Linear(3, 2), "none": Zero(), "b": nn.Linear(3, 2)}, "max_w")
    with pytest.raises(RuntimeError):
        op(torch.ones(4, 3))  # zeros of the input's width do not fit
    op = MixedOp({"a": nn.Linear(3, 3), "none": Zero(), "b": nn.Linear(3, 3)}, "max_w")
    op.alpha.data = torch.tensor([0.5, 0.0, -1.0])
    x = torch.randn(4, 3)
    expected = op.candidates["a"](x) + 0.5754 * op.candidates["b"](x)
    torch.testing.assert_close(op(x), expected, atol=1e-3, rtol=1e-3)
    op.only = "b"
    torch.testing.assert_close(op(x), op.candidates["b"](x))
    with pytest.raises(ValueError, match="weighting is one of"):
        MixedOp({"a": nn.Identity()}, "max")
    gumbel = mixing_coefficients(torch.zeros(4), "gumbel")
    assert gumbel.sum().item() == pytest.approx(1)
    assert gumbel.std() > 0


@pytest.mark.parametrize("name", list(sharp_operators(6)))
def test_every_sharp_operator_keeps_the_shape(name):
    assert sharp_operators(6)[name]()(torch.randn(2, 6, 7, 7)).shape == (2, 6, 7, 7)


def test_while_searching_no_scale_can_undo_a_mixture_s_weight():
    space = CellSpace(width=4, nodes=1, cells=2)
    searched, alone = space.mixture("softmax"), space.network(space.by_hand())
    of = {
        net: {m.affine for part in (net.cells, net.narrow) for m in part.modules()
              if isinstance(m, nn.BatchNorm2d)}
        for net in (searched, alone)
    }  # fmt: skip
    assert of == {searched: {False}, alone: {True}}
    for operator in sharp_operators(4, affine=False).values():
        assert not list(operator().parameters()) or operator()[-1].affine is False
    x = torch.randn(3, 1, 8, 8)
    assert searched(x).shape == alone(x).shape == (3, 10)


def test_a_sharp_block_is_two_halves_of_stated_widths():
    block = SharpSepConv(4, 8, 5, stride=2, dilation=2, expand=4)
    convolutions = [m for m in block if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.groups) for c in convolutions] == [
        (4, 4, 4), (4, 32, 1), (32, 32, 32), (32, 8, 1)
    ]  # fmt: skip
    assert [(c.stride[0], c.dilation[0]) for c in convolutions] == [(2, 2), (1, 1), (1, 1), (1, 1)]
    assert block(torch.randn(2, 4, 7, 7)).shape == (2, 8, 4, 4)
    assert SharpSepConv(4, 8, middle=32)[2].out_channels == 32
    with pytest.raises(ValueError, match="odd"):
        SharpSepConv(4, 8, 4)


# ------------------------------------------------------------------------------ cells, grids

LINES = {"none": Zero, "skip": nn.Identity, "line": lambda: nn.Conv2d(3, 3, 1)}


def test_a_cell_follows_a_genotype_as_a_cell_of_it_does():
    torch.manual_seed(0)
    cell, x, y = DartsCell(LINES, nodes=2), torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    genotype = (((0, "line"), (1, "skip")), ((1, "line"), (2, "line")))
    cell.follow(genotype)
    alone = GenotypeCell(genotype, LINES)
    for node, edges in enumerate(genotype):
        for place, (source, name) in enumerate(edges):
            state = cell.edge(f"{source}-{node + 2}").candidates[name].state_dict()
            alone.nodes[node][place].load_state_dict(state)
    torch.testing.assert_close(cell(x, y), alone(x, y))
    cell.follow(None)
    assert not torch.allclose(cell(x, y), alone(x, y))


def test_a_genotype_keeps_the_heaviest_edges_and_may_exclude_none():
    cell = DartsCell(LINES, nodes=2)
    for place in cell.edges:
        cell.edge(place).alpha.data = torch.tensor([2.0, 1.0, 0.0])
    cell.edge("2-3").alpha.data = torch.tensor([0.0, 0.0, 3.0])
    cell.edge("1-3").alpha.data = torch.tensor([0.0, 2.0, 0.0])
    assert cell.genotype()[1] == ((1, "skip"), (2, "line"))
    assert {op for _, op in cell.genotype(exclude=())[0]} == {"none"}
    twin = DartsCell(LINES, nodes=2, like=cell)
    assert twin.genotype() == cell.genotype()
    assert len(architecture_parameters(nn.ModuleList([cell, twin]))) == 5


def little_grid(weighting="softmax"):
    def make(before, after, op):
        return (
            nn.Linear(before, after)
            if op == "line"
            else nn.Sequential(nn.Linear(before, after), nn.Tanh())
        )

    stage = Stage((2, 4), ("line", "bend"), make)
    return DifferentiableGrid(3, [stage, stage, Stage((1,), ("line",), make)], weighting=weighting)


def every_path(grid):
    steps = [[()]]
    for stage in grid.stages:
        options = [(value, op) for value in stage.values for op in stage.operators]
        steps = [[*[(*path, option) for path in steps[0] for option in options]]]
    return steps[0]


def length(grid, path):
    total, at = 0.0, 0
    for alpha, stage, (value, op) in zip(grid.alphas, grid.stages, path, strict=True):
        b, o = stage.values.index(value), stage.operators.index(op)
        total += alpha.flatten().softmax(0).view_as(alpha)[at, b, o].item()
        at = b
    return total


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 200))
def test_the_longest_path_is_longest(seed):
    torch.manual_seed(seed)
    grid = little_grid()
    for alpha in grid.alphas:
        nn.init.normal_(alpha, std=2)
    paths = every_path(grid)
    assert len(paths) == grid.paths() == 16
    longest = length(grid, grid.decode())
    assert longest == pytest.approx(max(length(grid, path) for path in paths))
    for how in ("greedy", "greedy_backward"):
        assert grid.decode(how) in paths


def test_a_grid_is_the_sum_over_its_paths_where_all_is_linear():
    torch.manual_seed(0)
    stage = Stage((2, 4), ("a", "b"), lambda i, o, op: nn.Linear(i, o, bias=False))
    last = Stage((1,), ("out",), lambda i, o, op: nn.Linear(i, o, bias=False))
    x = torch.randn(5, 3)
    for weighting in ("softmax", "max_w"):
        grid = DifferentiableGrid(3, [stage, stage, last], weighting=weighting)
        shares = [mixing_coefficients(alpha, weighting) for alpha in grid.alphas]
        total = torch.zeros(5, 1)
        for path in every_path(grid):
            grid.only = path
            share, at = 1.0, 0
            for coefficients, s, (value, op) in zip(shares, grid.stages, path, strict=True):
                b, o = list(s.values).index(value), list(s.operators).index(op)
                share, at = share * coefficients[at, b, o], b
            total = total + share * grid(x)
        grid.only = None
        torch.testing.assert_close(grid(x), total)
    with pytest.raises(ValueError, match="is not in"):
        grid.network(((3, "a"), (2, "a"), (1, "out")))
    with pytest.raises(ValueError, match="2 steps through 3"):
        grid.network(((2, "a"), (2, "a")))
    with pytest.raises(ValueError, match="last stage has one value"):
        DifferentiableGrid(3, [stage])


def test_a_search_finds_the_one_grid_path_that_can_learn():
    torch.manual_seed(0)
    x = torch.randn(300, 2)
    y = (x[:, 0] * x[:, 1] > 0).long()  # no line separates it

    def make(before, after, op):
        return {
            "blind": nn.Sequential(nn.Linear(before, after), nn.Threshold(1e9, 0.0)),
            "sees": nn.Sequential(nn.Linear(before, after), nn.Tanh()),
        }[op]

    stages = [
        Stage((4, 16), ("blind", "sees"), make),
        Stage(("out",), ("line",), lambda b, a, op: nn.Linear(b, 2)),
    ]
    grid = DifferentiableGrid(2, stages, weighting="max_w")
    plan = SearchPlan(steps=150, learning_rate=0.2, architecture_rate=0.05)
    losses = search_architecture(grid, x, y, plan)
    assert grid.decode()[0][1] == "sees"
    assert losses[-1] < losses[0] / 2
    with pytest.raises(ValueError, match="no mixture"):
        search_architecture(nn.Linear(2, 2), x, y)


def test_a_cell_network_searches_decodes_and_halves():
    torch.manual_seed(0)
    operators = {name: sharp_operators(4)[name] for name in ("none", "skip", "sep_conv_3x3")}
    net = CellNetwork(operators, 4, cells=3, nodes=1)
    x, y = torch.randn(32, 1, 8, 8), torch.arange(32) % 10
    search_architecture(net, x, y, SearchPlan(steps=2, batch=16))
    assert len(architecture_parameters(net)) == 2  # shared by the three cells
    alone = CellNetwork(operators, 4, cells=3, genotype=net.genotype())
    assert alone(x).shape == net(x).shape == (32, 10)
    with pytest.raises(ValueError, match="nothing is searched"):
        alone.genotype()
    net.follow(net.genotype())
    assert 0 <= recalibrated_accuracy(net, x, x, y) <= 1


# -------------------------------------------------------------------- ensembles with a trunk


@pytest.mark.parametrize(("gradient", "factor"), [("mean", 1), ("sum", 2)])
def test_the_sheet_s_gradients(gradient, factor):
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    heads = [nn.Linear(2, 2, bias=False) for _ in range(2)]
    heads[0].weight.data, heads[1].weight.data = torch.eye(2), swap
    model = shared_trunk_ensemble(nn.Identity(), heads, gradient)
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    logits, target = model(x), torch.tensor([0])
    each = [cross_entropy(one, target).item() for one in logits]
    assert each == pytest.approx([1.31326, 0.31326], abs=1e-5)
    loss = member_cross_entropy(logits, target, label_smoothing=0)
    assert loss.item() == pytest.approx(sum(each))
    loss.backward()
    expected = [-0.23106 * factor, 0.23106 * factor]
    assert x.grad[0].tolist() == pytest.approx(expected, abs=2e-5)
    slope = torch.tensor([[-0.73106, -1.46212], [0.73106, 1.46212]])
    torch.testing.assert_close(heads[0].weight.grad, slope, atol=1e-4, rtol=1e-4)


def test_equal_members_are_one_network():
    torch.manual_seed(0)
    trunk, head = nn.Linear(3, 4), nn.Linear(4, 2)
    x, y = torch.randn(6, 3), torch.arange(6) % 2
    cross_entropy(head(trunk(x)), y).backward()
    alone = trunk.weight.grad.clone()
    trunk.zero_grad()
    model = shared_trunk_ensemble(trunk, [head, copy.deepcopy(head), copy.deepcopy(head)])
    logits = model(x)
    member_cross_entropy(logits, y, 0.0).backward()
    torch.testing.assert_close(trunk.weight.grad, alone)
    torch.testing.assert_close(combine_heads(logits, "logits"), head(trunk(x)).softmax(-1))
    found = ensemble_diversity(logits.softmax(-1).detach().numpy(), y.numpy())
    assert (found.disagreement, found.gain) == (0, pytest.approx(0))
    assert (found.js_divergence, found.ambiguity) == pytest.approx((0, 0), abs=1e-6)


def test_the_sheet_s_combinations():
    logits = torch.tensor([[[2.0, 0.0, -1.0]], [[0.0, 1.5, -1.0]]])
    mean = combine_heads(logits, "logits")[0]
    assert mean.tolist() == pytest.approx([0.5224, 0.4069, 0.0707], abs=1e-4)
    uniform = combine_heads(logits, "uniform")[0]
    assert uniform.tolist() == pytest.approx([0.5074, 0.4402, 0.0525], abs=1e-4)
    assert combine_heads(logits, "vote")[0].tolist() == [0.5, 0.5, 0]
    assert jensen_shannon(logits.softmax(-1)).item() == pytest.approx(0.2579, abs=1e-4)
    found = ensemble_diversity(logits.softmax(-1).numpy())
    assert found.js_divergence == pytest.approx(0.2579, abs=1e-4)
    assert math.isnan(found.gain)


def test_ensemble_measures_by_hand():
    said = np.eye(2)[[[0, 0, 1, 1], [0, 1, 1, 0]]]
    found = ensemble_diversity(said, np.array([0, 0, 1, 0]))
    assert found.q_statistic == pytest.approx(-1)  # they never err together
    assert found.gain == pytest.approx(0.25)  # ties go to class 0, which is right both times
    assert found.ambiguity == pytest.approx(0.25)
    brier = [((member - np.eye(2)[[0, 0, 1, 0]]) ** 2).sum(-1).mean() for member in said]
    mean = ((said.mean(0) - np.eye(2)[[0, 0, 1, 0]]) ** 2).sum(-1).mean()
    assert np.mean(brier) - mean == pytest.approx(found.ambiguity)


def test_ensemble_measures_refuse_what_they_cannot_read():
    said = np.full((2, 3, 2), 0.5)
    with pytest.raises(ValueError, match="finite"):
        ensemble_diversity(np.full((2, 3, 2), np.nan))
    with pytest.raises(ValueError, match="true classes are numbers"):
        ensemble_diversity(said, np.array(["cat", "dog", "cat"]))
    with pytest.raises(ValueError, match="two members or more"):
        ensemble_diversity(said[:1])


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(torch.relu(x + self.second(x)))


def test_any_backbone_splits_where_one_tensor_crosses():
    torch.manual_seed(0)
    net, x = Residual(), torch.randn(5, 4)
    ensemble = split_backbone(net, at="first.1", members=2)
    assert isinstance(ensemble, MultiHead)
    first, second = ensemble(x)
    torch.testing.assert_close(first, net(x))
    assert not torch.allclose(first, second)
    member_cross_entropy(ensemble(x), torch.zeros(5, dtype=torch.long)).backward()
    assert net.first[0].weight.grad is not None  # the trunk is the user's own
    torch.testing.assert_close(split_backbone(net, at="first")(x)[0], net(x))
    with pytest.raises(ValueError, match="cross the cut"):
        split_backbone(net, at="second")
    with pytest.raises(ValueError, match="no module 'third'"):
        split_backbone(net, at="third")
    with pytest.raises(ValueError, match="nothing comes after 'head'"):
        split_backbone(net, at="head")
    for make in (lambda: split_backbone(net, "first", members=0),
                 lambda: shared_trunk_ensemble(net, [])):  # fmt: skip
        with pytest.raises(ValueError, match="a member or more"):
            make()


# ---------------------------------------------------------------------------- supernets

BLOCK = {"line": lambda: nn.Linear(4, 4), "bend": lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()),
         "skip": nn.Identity}  # fmt: skip


def little_supernet(blocks=3):
    return Supernet(lambda: nn.Linear(2, 4), [BLOCK] * blocks, lambda: nn.Linear(4, 2))


def test_a_supernet_shares_up_to_the_split_and_counts_it_once():
    torch.manual_seed(0)
    net, x = little_supernet(), torch.randn(5, 2)
    one = EnsembleArchitecture(2, (("line", "bend"), ("bend", "skip"), ("line", "skip")))
    assert one.paths == (("line", "bend", "line"), ("line", "bend", "skip"))
    trunk = net.blocks[1][0]["bend"](net.blocks[0][0]["line"](net.stem(x)))
    expected = [net.heads[0](net.blocks[2][0]["line"](trunk)), net.heads[1](trunk)]
    torch.testing.assert_close(net(x, one), torch.stack(expected))
    costs = net.costs(x[:1])
    alone = net.fresh(one)
    assert net.flops(one, costs) == flops(alone, x[:1]) == 2 * (8 + 16 + 16 + 16 + 2 * 8)
    assert net(x, one).shape == alone(x).shape
    assert not torch.allclose(net(x, one), alone(x))
    same = EnsembleArchitecture(2, (("line", "skip"), ("bend", "line"), ("line", "skip")))
    assert one == same  # what the second member would have had in the trunk does not count
    assert len({one, same, EnsembleArchitecture(1, one.combos)}) == 2


def test_flops_by_hand():
    convolution = nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False)
    assert flops(convolution, torch.zeros(1, 4, 5, 5)) == 2 * 25 * 8 * 2 * 9
    model = nn.Sequential(convolution, nn.BatchNorm2d(8)).train()
    before = model[1].running_mean.clone()
    flops(model, torch.ones(2, 4, 5, 5))
    assert model.training
    assert model[1].training
    assert torch.equal(before, model[1].running_mean)


def test_shrinking_keeps_what_is_good_and_different():
    space = ShrinkingSampler([["a", "b"]] * 2)
    rng = np.random.default_rng(0)
    for combo in list(space.combos[0]):
        loss = {"aa": 1.0, "ab": 2.0, "ba": 3.0, "bb": 4.0}["".join(combo)]
        space.observe(EnsembleArchitecture(0, (combo, combo)), loss)
    different = [{c: float(c[0] != c[1]) for c in block} for block in space.combos]
    by_both = copy.deepcopy(space)
    space.shrink(0.5)
    assert space.combos[0] == [("a", "a"), ("a", "b")]
    by_both.shrink(0.5, different, weight=10)
    assert by_both.combos[0] == [("a", "b"), ("b", "a")]
    by_both.shrink(0.99)
    assert [len(block) for block in by_both.combos] == [1, 1]
    assert space.sample(rng, split=1).split == 1
    assert by_both.single().sample(rng).combos[0] in [("a",), ("b",)]
    with pytest.raises(ValueError, match="fits the limit"):
        space.sample(rng, fits=lambda one: False)
    with pytest.raises(ValueError, match="share in"):
        space.shrink(1.0)
    one, other = ShrinkingSampler([["a"]]), ShrinkingSampler([["b"]])
    with pytest.raises(ValueError, match="in common"):
        ShrinkingSampler.common([one, other])


def test_a_shared_block_is_not_credited():
    space = ShrinkingSampler([["a", "b"]] * 2)
    space.observe(EnsembleArchitecture(1, (("a", "b"), ("b", "b"))), loss=5.0)
    assert set(space.potentiality(0).values()) == {0.0}
    assert space.potentiality(1)[("b", "b")] == -5.0


def test_supernets_train_shrink_and_are_searched():
    torch.manual_seed(0)
    x = torch.randn(300, 2)
    y = (x[:, 0] * x[:, 1] > 0).long()
    net, space = little_supernet(2), ShrinkingSampler([list(BLOCK)] * 2)
    held = x[200:], y[200:]
    plan = SupernetPlan(steps=200, learning_rate=0.2, shrink_at=(60, 120), probes=40)
    losses = train_supernet(net, space, x[:200], y[:200], held, plan)
    assert np.mean(losses[-20:]) < np.mean(losses[:20])
    assert [len(block) for block in space.combos] == [6, 6]  # of 9: 7 after one, 6 after two
    apart = combo_diversity(net, space, held[0], np.random.default_rng(0))
    assert all(distance >= 0 for block in apart for distance in block.values())
    limit = 2 * (8 + 16 + 16 + 16)
    options = {"limit": limit, "population": 6, "generations": 2, "parents": 3}
    best = search_ensemble(net, space, x[:100], held, **options)
    assert net.flops(best, net.costs(x[:1])) <= limit
    alone = search_ensemble(net, space.single(), x[:100], held, split=2, **options)
    assert len(alone.paths) == 1
    assert 0 <= one_shot_accuracy(net, best, x[:100], held) <= 1
    again, space = little_supernet(2), ShrinkingSampler([list(BLOCK)] * 2)
    train_supernet(again, space, x[:200], y[:200], held, SupernetPlan(steps=3, shrink="never"))
    assert [len(block) for block in space.combos] == [9, 9]


def test_evolution_respects_its_limit_and_scores_nothing_twice():
    seen = []

    def fitness(n):
        seen.append(n)
        return -abs(n - 90)

    found = evolution_search(
        draw=lambda rng: int(rng.integers(100)), fitness=fitness, allowed=lambda n: n % 2 == 0,
        mutate=lambda n, rng: n + int(rng.integers(-5, 6)),
        cross=lambda a, b, rng: (a + b) // 2, population=8, generations=5, parents=3,
    )  # fmt: skip
    assert len(seen) == len(set(seen)) == len(found)
    assert all(n % 2 == 0 for n in seen)
    assert found[0][1] == max(score for _, score in found)
    with pytest.raises(ValueError, match="no candidate is allowed"):
        evolution_search(
            draw=lambda rng: 1, mutate=lambda n, rng: n, cross=lambda a, b, rng: a,
            fitness=float, allowed=lambda n: False, population=2, generations=1,
        )  # fmt: skip


# ----------------------------------------------------------------------------- measures


def test_distances_of_operators():
    torch.manual_seed(0)
    x = torch.randn(64, 5, 3, 3)
    turn = torch.linalg.qr(torch.randn(5, 5))[0]
    turned = torch.einsum("ij,bjhw->bihw", turn, x)
    for how in ("cosine", "js", "cka"):
        assert operator_diversity(x, x, how) == pytest.approx(0, abs=1e-6)
        assert operator_diversity(x, torch.randn(64, 5, 3, 3), how) > 0.005
    assert operator_diversity(x, turned, "cka") == pytest.approx(0, abs=1e-6)
    assert operator_diversity(x, turned, "cosine") > 0.1
    with pytest.raises(ValueError, match="same inputs"):
        operator_diversity(x, x[:, :3])
    with pytest.raises(ValueError, match="how is"):
        operator_diversity(x, x, "l2")


def test_rank_correlation_is_kendall_s():
    found = rank_correlation(np.arange(10.0), np.arange(10.0) ** 2)
    assert (found.tau, found.low, found.high) == pytest.approx((1, 1, 1))
    assert rank_correlation(np.arange(6.0), -np.arange(6.0)).tau == pytest.approx(-1)
    assert rank_correlation(np.ones(6), np.arange(6.0)).tau == 0
    with pytest.raises(ValueError, match="3 things"):
        rank_correlation(np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match="finite"):
        rank_correlation(np.array([1, 2, np.nan]), np.ones(3))
