"""The loop against a plain one; resuming bit for bit; faults."""

import dataclasses
import math
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from generality.errors import UserError
from generality.lab.checkpoints import Checkpoints
from generality.lab.embedding_gradients import EmbeddingGradients
from generality.lab.train import EarlyStop, TrainConfig, cheapest_cuts, train
from generality.objectives import ConfidenceLoss, soft_cross_entropy


class Reader(nn.Module):
    """A small network in which padding, attention and dropout all matter."""

    def __init__(self, classes=2, dropout=0.0, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(50, 16, padding_idx=0)
        self.mix = nn.TransformerEncoderLayer(16, 2, 32, dropout, batch_first=True)
        self.unused = nn.Linear(3, 3)  # as the pooler of many encoders is
        self.head = nn.Linear(16, classes)

    def forward(self, input_ids, attention_mask):
        hidden = self.mix(self.embed(input_ids), src_key_padding_mask=attention_mask == 0)
        shown = attention_mask[..., None]
        return self.head((hidden * shown).sum(1) / shown.sum(1))


class Speaker(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out = nn.Embedding(50, 8), nn.Linear(8, 50)

    def forward(self, input_ids, attention_mask, labels):
        logits = self.out(self.embed(input_ids))[:, :-1]
        return nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())


def texts(n=40, classes=2, seed=0, longest=20):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (n,), generator=g).tolist()
    return [
        {
            "input_ids": torch.randint(1, 50, (length,), generator=g).tolist(),
            "targets": torch.softmax(2 * torch.randn(classes, generator=g), -1).tolist(),
        }
        for length in lengths
    ]


def padded(batch):
    ids = nn.utils.rnn.pad_sequence([torch.tensor(e["input_ids"]) for e in batch], True)
    return ids, (ids != 0).long(), torch.tensor([e["targets"] for e in batch])


def bare_loop(model, examples, loss, optimizer, schedule, epochs, batch_size, seed, clip=None):
    """Whole batches, one padding, torch's own scheduler."""
    step, total = 0, epochs * math.ceil(len(examples) / batch_size)
    rule = schedule(optimizer, total)
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    history = []
    for _ in range(epochs):
        for rows in torch.randperm(len(examples), generator=generator).split(batch_size):
            ids, mask, targets = padded([examples[i] for i in rows.tolist()])
            value = loss(model(ids, mask), targets, step / total)
            optimizer.zero_grad()
            value.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            rule.step()
            history.append(value.item())
            step += 1
    return history


def same_weights(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("bucketing", ["within-batch", "none"])
@pytest.mark.parametrize(
    ("name", "kind", "schedule", "clip"),
    [
        ("adam", torch.optim.Adam, "cosine", None),
        ("adamw", torch.optim.AdamW, "linear", 0.1),
        ("sgd", torch.optim.SGD, "constant", None),
    ],
)
def test_equals_a_plain_loop_over_whole_batches(bucketing, name, kind, schedule, clip):
    schedules = {
        "cosine": torch.optim.lr_scheduler.CosineAnnealingLR,
        "linear": lambda o, n: torch.optim.lr_scheduler.LambdaLR(o, lambda i: 1 - i / n),
        "constant": lambda o, n: torch.optim.lr_scheduler.LambdaLR(o, lambda i: 1.0),
    }
    examples, loss = texts(43), ConfidenceLoss(0.75)
    config = TrainConfig(
        epochs=2,
        batch_size=16,
        micro_batch_size=5,
        learning_rate=1e-3,
        weight_decay=0.1,
        optimizer=name,
        schedule=schedule,
        max_grad_norm=clip,
        bucketing=bucketing,
    )
    ours, plain = Reader(), Reader()
    result = train(ours, examples, loss, config, seed=7, device="cpu")
    optimizer = kind(plain.parameters(), lr=1e-3, weight_decay=0.1)
    history = bare_loop(plain, examples, loss, optimizer, schedules[schedule], 2, 16, 7, clip)
    assert result.steps == len(history) == 6
    assert result.history == pytest.approx(history, abs=1e-5)
    for name, weight in plain.named_parameters():
        if name == "mix.self_attn.in_proj_bias":
            continue  # the keys' bias has a gradient of rounding noise, which Adam makes large
        torch.testing.assert_close(dict(ours.named_parameters())[name], weight, atol=1e-4, rtol=0)


@settings(max_examples=10, deadline=None)
@given(micro=st.none() | st.integers(1, 50), n=st.integers(1, 30), batch=st.integers(1, 32))
def test_micro_batches_change_nothing(micro, n, batch):
    def trained(size):
        model = Reader()
        config = TrainConfig(
            epochs=1, batch_size=batch, micro_batch_size=size, optimizer="sgd", learning_rate=0.1
        )
        train(model, texts(n), soft_cross_entropy, config, seed=0, device="cpu")
        return model

    for a, b in zip(trained(micro).parameters(), trained(64).parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("bucketing", ["within-batch", "across-batches", "none"])
def test_every_example_is_seen_once_an_epoch(bucketing):
    seen = []
    examples = [{**e, "number": i} for i, e in enumerate(texts(75))]

    def collate(batch):
        seen.extend(e["number"] for e in batch)
        ids, mask, _ = padded([{**e, "targets": [1.0, 0.0]} for e in batch])
        return {"input_ids": ids, "attention_mask": mask}

    config = TrainConfig(epochs=2, batch_size=10, bucketing=bucketing)
    train(Reader(), examples, soft_cross_entropy, config, seed=1, device="cpu", collate=collate)
    assert sorted(seen[:75]) == sorted(seen[75:]) == list(range(75))
    assert seen[:75] != seen[75:]


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=7).map(sorted),
    pass_tokens=st.integers(0, 60),
)
def test_cuts_are_the_cheapest_of_all(lengths, pass_tokens):
    def cost(ends):
        starts = [0, *ends[:-1]]
        tokens = sum((e - s) * lengths[e - 1] for s, e in zip(starts, ends, strict=True))
        return tokens + pass_tokens * len(ends)

    n = len(lengths)
    every = [[*inner, n] for k in range(n) for inner in combinations(range(1, n), k)]
    ends = cheapest_cuts(lengths, pass_tokens)
    assert ends[-1] == n
    assert ends == sorted(set(ends))
    assert cost(ends) == min(map(cost, every))


def test_buckets_pad_less():
    def padding(bucketing):
        cells = 0

        def collate(batch):
            nonlocal cells
            ids, mask, _ = padded([{**e, "targets": [1.0, 0.0]} for e in batch])
            cells += ids.numel()
            return {"input_ids": ids, "attention_mask": mask}

        config = TrainConfig(epochs=1, batch_size=32, bucketing=bucketing)
        examples = texts(320)
        train(Reader(), examples, soft_cross_entropy, config, seed=1, device="cpu", collate=collate)
        return cells / sum(len(e["input_ids"]) for e in examples)

    none, within, across = map(padding, ("none", "within-batch", "across-batches"))
    assert across < within < none
    assert across < 1.1


def test_own_loss_is_weighted_by_labels_and_next_tokens_are_the_default():
    examples = [{"input_ids": e["input_ids"]} for e in texts(24)]
    config = TrainConfig(
        epochs=1, batch_size=24, micro_batch_size=5, optimizer="sgd", learning_rate=0.5
    )
    ours, plain = Speaker(), Speaker()
    result = train(ours, examples, None, config, seed=0, device="cpu")

    ids, mask, _ = padded([{**e, "targets": [0.0]} for e in examples])
    value = plain(ids, mask, ids.masked_fill(mask == 0, -100))
    value.backward()
    assert result.history == pytest.approx([value.item()], abs=1e-5)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b - 0.5 * b.grad, atol=1e-5, rtol=1e-4)


def test_same_seed_same_weights_and_the_callers_generator_is_untouched():
    config = TrainConfig(epochs=2, dropout=True, learning_rate=1e-3)
    models = [Reader(dropout=0.3) for _ in range(3)]
    state = torch.get_rng_state()
    for model, seed in zip(models, (1, 1, 2), strict=True):
        train(model, texts(), soft_cross_entropy, config, seed=seed, device="cpu")
        assert not model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert same_weights(models[0], models[1])
    assert not same_weights(models[0], models[2])


@pytest.mark.parametrize("tied", [False, True])
def test_embedding_gradients_are_those_of_autograd(tied):
    def network():
        model = Speaker()
        model.embed = nn.Embedding(50, 8, padding_idx=3)
        model.embed.weight.data.copy_(torch.arange(400.0).reshape(50, 8) / 400)
        if tied:
            model.out.weight = model.embed.weight
        return model

    ours, plain = network(), network()
    gradients = EmbeddingGradients(ours)
    for step in range(3):  # the second step must not see the rows of the first
        ids = torch.randint(0, 50, (2, 4, 6), generator=torch.Generator().manual_seed(step))
        gradients.clear()
        for model in (ours, plain):
            model.zero_grad()
            sum(model(part, None, part) for part in ids).backward()
        gradients.gather()
        torch.testing.assert_close(ours.embed.weight.grad, plain.embed.weight.grad)
    gradients.detach()
    ours.zero_grad()
    ours(ids[0], None, ids[0]).backward()
    assert ours.embed.weight.grad is not None


def test_a_dataset_trains_like_a_list():
    from datasets import Dataset

    config = TrainConfig(epochs=1, bucketing="across-batches")
    first, second = Reader(), Reader()
    train(first, texts(), soft_cross_entropy, config, seed=0, device="cpu")
    rows = Dataset.from_list(texts())
    train(second, rows, soft_cross_entropy, config, seed=0, device="cpu")
    assert same_weights(first, second)


def test_frozen_parameters_stay_and_a_fraction_of_an_epoch_is_fewer_steps():
    model = Reader()
    model.embed.requires_grad_(False)
    before = {name: p.clone() for name, p in model.named_parameters()}
    config = TrainConfig(epochs=0.5, batch_size=4, learning_rate=0.01)
    assert train(model, texts(), soft_cross_entropy, config, seed=0, device="cpu").steps == 5
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert "embed.weight" not in changed
    assert "head.weight" in changed


def test_mixed_precision_leaves_the_model_as_it_was_and_precisions_can_follow_each_other():
    losses = {}
    for precision in ("no", "bf16", "no"):
        model = Reader()
        forward = model.forward.__func__
        for _ in range(2):
            config = TrainConfig(epochs=1, precision=precision)
            result = train(model, texts(), soft_cross_entropy, config, seed=0, device="cpu")
            assert model.forward.__func__ is forward
        assert model.head.weight.dtype == torch.float32
        losses.setdefault(precision, []).append(result.history)
    assert losses["no"][0] == losses["no"][1] != losses["bf16"][0]
    assert losses["bf16"][0] == pytest.approx(losses["no"][0], abs=0.05)


def test_fp16_needs_a_gpu():
    config = TrainConfig(precision="fp16")
    with pytest.raises(UserError, match="fp16"):
        train(Reader(), texts(), soft_cross_entropy, config, seed=0, device="cpu")


def test_a_loss_that_is_not_finite_says_where_and_what_to_do():
    model = Reader()
    config = TrainConfig(learning_rate=1e30, optimizer="sgd", batch_size=10)
    with pytest.raises(UserError, match=r"at step 2 of 8.*learning rate of .*max_grad_norm"):
        train(model, texts(), lambda z, t, p: (z**2).sum(), config, seed=0, device="cpu")


def test_early_stopping_goes_back_to_the_weights_that_fit_held_out_supervision_best():
    train_texts, held_out = texts(20, seed=1), texts(30, seed=2)  # unrelated: it must overfit

    def fit(model):
        ids, mask, targets = padded(held_out)
        with torch.no_grad():
            return soft_cross_entropy(model.eval()(ids, mask), targets).item()

    config = TrainConfig(epochs=50, batch_size=10, learning_rate=0.01, schedule="constant")
    model, fits = Reader(), []
    stop = EarlyStop(held_out, patience=3, every=2)

    def watch(done, total, info):
        if done % 2 == 0:
            fits.append(fit(model))

    result = train(
        model, train_texts, soft_cross_entropy, config, seed=0, device="cpu", stop=stop,
        progress=watch,
    )  # fmt: skip
    assert result.stopped_early
    assert result.steps == len(result.history) < 100
    assert fits.index(min(fits)) == len(fits) - 1 - 3
    assert fit(model) == pytest.approx(min(fits), abs=1e-6)


# Checkpoints ------------------------------------------------------------------------------------

SETTING = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-3, "dropout": True}


def long_training(folder, **more):
    """15 steps with everything that has state: Adam, dropout, early stopping, a partial batch."""
    model = Reader(dropout=0.2)
    stop = EarlyStop(texts(8, seed=5), patience=99, every=4)
    result = train(
        model, texts(37), soft_cross_entropy, TrainConfig(**SETTING), seed=3, device="cpu",
        checkpoint=folder, checkpoint_every=0, stop=stop, **more,
    )  # fmt: skip
    return model, result


class Interrupted(Exception):
    pass


def interrupt_at(step):
    def watch(done, total, info):
        if done == step:
            raise Interrupted

    return watch


def interrupted(folder, step):
    with pytest.raises(Interrupted):
        long_training(folder, progress=interrupt_at(step))


def test_resumed_after_kill_9_the_weights_are_those_of_an_uninterrupted_training(tmp_path):
    script = textwrap.dedent(
        f"""
        import sys, time
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import torch
        torch.set_num_threads({torch.get_num_threads()})
        from test_train import long_training

        def watch(done, *_):
            print(done, flush=True)
            time.sleep(600 if done == 12 else 0)  # however late the kill comes, it comes in time

        long_training({str(tmp_path)!r}, progress=watch)
        """
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        if line.strip() == "7":
            child.send_signal(signal.SIGKILL)
            break
    assert child.wait() == -signal.SIGKILL

    steps = []
    resumed, result = long_training(tmp_path, progress=lambda done, *_: steps.append(done))
    whole, expected = long_training(None)
    assert 7 <= steps[0] <= 12
    assert steps[-1] == 15
    assert result.history == expected.history
    assert same_weights(resumed, whole)


@pytest.mark.parametrize("step", [1, 4, 5, 14])
def test_resumes_from_any_step_bit_for_bit(tmp_path, step):
    interrupted(tmp_path, step)
    resumed, result = long_training(tmp_path)
    whole, expected = long_training(None)
    assert result.history == expected.history
    assert same_weights(resumed, whole)


def test_a_finished_training_is_not_done_again(tmp_path):
    first, _ = long_training(tmp_path)
    second, result = long_training(tmp_path)
    assert result.examples_per_second == 0
    assert result.steps == 15
    assert same_weights(first, second)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "not a checkpoint"])
@pytest.mark.parametrize("both", [False, True])
def test_a_damaged_checkpoint_falls_back(tmp_path, damage, both):
    interrupted(tmp_path, 9)
    newest, previous = Checkpoints(tmp_path).paths
    for path in (newest, previous) if both else (newest,):
        raw = bytearray(path.read_bytes())
        if damage == "flipped":
            raw[-20] ^= 1
        path.write_bytes(
            {"truncated": bytes(raw[:-100]), "flipped": bytes(raw), "empty": b""}.get(
                damage, b"hello" * 100
            )
        )
    steps = []
    with pytest.warns(UserWarning, match="unusable"):
        resumed, _ = long_training(tmp_path, progress=lambda done, *_: steps.append(done))
    assert steps[0] == (1 if both else 8)  # the one before was written after step 7
    assert same_weights(resumed, long_training(None)[0])


def test_a_full_disk_does_not_stop_the_training(tmp_path):
    interrupted(tmp_path, 5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.warns(UserWarning, match="No checkpoint written"):
            model, _ = long_training(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert same_weights(model, long_training(None)[0])
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint.safetensors",
        "previous.safetensors",
    }
    assert Checkpoints(tmp_path).load() is not None


def test_another_trainings_checkpoint_is_refused(tmp_path):
    interrupted(tmp_path, 3)
    config = TrainConfig(**{**SETTING, "learning_rate": 1.0})
    with pytest.raises(UserError, match=r"another training \(learning_rate, seed differ"):
        train(
            Reader(dropout=0.2), texts(37), soft_cross_entropy, config, seed=4, device="cpu",
            checkpoint=tmp_path, stop=EarlyStop(texts(8, seed=5), patience=99, every=4),
        )  # fmt: skip


def test_clearing_removes_the_folder(tmp_path):
    store = Checkpoints(tmp_path / "here", every=1000)
    assert not store.due()
    assert store.save({"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.tensor(1)}, {"x": 1.5})
    tensors, about = store.load()
    assert tensors["a"].dtype == torch.bfloat16
    assert tensors["b"].shape == ()
    assert about == {"x": 1.5}
    store.clear()
    assert not (tmp_path / "here").exists()
    assert store.load() is None


@pytest.mark.slow
@pytest.mark.parametrize("own_loss", [False, True])
def test_two_processes_train_like_one(tmp_path, own_loss):
    script = textwrap.dedent(
        f"""
        import os, sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from safetensors.torch import save_file
        from test_train import distributed_training
        model = distributed_training({own_loss})
        save_file(dict(model.named_parameters()), {str(tmp_path)!r} + "/" + os.environ["RANK"])
        """
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, **common, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]
    assert [child.wait(timeout=120) for child in children] == [0, 0]

    alone = distributed_training(own_loss)
    for name, weight in alone.named_parameters():
        torch.testing.assert_close(load_file(tmp_path / "0")[name], weight, atol=1e-4, rtol=1e-3)
        assert torch.equal(load_file(tmp_path / "0")[name], load_file(tmp_path / "1")[name])


def distributed_training(own_loss):
    examples = texts(17)  # the last batch has one example, fewer than there are processes
    model = Speaker() if own_loss else Reader()
    loss = None if own_loss else ConfidenceLoss(0.75)
    config = TrainConfig(
        epochs=2, batch_size=8, micro_batch_size=3, optimizer="sgd", learning_rate=0.1
    )
    penalty = None if own_loss else squares
    train(model, examples, loss, config, seed=0, device="cpu", penalty=penalty)
    return model


def squares(model):
    used = (p for name, p in model.named_parameters() if not name.startswith("unused"))
    return 0.1 * sum(parameter.square().sum() for parameter in used)


def test_a_penalty_is_weight_decay_and_is_reported():
    examples, config = texts(), TrainConfig(epochs=3, optimizer="sgd", learning_rate=0.1)
    decayed, penalised = Reader(), Reader()
    plain = train(
        decayed, examples, soft_cross_entropy, dataclasses.replace(config, weight_decay=0.2),
        seed=0, device="cpu",
    )  # fmt: skip
    result = train(
        penalised, examples, soft_cross_entropy, config, seed=0, device="cpu", penalty=squares
    )
    for name, _ in decayed.named_parameters():
        torch.testing.assert_close(
            penalised.get_parameter(name), decayed.get_parameter(name), atol=1e-5, rtol=1e-5
        )
    assert result.history[0] == pytest.approx(plain.history[0] + squares(Reader()).item())
    with pytest.raises(ValueError, match="added to a loss"):
        train(Speaker(), examples, None, config, seed=0, device="cpu", penalty=squares)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"micro_batch_size": 0},
        {"learning_rate": -1.0},
        {"optimizer": "lion"},
        {"schedule": "step"},
        {"warmup": 1.0},
        {"precision": "int8"},
        {"bucketing": "sorted"},
    ],
)
def test_mistakes_in_the_config(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        TrainConfig(**change)


def test_nothing_to_train_with_or_on():
    with pytest.raises(ValueError, match="no examples"):
        train(Reader(), [], soft_cross_entropy, TrainConfig(), seed=0, device="cpu")
    stop = EarlyStop(texts(3))
    with pytest.raises(ValueError, match="EarlyStop measures"):
        train(Speaker(), texts(), None, TrainConfig(), seed=0, device="cpu", stop=stop)
    frozen = Reader().requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        train(frozen, texts(), soft_cross_entropy, TrainConfig(), seed=0, device="cpu")
