"""Features against a plain forward pass, resumed after kill -9, on a full disk, for two at once."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tiny_models
from generality.errors import UserError
from generality.lab import Lab, embed, features
from generality.lab.encoders import ModuleEncoder, TextEncoder, make_encoder
from generality.lab.features import similar_batches
from generality.lab.steps import StepStore

TEXTS = tiny_models.texts(50)
HERE = Path(__file__).parent


@pytest.fixture
def store(tmp_path: Path) -> StepStore:
    return StepStore(tmp_path / "steps")


def one_by_one(model: nn.Module, layer: int, pooling: str) -> np.ndarray:
    """What transformers says of each text alone."""
    tokenizer, vectors = tiny_models.tokenizer(), []
    for text in TEXTS:
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.inference_mode():
            states = model(**inputs, output_hidden_states=True).hidden_states[layer][0]
        vectors.append({"mean": states.mean(0), "last": states[-1], "cls": states[0]}[pooling])
    return torch.stack(vectors).numpy()


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("build", [tiny_models.bert, tiny_models.llama])
def test_equals_a_plain_forward_of_each_text(
    store: StepStore, monkeypatch: pytest.MonkeyPatch, build, layer: int, pooling: str
) -> None:
    monkeypatch.setattr(features, "WINDOW", 20)  # three windows, the last one short
    model = build()
    encoder = TextEncoder(model, tiny_models.tokenizer(), layer=layer, pooling=pooling)
    found = embed(store, encoder, TEXTS, batch_tokens=64)
    np.testing.assert_allclose(found, one_by_one(model, layer, pooling), atol=1e-5)
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    assert found.dtype == np.float32
    assert (store.computed, store.reused) == (1, 0)
    again = embed(
        store, TextEncoder(build(), tiny_models.tokenizer(), layer=layer, pooling=pooling), TEXTS
    )
    np.testing.assert_array_equal(found, again)
    assert (store.computed, store.reused) == (1, 1)


def test_what_changes_the_features_changes_their_name() -> None:
    tokenizer = tiny_models.tokenizer()
    names = {
        TextEncoder(model, tokenizer, **options).fingerprint
        for model in (tiny_models.bert(0), tiny_models.bert(1), tiny_models.llama())
        for options in ({}, {"layer": 1}, {"pooling": "cls"}, {"max_length": 8})
    }
    assert len(names) == 12
    encoder = TextEncoder(tiny_models.bert(), tokenizer, max_length=3)
    encoder.prepare(TEXTS)  # leaves its truncation in the tokenizer
    assert TextEncoder(tiny_models.bert(), tokenizer).fingerprint == (
        TextEncoder(tiny_models.bert(), tiny_models.tokenizer()).fingerprint
    )


def test_texts_are_cut_to_what_was_asked_and_to_what_the_backbone_reads(store: StepStore) -> None:
    long = " ".join(["good"] * 500)
    encoder = TextEncoder(tiny_models.bert(), tiny_models.tokenizer(), max_length=3)
    found = embed(store, encoder, [long, "good good good"])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    beyond = TextEncoder(tiny_models.bert(positions=64), tiny_models.tokenizer(), max_length=1000)
    assert np.isfinite(embed(store, beyond, [long, "good"])).all()


def test_a_text_of_no_tokens_has_features(store: StepStore) -> None:
    encoder = TextEncoder(tiny_models.llama(), tiny_models.tokenizer())
    assert np.isfinite(embed(store, encoder, ["", "good"])).all()


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3))
        self.head = nn.Linear(6, 2)

    def forward(self, images):
        return self.head(self.blocks(images).mean((2, 3)))


def stacked(images):
    return torch.stack([torch.as_tensor(image) for image in images])


@pytest.mark.parametrize(("layer", "width"), [(None, 2), ("blocks.2", 6), ("head", 2)])
def test_any_torch_module_at_any_layer(store: StepStore, layer: str | None, width: int) -> None:
    images = torch.randn(70, 1, 8, 8, generator=torch.Generator().manual_seed(0)).numpy()
    module = Convolutions()
    found = embed(store, ModuleEncoder(module, stacked, layer=layer), images)
    with torch.inference_mode():
        maps = module.blocks(torch.from_numpy(images)).mean((2, 3))
        expected = maps if layer == "blocks.2" else module.head(maps)
    assert found.shape == (70, width)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 400), st.integers(1, 9)
)
def test_batches_hold_everything_once_and_keep_their_limits(sizes, tokens, count) -> None:
    batches = similar_batches(sizes, tokens, count)
    assert sorted(row for batch in batches for row in batch) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) <= count
        assert len(batch) == 1 or len(batch) * max(sizes[row] for row in batch) <= tokens
    longest = [max(sizes[row] for row in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_a_dataset_is_embedded_by_its_column(tmp_path: Path) -> None:
    lab = Lab(home=tmp_path, progress=False)
    encoder = TextEncoder(tiny_models.bert(), tiny_models.tokenizer())
    data = Dataset.from_dict({"review": TEXTS, "stars": list(range(50))})
    found = lab.embed(encoder, data, column="review")
    np.testing.assert_array_equal(found, lab.embed(encoder, TEXTS))
    lab.embed(encoder, data.map(lambda row: {"stars": 0}), column="review")
    assert lab.steps.computed == 2, "another column does not count"


def test_nothing_to_embed_is_said(store: StepStore) -> None:
    with pytest.raises(ValueError, match="the dataset is empty"):
        embed(store, TextEncoder(tiny_models.bert(), tiny_models.tokenizer()), [])


def test_progress_moves_inside_a_window(store: StepStore) -> None:
    seen: list[tuple[int, int]] = []
    encoder = TextEncoder(tiny_models.bert(), tiny_models.tokenizer())
    embed(
        store, encoder, TEXTS, batch_size=10,
        progress=lambda done, total, info=None: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(done, 50) for done in (10, 20, 30, 40, 50)]


def test_a_full_disk_is_said_before_anything_is_mapped(
    store: StepStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    encoder = TextEncoder(tiny_models.bert(), tiny_models.tokenizer())
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"need 0 MB.*GENERALITY_HOME"):
        embed(store, encoder, TEXTS)
    assert list(store.root.rglob("features.npy")) == []
    monkeypatch.undo()
    assert embed(store, encoder, TEXTS).shape == (50, 16)


def test_a_disk_full_at_the_last_moment_keeps_what_was_embedded(
    store: StepStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = TextEncoder(tiny_models.bert(), tiny_models.tokenizer())
    expected = embed(StepStore(store.root.with_name("other")), encoder, TEXTS)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("generality.lab.steps._sync", full)
    with pytest.warns(UserWarning, match="full"):
        np.testing.assert_array_equal(embed(store, encoder, TEXTS), expected)
    monkeypatch.undo()
    monkeypatch.setattr(encoder, "encode", None)  # nothing is left to encode
    np.testing.assert_array_equal(embed(store, encoder, TEXTS), expected)
    assert list((store.root / "partial").iterdir()) == []


SCRIPT = f"""
    import os, signal, sys, time
    from pathlib import Path
    sys.path.insert(0, {str(HERE)!r})
    import tiny_models
    from generality.lab import embed, features
    from generality.lab.encoders import TextEncoder
    from generality.lab.steps import StepStore

    root = Path(sys.argv[1])
    features.WINDOW = 10

    class Counted(TextEncoder):
        def encode(self, prepared):
            with open(root / "log", "a") as log:
                log.write(f"{{len(prepared)}}\\n")
            written = sum(map(int, (root / "log").read_text().split()))
            if written > int(sys.argv[2]) > 0:  # no constant: those of a module count as code
                os.kill(os.getpid(), signal.SIGKILL)
            return super().encode(prepared)

    encoder = Counted(tiny_models.bert(), tiny_models.tokenizer())
    store = StepStore(root / "steps")
    found = embed(store, encoder, tiny_models.texts(50), batch_size=5)
    print(store.computed, store.reused, float(found[:, 0] @ range(50)))
"""


def script(tmp_path: Path, kill_after: int) -> subprocess.Popen[str]:
    path = tmp_path / "embed.py"
    path.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(path), str(tmp_path), str(kill_after)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_run_goes_on_from_its_last_window(store: StepStore, tmp_path: Path) -> None:
    assert script(tmp_path, kill_after=34).wait() == -signal.SIGKILL
    before = sum(map(int, (tmp_path / "log").read_text().split()))
    assert before == 35, "the last five were begun and not finished"
    (progress,) = (tmp_path / "steps" / "partial").glob("*/progress.json")
    assert json.loads(progress.read_text()) == {"done": 30}
    computed, reused, total = script(tmp_path, kill_after=0).communicate()[0].split()
    assert (computed, reused) == ("1", "0")
    done_again = sum(map(int, (tmp_path / "log").read_text().split())) - before
    assert done_again == 20, "30 were finished"
    encoder = TextEncoder(tiny_models.bert(), tiny_models.tokenizer())
    plain = embed(StepStore(tmp_path / "plain"), encoder, TEXTS, batch_size=5)
    np.testing.assert_allclose(float(total), plain[:, 0] @ range(50), rtol=1e-4)
    assert list((tmp_path / "steps" / "partial").iterdir()) == []


def test_two_processes_embed_once(tmp_path: Path) -> None:
    both = [script(tmp_path, kill_after=0) for _ in range(2)]
    said = [process.communicate()[0].split() for process in both]
    assert sorted(each[:2] for each in said) == [["0", "1"], ["1", "0"]]
    assert said[0][2] == said[1][2]
    assert sum(map(int, (tmp_path / "log").read_text().split())) == 50


@pytest.mark.parametrize("damage", ["progress", "features", "shape"])
def test_damaged_leftovers_are_begun_anew(
    store: StepStore, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(features, "WINDOW", 20)
    encoder = TextEncoder(tiny_models.bert(), tiny_models.tokenizer())
    real, calls = encoder.encode, []

    def fails_later(prepared):
        calls.append(len(prepared))
        if sum(calls) > 30:
            raise RuntimeError("stop here")
        return real(prepared)

    monkeypatch.setattr(encoder, "encode", fails_later)
    with pytest.raises(RuntimeError, match="stop here"):
        embed(store, encoder, TEXTS, batch_size=10)
    (partial,) = (store.root / "partial").iterdir()
    if damage == "progress":
        (partial / "progress.json").write_text("[")
    elif damage == "features":
        content = (partial / "features.npy").read_bytes()
        (partial / "features.npy").write_bytes(content[:100])
    else:
        np.save(partial / "features.npy", np.zeros((3, 16), np.float32))
    monkeypatch.undo()
    expected = one_by_one(tiny_models.bert(), -1, "mean")
    np.testing.assert_allclose(embed(store, encoder, TEXTS), expected, atol=1e-5)


MEMORY = """
    import resource, sys
    from pathlib import Path
    import numpy as np
    from generality.lab import embed
    from generality.lab.steps import StepStore

    class Wide:
        fingerprint = "wide"
        def prepare(self, examples):
            return list(examples)
        def size(self, prepared):
            return 1
        def encode(self, prepared):
            return np.full((len(prepared), 1024), prepared[0], np.float32)

    found = embed(StepStore(Path(sys.argv[1])), Wide(), range(int(sys.argv[2])))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, found.nbytes)
"""


def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    path = tmp_path / "memory.py"
    path.write_text(textwrap.dedent(MEMORY))
    commands = [[sys.executable, str(path), str(tmp_path / n), n] for n in ("2048", "40960")]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    (small, _), (large, size) = (map(int, run.communicate()[0].split()) for run in runs)
    assert size > 160e6
    assert large - small < 40e6


def test_a_layer_that_is_not_there_is_refused(artifacts: Path) -> None:
    with pytest.raises(UserError, match="hidden states 0 to 6"):
        make_encoder("minilm-l6", layer=7, device="cpu")
