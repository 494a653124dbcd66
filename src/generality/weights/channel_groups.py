"""Which weights make one channel of a network, found by tracing it: what can be cut out, exactly.

A channel can go when everything that carries it is tied together: the rows of the layers that make
it, the norms that scale it, the columns of the layers that read it. If those rows are zero and
nothing between turns a zero into something else, the network without them computes the same
function. OTOv2 calls such a set a zero-invariant group.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

FIXED = (
    0  # the label of what may not be cut: inputs, constants, outputs, whatever is not understood
)

#: f(0) = 0, entry by entry, so a zero channel stays one.
KEEPS_ZERO = frozenset(
    "relu relu_ relu6 leaky_relu elu gelu silu silu_ tanh hardtanh hardtanh_ hardswish hardswish_ "
    "mish abs neg square sqrt sin dropout dropout_ feature_dropout alpha_dropout clone contiguous "
    "detach to _to_copy alias float type_as".split()
)
#: Each output entry gathers entries of one channel only.
POOLS = frozenset(
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d upsample_nearest2d "
    "upsample_bilinear2d".split()
)
#: Entries only move, so the same operation moves their labels.
MOVES = frozenset(
    "view reshape flatten permute transpose t squeeze unsqueeze cat expand slice select narrow "
    "unflatten chunk split split_with_sizes getitem".split()
)


Role = Literal["made", "follows", "read"]


@dataclass(frozen=True)
class ChannelGroup:
    """The channels of one place in a network, tied wherever they are made, scaled and read.

    Attributes:
        name: the first parameter that makes these channels.
        channels: how many there are.
        made: parameter name → (channels, k) rows (dimension 0) that must be zero for the channel
            to be zero: filters, biases, scales and shifts of norms.
        follows: name → (channels, k) rows that go with the channel whatever they hold: running
            statistics, the queries and keys of a head.
        read: parameter name → (channels, k) entries of dimension 1 that read the channel.
    """

    name: str
    channels: int
    made: Mapping[str, Int[Tensor, "channels k"]]
    follows: Mapping[str, Int[Tensor, "channels k"]]
    read: Mapping[str, Int[Tensor, "channels k"]]


def channel_groups(
    model: nn.Module,
    example_inputs: tuple[Any, ...] = (),
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    keep: Sequence[str] = (),
    heads: bool = False,
) -> list[ChannelGroup]:
    """The groups of channels that can be removed from `model` without changing what it computes.

    `torch.export` records the operations on the example, and every entry of every activation
    carries the label of its channel through them. Sums and products tie labels together (residual
    connections, gates); flattening repeats them; concatenation puts them side by side; a depthwise
    convolution hands its input's on. Channels are fixed, and not in the result, where they reach
    the output, a norm over channels (its mean would change), an operation that does not keep
    zeros, a split into heads, or anything unknown.

    Args:
        model: run in evaluation mode on the example; it is not changed.
        example_inputs: positional inputs, a batch of 1 or 2, as small as the model takes.
        example_kwargs: named inputs.
        keep: parameters whose channels stay, by name or by prefix (`"stem"`).
        heads: find heads of attention too. A channel is then a head of values with every head of
            queries that reads it: the rows of values make it (zero values are a zero head), those
            of queries and keys follow, the columns of the layer after attention read it. This
            takes `scaled_dot_product_attention`, and code that infers the number of heads from the
            width of its layers (`view(…, -1, head_dim)`), as Llama and its kin in transformers do;
            others stay whole. So do `nn.MultiheadAttention`, which states one width for embedding
            and heads, and heads whose queries or keys are normalised. A configuration of
            transformers states one number of heads for all layers: to save such a model, remove as
            many from each.

    Source: Chen et al. 2023 (OTOv2, arXiv 2303.06862), algorithm 2. Theirs works on a graph of
    layers; labels per entry give the same groups and follow flattening and concatenation exactly.

    Raises:
        ValueError: the model cannot be traced on the example.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
    ...                     nn.Linear(16, 2))
    >>> (group,) = channel_groups(net, (torch.zeros(1, 3, 4, 4),))
    >>> group.name, group.channels, sorted(group.made)
    ('0.weight', 4, ['0.bias', '0.weight', '1.bias', '1.weight'])
    >>> group.read["4.weight"][1].tolist()  # channel 1 takes four columns after flattening
    [4, 5, 6, 7]
    """
    trace = _Trace(model, example_inputs, dict(example_kwargs or {}), heads)
    return list(trace.groups(tuple(keep)))


def channel_norms(group: ChannelGroup, parameters: Mapping[str, Tensor]) -> Tensor:
    """(channels,) the l2 norm of everything that makes each channel."""
    return torch.linalg.vector_norm(stacked(group, parameters).detach(), dim=1)


def stacked(group: ChannelGroup, tensors: Mapping[str, Tensor]) -> Tensor:
    """(channels, entries) what makes each channel, concatenated in the order of `group.made`."""
    return torch.cat(
        [tensors[name][rows].reshape(group.channels, -1) for name, rows in group.made.items()], 1
    )


def remove_channels(
    model: nn.Module, groups: Sequence[ChannelGroup], removed: Sequence[Tensor]
) -> nn.Module:
    """A smaller copy of `model`: the removed channels' rows, statistics and columns cut out.

    Exact where the removed channels are zero. The copy is an ordinary module with smaller layers
    (`out_features`, `in_channels`, … corrected), so it saves, loads and trains as any other.

    Args:
        groups: from `channel_groups`.
        removed: for each group a boolean mask (channels,).

    Raises:
        ValueError: a mask of the wrong length, or one that leaves a group no channel.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> groups = channel_groups(net, (torch.zeros(1, 3),))
    >>> remove_channels(net, groups, [torch.tensor([True, False, True, False])])
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
      (1): ReLU()
      (2): Linear(in_features=2, out_features=2, bias=True)
    )
    """
    gone: dict[tuple[str, int], list[Tensor]] = {}
    for group, mask in zip(groups, removed, strict=True):
        if mask.shape != (group.channels,) or mask.dtype != torch.bool:
            raise ValueError(f"the mask of '{group.name}' must be {group.channels} booleans")
        if bool(mask.all()):
            raise ValueError(f"'{group.name}' would keep no channel: leave it at least one")
        for names, dim in ((group.made, 0), (group.follows, 0), (group.read, 1)):
            for name, index in names.items():
                gone.setdefault((name, dim), []).append(index[mask.to(index.device)].flatten())
    small = copy.deepcopy(model)
    for (name, dim), indices in gone.items():
        _cut(small, name, dim, torch.cat(indices))
    return small


def verify_equivalence(
    full: nn.Module, small: nn.Module, inputs: tuple[Any, ...], *, atol: float = 1e-5
) -> float:
    """The largest difference between the outputs of both networks in evaluation mode.

    Of an output of several tensors (tuples, transformers' dictionaries) the first is compared.

    Raises:
        ValueError: the difference is above `atol`, or not a number.
    """
    with torch.no_grad():
        outputs = [_first_tensor(_evaluated(model, inputs)) for model in (full, small)]
    difference = float((outputs[0] - outputs[1]).abs().max())
    if not difference <= atol:
        raise ValueError(
            f"the smaller network differs from the full one by {difference:.3g}, more than {atol:g}"
        )
    return difference


class _Trace:
    """Labels of channels, joined as the recorded operations join them.

    The value of a node is a tensor of labels of its shape; a list of those; or None for what is
    stored in the model and has no channels of its own (weights, running statistics).
    """

    def __init__(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], heads: bool
    ) -> None:
        self.parent = [FIXED]
        self.heads, self.split, self.attended = heads, [torch.tensor([FIXED])], [torch.tensor([0])]
        self.labels: dict[Role, dict[str, Tensor]] = {"made": {}, "follows": {}, "read": {}}
        program = _exported(model, args, kwargs)
        signature = program.graph_signature
        self.stored = _canonical(
            model, {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        )
        self.values: dict[Any, Any] = {}
        for node in program.graph.nodes:
            self.values[node] = self._value(node)

    def _value(self, node: torch.fx.Node) -> Any:
        if node.op == "output":
            return self.unknown(node)
        if node.op != "call_function":
            return None if node.name in self.stored else _fixed_like(node.meta.get("val"))
        name = _operation(node)
        if name in _RULES:
            return _RULES[name](self, node)
        inputs = [self.values[n] for n in node.all_input_nodes]
        if any(value is None for value in inputs):
            return self.unknown(node)
        if name in MOVES:
            return self._moved(node)
        if name in KEEPS_ZERO and len(inputs) == 1:
            return inputs[0]
        return self.unknown(node)

    def unknown(self, node: torch.fx.Node) -> Any:
        """Whatever the operation does, what goes in stays whole."""
        self.fix([self.values[n] for n in node.all_input_nodes])
        for parameter in self.parameters(node):
            self.fix(self.rows(parameter))
        return _fixed_like(node.meta.get("val"))

    def _moved(self, node: torch.fx.Node) -> Any:
        args = torch.fx.map_arg(node.args, lambda n: self.values[n])
        aten = torch.ops.aten
        target: Any = node.target if node.target is not aten.view.default else aten.reshape.default
        moved = target(*args, **node.kwargs)  # labels lie in memory otherwise than activations
        for labels in [moved] if isinstance(moved, Tensor) else moved:
            axes = self.axes(labels)
            if len(axes) == 2 and self.heads and _inferred(node, axes[0]):
                self.tie(labels, labels.narrow(axes[1], 0, 1).expand_as(labels))
                self.split.append(labels.flatten())
            elif len(axes) > 1:  # tiles, or heads that stay
                self.fix(labels)
        return moved

    # labels

    def find(self, label: int) -> int:
        while self.parent[label] != label:
            self.parent[label] = self.parent[self.parent[label]]
            label = self.parent[label]
        return label

    def roots(self, labels: Tensor) -> Tensor:
        """The labels after everything tied so far."""
        found, where = labels.unique(return_inverse=True)
        return torch.tensor([self.find(label) for label in found.tolist()], dtype=torch.long)[where]

    def tie(self, first: Tensor, second: Tensor) -> None:
        if not first.numel():  # an empty part
            return
        pairs = torch.stack([first.flatten(), second.flatten()]).unique(dim=1)
        for one, other in pairs.T.tolist():
            one, other = self.find(one), self.find(other)
            self.parent[max(one, other)] = min(one, other)  # FIXED is the smallest

    def fix(self, value: Any) -> None:
        for labels in value if isinstance(value, list | tuple) else [value]:
            if isinstance(labels, list | tuple):
                self.fix(labels)
            elif labels is not None:
                self.tie(labels, torch.full_like(labels, FIXED))

    def axes(self, labels: Tensor) -> list[int]:
        """The dimensions along which the channel changes."""
        roots = self.roots(labels)
        long = [d for d in range(roots.dim()) if roots.shape[d] > 1]  # a part may be empty
        return [d for d in long if bool((roots != roots.narrow(d, 0, 1)).any())]

    def along(self, labels: Tensor, dim: int) -> Tensor:
        """(size,) the channel at each place of `dim`; fixed if another dimension changes it."""
        lines = self.roots(labels).movedim(dim, 0).flatten(1)
        if bool((lines != lines[:, :1]).any()):
            self.fix(labels)
        return self.roots(lines[:, 0])

    def given(self, node: torch.fx.Node) -> list[Any]:
        """The first two arguments: labels of activations, None for what is stored, numbers."""
        return [self.values[a] if isinstance(a, torch.fx.Node) else a for a in node.args[:2]]

    # what is stored in the model

    def parameters(self, node: torch.fx.Node) -> list[str]:
        return [self.stored[n.name][0] for n in node.all_input_nodes if n.name in self.stored]

    def rows(self, name: str) -> Tensor:
        """The labels of a stored tensor's rows, new where it is met for the first time."""
        made, follows = self.labels["made"], self.labels["follows"]
        if name in follows:
            return follows[name]
        if name not in made:
            count = next(size for known, size in self.stored.values() if known == name)
            made[name] = torch.arange(len(self.parent), len(self.parent) + count)
            self.parent.extend(made[name].tolist())
        return made[name]

    def reads(self, name: str, channels: Tensor) -> None:
        read = self.labels["read"]
        self.tie(read.setdefault(name, channels), channels)

    def made_by(self, node: torch.fx.Node) -> Tensor:
        """The rows of a layer's weight, with its bias tied to them."""
        weight, *bias = self.parameters(node)
        rows = self.rows(weight)
        for name in bias:
            self.tie(self.rows(name), rows)
        return rows

    # groups

    def groups(self, keep: tuple[str, ...]) -> Iterator[ChannelGroup]:
        heads, split = self.roots(torch.cat(self.attended)), self.roots(torch.cat(self.split))
        self.fix(split[~torch.isin(split, heads)])  # split, but into no heads of attention
        for name, labels in self.labels["made"].items():
            if name.startswith(keep):
                self.fix(labels)
        entries: dict[int, dict[tuple[Role, str], list[int]]] = {}
        for role, table in self.labels.items():
            for name, labels in table.items():
                for place, label in enumerate(self.roots(labels).tolist()):
                    if label != FIXED:
                        entries.setdefault(label, {}).setdefault((role, name), []).append(place)
        alike: dict[tuple[Any, ...], list[dict[tuple[Role, str], list[int]]]] = {}
        for places in entries.values():
            shape = tuple((carrier, len(index)) for carrier, index in places.items())
            alike.setdefault(shape, []).append(places)
        for channels in alike.values():
            index: dict[Role, dict[str, Tensor]] = {"made": {}, "follows": {}, "read": {}}
            for role, name in channels[0]:
                index[role][name] = torch.tensor([places[role, name] for places in channels])
            if index["made"] and index["read"]:
                yield ChannelGroup(next(iter(index["made"])), len(channels), **index)


def _linear(trace: _Trace, node: torch.fx.Node) -> Any:
    if not _is_layer(trace, node):
        return trace.unknown(node)
    rows = trace.made_by(node)
    trace.reads(trace.parameters(node)[0], trace.along(trace.values[node.args[0]], -1))
    return rows.expand(node.meta["val"].shape)


def _convolution(trace: _Trace, node: torch.fx.Node) -> Any:
    if not _is_layer(trace, node):
        return trace.unknown(node)
    shape = node.meta["val"].shape
    channels = trace.along(trace.values[node.args[0]], 1)
    groups = node.args[6] if len(node.args) > 6 else 1
    rows = trace.made_by(node)
    if groups == 1:
        trace.reads(trace.parameters(node)[0], channels)
    elif groups == len(rows) == len(channels):
        trace.tie(rows, channels)
    else:
        trace.fix([rows, channels])
    return rows.view(-1, *[1] * (len(shape) - 2)).expand(shape)


def _batch_norm(trace: _Trace, node: torch.fx.Node) -> Any:
    labels = trace.values[node.args[0]]
    scale = node.args[1]
    if labels is None or not isinstance(scale, torch.fx.Node):
        return trace.unknown(node)  # without a scale the mean of a zero channel shows
    channels = trace.along(labels, 1)
    running = [n for n in node.args[3:5] if isinstance(n, torch.fx.Node)]
    statistics = [trace.stored[n.name][0] for n in running]
    for name in trace.parameters(node):
        if name in statistics:
            trace.labels["follows"][name] = channels
        else:
            trace.tie(trace.rows(name), channels)
    return labels


def _sum(trace: _Trace, node: torch.fx.Node) -> Any:
    operands = trace.given(node)
    if any(operand is None for operand in operands):
        return trace.unknown(node)
    labels = [o.expand(node.meta["val"].shape) for o in operands if isinstance(o, Tensor)]
    if len(labels) == 2:
        trace.tie(*labels)
    elif not any(isinstance(o, int | float) and o == 0 for o in operands):
        trace.fix(labels)
    return labels[0]


def _product(trace: _Trace, node: torch.fx.Node) -> Any:
    operands = trace.given(node)
    if any(operand is None for operand in operands):
        return trace.unknown(node)
    shape = node.meta["val"].shape
    labels = [o for o in operands if isinstance(o, Tensor)]
    if len(labels) == 2:
        first, second = labels
        for one, other in ((first, second), (second, first)):
            spread = [other.shape[d - len(shape)] for d in trace.axes(one.expand(shape))
                      if len(shape) - d <= other.dim()]  # fmt: skip
            if all(size == 1 for size in spread) and not trace.roots(other).any():
                return one.expand(shape)  # scaled as a whole, nothing to keep in step
        trace.tie(first.expand(shape), second.expand(shape))
    return labels[0].expand(shape)


def _attention(trace: _Trace, node: torch.fx.Node) -> Any:
    """A head whose values are zero gives zeros, whatever its queries and keys are."""
    inputs = [trace.values[n] for n in node.args[:3]]
    if any(each is None or each.dim() < 4 for each in inputs):
        return trace.unknown(node)
    trace.fix([trace.values[n] for n in node.all_input_nodes if n not in node.args[:3]])  # a mask
    shape = node.meta["val"].shape
    query, key, value = (
        labels.repeat_interleave(shape[-3] // len(labels))
        for labels in (trace.along(each, -3) for each in inputs)
    )
    made, follows = trace.labels["made"], trace.labels["follows"]
    for name, rows in list(made.items()):
        roots = trace.roots(rows)
        reads = torch.isin(roots, torch.cat([query, key])) & (roots != FIXED)
        if reads.any() and not torch.isin(roots, value).any():
            follows[name] = made.pop(name)
    trace.tie(query, value)
    trace.tie(key, value)
    trace.attended.append(value)
    return value.view(-1, 1, 1).expand(shape)


def _mean(trace: _Trace, node: torch.fx.Node) -> Any:
    labels, *rest = trace.given(node)
    dims: Any = rest[0] if rest else None
    if labels is None or not dims or {d % labels.dim() for d in dims} & {*trace.axes(labels)}:
        return trace.unknown(node)
    keepdim = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
    return labels.amax(tuple(dims), keepdim=bool(keepdim))


def _pool(trace: _Trace, node: torch.fx.Node) -> Any:
    labels, shape = trace.values[node.args[0]], getattr(node.meta.get("val"), "shape", None)
    if labels is None or shape is None:
        return trace.unknown(node)
    return trace.along(labels, 1).view(-1, *[1] * (len(shape) - 2)).expand(shape)


def _pad(trace: _Trace, node: torch.fx.Node) -> Any:
    """Zeros around places (or places again) keep a zero channel zero."""
    labels, sizes = trace.given(node)
    said = [*node.args[2:], *node.kwargs.values()]
    if labels is None or len(sizes) > 2 * (labels.dim() - 2):
        return trace.unknown(node)
    if any(isinstance(value, int | float) and value != 0 for value in said):
        return trace.unknown(node)
    return _pool(trace, node)


_RULES: dict[str, Callable[[_Trace, torch.fx.Node], Any]] = {
    "linear": _linear,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    "batch_norm": _batch_norm,
    **dict.fromkeys(("add", "add_", "sub"), _sum),
    **dict.fromkeys(("mul", "mul_"), _product),
    "mean": _mean,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
}


def _is_layer(trace: _Trace, node: torch.fx.Node) -> bool:
    """Whether the node applies a stored weight to an activation."""
    activation, weight = node.args[:2]
    stored = isinstance(weight, torch.fx.Node) and weight.name in trace.stored
    return stored and trace.values[activation] is not None


def _inferred(node: torch.fx.Node, axis: int) -> bool:
    """Whether the size of this axis follows from the others, so that fewer heads fit."""
    sizes = node.args[1] if _operation(node) in ("view", "reshape") else ()
    return isinstance(sizes, list | tuple) and len(sizes) > axis and sizes[axis] == -1


def _operation(node: torch.fx.Node) -> str:
    """`relu` of `aten.relu.default`, `getitem` of the built-in."""
    packet = getattr(node.target, "overloadpacket", node.target)
    return packet.__name__  # type: ignore[union-attr]


def _fixed_like(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.full(value.shape, FIXED)
    return [_fixed_like(v) for v in value] if isinstance(value, list | tuple) else None


def _exported(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> torch.export.ExportedProgram:
    training = model.training
    try:
        return torch.export.export(model.eval(), args, kwargs, strict=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"the model cannot be traced on this example: {reason}") from error
    finally:
        model.train(training)


def _canonical(model: nn.Module, names: Mapping[str, str]) -> dict[str, tuple[str, int]]:
    """Placeholder → (name, rows) of what is stored; a tensor under two names goes by its first."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    every = dict(model.named_parameters(remove_duplicate=False))
    first = {id(tensor): name for name, tensor in reversed(tensors.items())}
    known = {}
    for placeholder, name in names.items():
        tensor = every.get(name, tensors.get(name))
        if tensor is not None:
            rows = tensor.shape[0] if tensor.dim() else 1
            known[placeholder] = (first[id(tensor)], rows)
    return known


def _cut(model: nn.Module, name: str, dim: int, gone: Tensor) -> None:
    """Removes entries of one stored tensor, and corrects the sizes its layer states."""
    path, _, leaf = name.rpartition(".")
    layer = model.get_submodule(path)
    tensor = getattr(layer, leaf)
    kept = torch.ones(tensor.shape[dim], dtype=torch.bool)
    kept[gone] = False
    smaller = tensor.detach().index_select(dim, kept.nonzero().flatten().to(tensor.device))
    if isinstance(tensor, nn.Parameter):
        setattr(layer, leaf, nn.Parameter(smaller, requires_grad=tensor.requires_grad))
    else:
        setattr(layer, leaf, smaller)
    if leaf == "weight":
        _resize(layer, dim, smaller.shape[dim])


def _resize(layer: nn.Module, dim: int, size: int) -> None:
    stated = ("out_features", "out_channels", "num_features") if dim == 0 else ("in_features",)
    for attribute in stated:
        if hasattr(layer, attribute):
            setattr(layer, attribute, size)
    if isinstance(layer, nn.modules.conv._ConvNd):
        if dim == 1:
            layer.in_channels = size
        elif layer.groups > 1:  # depthwise: one filter a channel
            layer.groups = layer.in_channels = size


def _evaluated(model: nn.Module, inputs: tuple[Any, ...]) -> Any:
    training = model.training
    try:
        return model.eval()(*inputs)
    finally:
        model.train(training)


def _first_tensor(output: Any) -> Tensor:
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    return output
