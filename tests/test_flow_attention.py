import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from generality.measures import attention_entropy, attention_rank, length_scaling, memory_of
from generality.modules import FlowAttention, flow_attend, flow_weights, register_flow_attention

Q = torch.tensor([[0.0, 1], [1, 0], [-1, 2]])[None, None]
K = torch.tensor([[1.0, 0], [0, -1], [2, 1]])[None, None]
V = torch.tensor([[1.0, 0], [0, 1], [2, -1]])[None, None]


def parts(q: Tensor, k: Tensor, **options) -> tuple[Tensor, Tensor, Tensor]:
    """Shares of the flow into each sink, competition and allocation, read off the weights."""
    alone = {"competition": False, "allocation": False}
    rows = flow_weights(q, k, **alone)
    competition = flow_weights(q, k, **alone | {"competition": True}, **options) / rows
    allocation = flow_weights(q, k, **alone | {"allocation": True}, **options) / rows
    return rows, competition[..., 0, :], allocation[..., 0]


def close(found: Tensor, wanted: list, atol: float = 1e-5) -> None:
    torch.testing.assert_close(
        found.squeeze(), torch.tensor(wanted, dtype=found.dtype), atol=atol, rtol=0
    )


def test_flows_are_those_of_the_released_module():
    flows = Q.sigmoid() @ K.sigmoid().mT
    alone = {"competition": False, "allocation": False}
    close((flows / flow_weights(Q, K, **alone))[..., 0], [2.15252, 2.29390, 1.88917])
    close((flows.mT / flow_weights(K, Q, **alone))[..., 0], [2.15252, 1.31797, 2.86509])
    _rows, competition, allocation = parts(Q, K, clamp=1)
    close(competition, [1.11722, 0.76557, 1.11722])
    close(allocation, [0.73473, 0.74953, 0.70788])
    close(allocation.logit(), [1.01875, 1.09613, 0.88513])
    close(parts(Q, K)[1].log().diff(), [0.62203 - 1.01879, 1.35918 - 0.62203])
    wanted = [[1.02229, -0.25504], [1.02336, -0.24342], [1.00412, -0.26220]]
    close(flow_attend(Q, K, V, clamp=1), wanted)


def test_causal_outputs_are_those_of_the_released_module():
    wanted = [[0.73106, 0], [0.45413, 0.24562], [0.95495, -0.24185]]
    close(flow_attend(Q, K, V, clamp=1, causal=True), wanted)


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9), st.sampled_from([0.1, 1.0, 8.0]))
def test_flow_is_conserved(sinks, sources, seed, scale):
    q, k = random(1, 2, sinks, 3, seed=seed, scale=scale), random(1, 2, sources, 3, seed=seed + 1)
    rows, competition, allocation = parts(q, k)
    torch.testing.assert_close(rows.sum(-1), torch.ones(1, 2, sinks).double())
    conserved = allocation.logit().sum(-1) * sources / sinks  # of sinks, in units of sources
    for total in (competition.sum(-1), conserved):
        torch.testing.assert_close(total, torch.full_like(total, sources))


def unblocked(q: Tensor, k: Tensor, v: Tensor, clamp: float | None, kernel=torch.sigmoid) -> Tensor:
    """The paper's equations as they stand."""
    q, k = kernel(q) + 1e-6, kernel(k) + 1e-6
    sinks, sources = q.shape[2], k.shape[2]
    incoming = (q * k.sum(2, keepdim=True)).sum(-1, keepdim=True)
    outgoing = (k * q.sum(2, keepdim=True)).sum(-1, keepdim=True)
    sink = (q * (k / outgoing).sum(2, keepdim=True)).sum(-1, keepdim=True)
    source = (k * (q / incoming).sum(2, keepdim=True)).sum(-1, keepdim=True)
    source = source if clamp is None else source.clamp(-clamp, clamp)
    value = v * source.softmax(2) * sources
    return (sink * sinks / sources).sigmoid() * (q / incoming @ (k.transpose(-1, -2) @ value))


@pytest.mark.parametrize(("sinks", "sources"), [(300, 300), (5, 400), (400, 129)])
@pytest.mark.parametrize("clamp", [None, 5.0])
def test_blocks_change_neither_outputs_nor_gradients(sinks, sources, clamp, monkeypatch):
    monkeypatch.setattr("generality.modules.flow_attention._BLOCK", 1)  # 64 tokens each
    lengths = (sinks, sources, sources)
    inputs = [random(2, 2, n, 4, seed=n).requires_grad_() for n in lengths]
    found, wanted = flow_attend(*inputs, clamp=clamp), unblocked(*inputs, clamp)
    torch.testing.assert_close(found, wanted)
    outward = random(*found.shape, seed=9)
    grads = (torch.autograd.grad((out * outward).sum(), inputs) for out in (found, wanted))
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs)
    with torch.no_grad():
        torch.testing.assert_close(flow_attend(*inputs, clamp=clamp), found)
        narrow = [x.float() for x in inputs]
        torch.testing.assert_close(
            flow_attend(*narrow, clamp=clamp), found.float(), atol=1e-5, rtol=1e-4
        )


def test_a_softmax_over_blocks_does_not_overflow(monkeypatch):
    monkeypatch.setattr("generality.modules.flow_attention._BLOCK", 1)
    k = random(1, 1, 300, 4).relu() ** 8  # a few sources get nearly all the flow
    q, v = random(1, 1, 3000, 4, seed=1), random(1, 1, 300, 4, seed=2)
    found = flow_attend(q, k, v, kernel=torch.abs)
    torch.testing.assert_close(found, unblocked(q, k, v, None, torch.abs))
    assert flow_attend(q.float(), k.float(), v.float(), kernel=torch.abs).isfinite().all()


def test_order_of_sources_does_not_matter_and_weights_are_the_output():
    q, k, v = (random(2, 2, 7, 4, seed=seed) for seed in range(3))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    out = flow_attend(q, k, v)
    torch.testing.assert_close(flow_attend(q, k[:, :, order], v[:, :, order]), out)
    for causal in (False, True):
        weights = flow_weights(q, k, causal=causal)
        torch.testing.assert_close(weights @ v, flow_attend(q, k, v, causal=causal))


def naive_causal(q: Tensor, k: Tensor, v: Tensor, clamp: float | None) -> Tensor:
    """The released causal module, written out with a state per token (and 1e-6 on the terms)."""
    q, k = q.sigmoid() + 1e-6, k.sigmoid() + 1e-6
    n = torch.arange(1, q.shape[2] + 1).double()
    incoming = (q * k.cumsum(2)).sum(-1) / n
    outgoing = (k * q.cumsum(2)).sum(-1) / n
    sink = (q * (k / outgoing[..., None]).cumsum(2)).sum(-1) / n
    source = (k * (q / incoming[..., None]).cumsum(2)).sum(-1) / n
    source = source if clamp is None else source.clamp(-clamp, clamp)
    competition = source.exp() / source.exp().cumsum(-1) * n
    states = (k[..., None] * (v * competition[..., None])[..., None, :]).cumsum(2)
    out = torch.einsum("bhnd,bhndm->bhnm", q / (incoming * n)[..., None], states)
    return out * sink.sigmoid()[..., None]


@pytest.mark.parametrize("tokens", [1, 127, 128, 300])
@pytest.mark.parametrize("clamp", [None, 5.0])
def test_chunks_and_blocks_change_nothing(tokens, clamp, monkeypatch):
    monkeypatch.setattr("generality.modules.flow_attention._BLOCK", 256 * 8)  # 256 tokens each
    inputs = [random(1, 2, tokens, 4, seed=seed).requires_grad_() for seed in range(3)]
    found, wanted = flow_attend(*inputs, causal=True, clamp=clamp), naive_causal(*inputs, clamp)
    torch.testing.assert_close(found, wanted)
    grads = (torch.autograd.grad((out**2).sum(), inputs) for out in (found, wanted))
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs)
    with torch.no_grad():
        torch.testing.assert_close(flow_attend(*inputs, causal=True, clamp=clamp), found)


def test_the_future_does_not_reach_the_past():
    q, k, v = (random(1, 1, 200, 4, seed=seed).requires_grad_() for seed in range(3))
    flow_attend(q, k, v, causal=True)[:, :, 149].sum().backward()
    for x in (q, k, v):
        assert x.grad[:, :, 150:].abs().max() == 0
        assert x.grad[:, :, :150].abs().max() > 0


@pytest.mark.parametrize("causal", [False, True])
def test_a_loss_over_padding_too_has_finite_gradients(causal):
    x, real = random(2, 1, 6, 3).float().requires_grad_(), torch.ones(2, 6, dtype=torch.bool)
    real[0, 3:], real[1] = False, False
    flow_attend(x, x, x, causal=causal, sink_mask=real, source_mask=real).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad[:, 0][~real].abs().max() == 0


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_right(causal, monkeypatch):
    monkeypatch.setattr("generality.modules.flow_attention._CHUNK", 2)  # blocks of one chunk
    monkeypatch.setattr("generality.modules.flow_attention._BLOCK", 1)
    inputs = [random(1, 1, 5, 3, seed=seed).requires_grad_() for seed in range(3)]
    assert torch.autograd.gradcheck(lambda *x: flow_attend(*x, causal=causal), inputs)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("left", [False, True])
def test_padding_is_as_if_it_were_not_there(causal, left):
    attention = FlowAttention(8, 2, batch_first=True, causal=causal)
    x = random(2, 6, 8).float().requires_grad_()
    padding = torch.zeros(2, 6, dtype=torch.bool)
    kept = slice(2, None) if left else slice(None, 4)
    padding[0, : 2 if left else None] = left
    padding[0, 4:] |= not left
    out, _ = attention(x, x, x, key_padding_mask=padding)
    short = x[:1, kept]
    alone, _ = attention(short, short, short)
    torch.testing.assert_close(out[:1, kept], alone)
    added = torch.zeros(2, 6).masked_fill(padding, -torch.inf)
    torch.testing.assert_close(attention(x, x, x, key_padding_mask=added)[0], out)
    out[0, kept].sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad[0][padding[0]].abs().max() == 0


def test_a_row_of_padding_alone_gives_numbers():
    x, nothing = random(1, 1, 4, 3), torch.zeros(1, 4, dtype=torch.bool)
    for causal in (False, True):
        out = flow_attend(x, x, x, causal=causal, sink_mask=nothing, source_mask=nothing)
        assert out.abs().max() == 0


@pytest.mark.parametrize("causal", [False, True])
def test_nothing_asked_and_nothing_there(causal):
    some, none = random(2, 1, 3, 4), random(2, 1, 0, 4)
    assert flow_attend(none, none, none, causal=causal).shape == (2, 1, 0, 4)
    assert flow_attend(some[:0], some[:0], some[:0], causal=causal).shape == (0, 1, 3, 4)
    if not causal:
        assert flow_attend(some, none, none).abs().max() == 0
    with pytest.raises(ValueError, match="source_mask is of 2 tokens, and there are 3"):
        flow_attend(some, some, some, causal=causal, source_mask=torch.ones(2, 2).bool())


def test_extreme_scores_stay_finite():
    x = random(1, 1, 64, 4, scale=200).float().requires_grad_()
    for kernel in ("sigmoid", "relu", "elu1"):
        for causal in (False, True):
            out = flow_attend(x, x, x, causal=causal, kernel=kernel)
            (grad,) = torch.autograd.grad(out.sum(), x)
            assert out.isfinite().all()
            assert grad.isfinite().all()


def test_without_competition_and_allocation_it_is_linear_attention_or_a_mean():
    q, k, v = (random(1, 1, 5, 4, seed=seed) for seed in range(3))
    plain = {"competition": False, "allocation": False}
    a, b = (nn.functional.elu(x) + 1 + 1e-6 for x in (q, k))
    scores = a @ b.transpose(-1, -2)
    wanted = scores / scores.sum(-1, keepdim=True) @ v
    torch.testing.assert_close(flow_attend(q, k, v, kernel="elu1", **plain), wanted)
    mean = flow_attend(q, k, v, kernel="uniform", **plain)
    torch.testing.assert_close(mean, v.mean(-2, keepdim=True).expand_as(v))


def test_it_has_the_weights_and_shapes_of_multi_head_attention():
    theirs, mine = nn.MultiheadAttention(8, 2), FlowAttention(8, 2)
    mine.load_state_dict(theirs.state_dict())
    q, k = random(3, 4, 8).float(), random(5, 4, 8).float()
    (out, weights), (softmax, other) = mine(q, k, k, need_weights=True), theirs(q, k, k)
    assert out.shape == softmax.shape
    assert weights.shape == other.shape
    assert mine(q, k, k)[1] is None
    assert mine(q[:, 0], k[:, 0], k[:, 0])[0].shape == (3, 8)
    wide = FlowAttention(8, 2, kdim=6, vdim=4, bias=False)
    assert wide(q, random(5, 4, 6).float(), random(5, 4, 4).float())[0].shape == (3, 4, 8)


def test_an_encoder_layer_uses_it_in_training_and_in_evaluation():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    layer.self_attn = FlowAttention(8, 2, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = random(2, 5, 8).float()
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    for options in ({}, {"mask": causal}, {"src_key_padding_mask": torch.eye(5).bool()[[3, 4]]}):
        trained = encoder.train()(x, **options)
        with torch.inference_mode():
            torch.testing.assert_close(encoder.eval()(x, **options), trained)


def test_sums_are_wide_under_autocast():
    x = random(1, 2, 3000, 8).bfloat16()
    wide = flow_attend(*[x.float()] * 3)
    torch.testing.assert_close(flow_attend(x, x, x).float(), wide, atol=2e-2, rtol=2e-2)
    with torch.autocast("cpu"):
        torch.testing.assert_close(flow_attend(*[x.float()] * 3), wide)


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda: FlowAttention(8, 2, add_zero_attn=True), "add_zero_attn"),
        (lambda: FlowAttention(8, 2, kernel="cosine"), "kernel"),
        (lambda: flow_attend(Q, K[:, :, :2], V[:, :, :2], causal=True), "as many queries as keys"),
        (lambda: FlowAttention(2, 1)(*[Q[0, 0]] * 3, attn_mask=torch.zeros(3, 3)), "attn_mask"),
        (lambda: FlowAttention(2, 1, batch_first=True)(
            *[Q[0]] * 3, key_padding_mask=torch.ones(1, 3)), "0 and -inf"),
    ],
)  # fmt: skip
def test_what_flows_cannot_do_is_refused(make, wrong):
    with pytest.raises(ValueError, match=wrong):
        make()


def test_models_of_transformers_take_it_by_name():
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

    sizes = {
        "vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2,
        "num_attention_heads": 2, "attn_implementation": register_flow_attention(),
    }  # fmt: skip
    ids, mask = torch.arange(1, 7)[None], torch.tensor([[1, 1, 1, 1, 0, 0]])
    bert = BertModel(BertConfig(**sizes)).eval()
    full = bert(ids[:, :4]).last_hidden_state
    torch.testing.assert_close(bert(ids, attention_mask=mask).last_hidden_state[:, :4], full)
    llama = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=1)).eval()
    logits = llama(ids, use_cache=False).logits
    torch.testing.assert_close(llama(ids[:, :4], use_cache=False).logits, logits[:, :4])
    told = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False, "use_cache": False}
    assert llama.generate(ids, **told).shape == (1, 8)  # an end by chance would stop it


@pytest.mark.parametrize("causal", [False, True])
def test_memory_is_linear_and_that_of_a_matrix_is_not(causal):
    def forward(length):
        x = torch.zeros(1, 1, length, 16, requires_grad=True)
        return lambda: flow_attend(x, x, x, causal=causal)

    def matrix(length):
        x = torch.zeros(1, 1, length, 16)
        return lambda: (x @ x.transpose(-1, -2)).softmax(-1) @ x

    flows = length_scaling(forward, [4096, 16384], repeats=1)
    scores = length_scaling(matrix, [512, 2048], repeats=1)
    assert 0.9 < flows.memory_exponent < 1.05
    assert flows.saved[1] < 4.2 * flows.saved[0]
    assert scores.memory_exponent > 1.9


def test_memory_counts_storages_once_and_forgets_what_is_gone():
    x = torch.ones(1000, requires_grad=True)
    used = memory_of(lambda: x.view(10, 100).T.exp().exp())
    assert (used.saved, used.peak, used.result) == (8000, 8000, 4000)
    frozen = memory_of(lambda: x.detach().exp().exp().exp())
    assert (frozen.saved, frozen.peak) == (0, 8000)


def test_entropy_and_rank_by_hand():
    rows = torch.tensor([[1.0, 1, 2], [0, 3, 1]])
    nats = attention_entropy(rows, relative=False).float()
    close(nats, [1.03972, 0.56234])
    close(attention_entropy(rows).float(), [0.94639, 0.81128])
    assert attention_rank(torch.diag(torch.tensor([1.0, 1, 0]))).item() == pytest.approx(2)
    with pytest.raises(ValueError, match="negative"):
        attention_entropy(-rows)
