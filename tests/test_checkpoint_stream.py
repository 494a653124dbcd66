import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from generality.errors import UserError
from generality.weights.checkpoint_stream import (
    INDEX,
    AdaptedCheckpoint,
    Checkpoint,
    CheckpointWriter,
    TensorSpec,
    open_checkpoint,
)

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "c": torch.tensor([1, 2, 3]),
    "d": torch.tensor(True),
    "e": torch.zeros(0, 4),
}
SPECS = {name: TensorSpec(tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()}


def write(folder: Path, **options: object) -> Path:
    with CheckpointWriter(folder, SPECS, **options) as writer:
        for name, tensor in TENSORS.items():
            writer.write(name, tensor)
        writer.finish({"config.json": "{}"})
    return folder


def same(folder: Path) -> None:
    found = Checkpoint(folder)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("shard_bytes", [1, 30, 10**9])
def test_what_was_written_is_read_here_and_by_safetensors(tmp_path, shard_bytes):
    folder = write(tmp_path / "model", shard_bytes=shard_bytes)
    same(folder)
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) == {1: 4, 30: 2, 10**9: 1}[shard_bytes]
    loaded = {name: t for file in files for name, t in load_file(file).items()}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())
    assert (folder / INDEX).is_file() == (len(files) > 1)
    assert sorted(tmp_path.iterdir()) == [folder]


def test_reading_maps_pages_and_writing_into_them_changes_no_file(tmp_path):
    folder = write(tmp_path / "model")
    read = Checkpoint(folder)["a"]
    read += 1
    same(folder)


def test_a_tied_head_is_left_out(tmp_path):
    tensors = {"model.embed_tokens.weight": torch.ones(2, 2), "lm_head.weight": torch.ones(2, 2)}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": true}')
    assert list(Checkpoint(tmp_path)) == ["model.embed_tokens.weight"]
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": false}')
    assert len(Checkpoint(tmp_path)) == 2


def damage(folder: Path, how: str) -> None:
    shards = sorted(folder.glob("*.safetensors"))
    index = folder / INDEX
    if how == "missing shard":
        shards[0].unlink()
    elif how == "cut off":
        os.truncate(shards[0], shards[0].stat().st_size - 1)
    elif how == "not safetensors":
        shards[0].write_bytes(b"hello")
    elif how == "garbled header":
        shards[0].write_bytes((4).to_bytes(8, "little") + b"{[]}" + b"0" * 50)
    elif how == "no index":
        index.unlink()
    elif how == "index is not JSON":
        index.write_text("{")
    elif how == "index names what is not there":
        found = json.loads(index.read_text())
        found["weight_map"]["z"] = shards[0].name
        index.write_text(json.dumps(found))
    elif how == "index leaves out":
        found = json.loads(index.read_text())
        del found["weight_map"]["b"]
        index.write_text(json.dumps(found))
    elif how == "pickles":
        for path in folder.iterdir():
            path.unlink()
        (folder / "pytorch_model.bin").touch()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing shard", "shard model-00001-of-00002.safetensors .* is missing"),
        ("cut off", "is cut off: it has .* Fetch"),
        ("not safetensors", "not a whole safetensors file"),
        ("garbled header", "not a whole safetensors file"),
        ("no index", "without their index"),
        ("index is not JSON", "cannot be read"),
        ("index names what is not there", "wrong about 'z': .* lacks it"),
        ("index leaves out", "wrong about 'b': .* holds it"),
        ("pickles", "no safetensors .* can run any code"),
    ],
)
def test_damage_is_named(tmp_path, how, said):
    folder = write(tmp_path / "model", shard_bytes=30)
    damage(folder, how)
    with pytest.raises(UserError, match=said):
        Checkpoint(folder)


def test_a_folder_that_is_there_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    write(tmp_path / "model")
    with pytest.raises(UserError, match="is there already"):
        write(tmp_path / "model")


def test_a_disk_too_small_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match="needs 0.02 GB .* 0.00 GB free"):
        write(tmp_path / "model")
    assert not list(tmp_path.rglob("*.unfinished"))


def test_wrong_amounts_and_an_early_finish_are_refused(tmp_path):
    with CheckpointWriter(tmp_path / "model", SPECS) as writer:
        with pytest.raises(ValueError, match="more"):
            writer.write("a", torch.ones(7))
        with pytest.raises(ValueError, match="fewer"):
            writer.write("a", [torch.ones(3), torch.ones(2)])
        with pytest.raises(ValueError, match="not written"):
            writer.finish({})


def test_two_processes_do_not_write_one_folder(tmp_path):
    with CheckpointWriter(tmp_path / "model", SPECS):
        code = (
            "import sys; from generality.weights.checkpoint_stream import *\n"
            "CheckpointWriter(Path(sys.argv[1]), {}).__enter__()"
        )
        other = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "model"], capture_output=True, text=True
        )
        assert "Another process is writing" in other.stderr


HALF = """
import os, signal, sys, torch
from pathlib import Path
from generality.weights.checkpoint_stream import CheckpointWriter, TensorSpec
specs = {name: TensorSpec(torch.float32, (1000,)) for name in "abcd"}
with CheckpointWriter(Path(sys.argv[1]), specs, recipe="r", shard_bytes=8000) as writer:
    print(sorted(writer.done))
    for number, name in enumerate("abcd"):
        if name not in writer.done:
            def pieces():
                yield torch.full((400,), float(number))
                if name == "c" and len(sys.argv) > 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield torch.full((600,), float(number))
            writer.write(name, pieces())
    writer.finish({"config.json": "{}"})
"""


def test_a_killed_writer_goes_on_and_shows_nothing_before(tmp_path):
    command = [sys.executable, "-c", HALF, str(tmp_path / "model")]
    killed = subprocess.run([*command, "die"], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [".model.partial"]
    assert not list(tmp_path.rglob("*.safetensors"))
    file = tmp_path / ".model.partial" / "model-00001-of-00002.safetensors.unfinished"
    with file.open("r+b") as shard:  # what was noted and then lost is written again
        shard.seek(-2, os.SEEK_END)
        shard.write(b"??")
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.stdout == "['a']\n", again.stderr
    found = Checkpoint(tmp_path / "model")
    assert [found[name].unique().tolist() for name in "abcd"] == [[0.0], [1.0], [2.0], [3.0]]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    left = {path.name for path in (tmp_path / "model").iterdir()}
    assert left == {"config.json", INDEX, *(f"model-0000{i}-of-00002.safetensors" for i in (1, 2))}


def test_another_recipe_begins_anew(tmp_path):
    with CheckpointWriter(tmp_path / "model", SPECS, recipe=1) as writer:
        writer.write("a", TENSORS["a"])
    with CheckpointWriter(tmp_path / "model", SPECS, recipe=1) as writer:
        assert writer.done == {"a"}
    with CheckpointWriter(tmp_path / "model", SPECS, recipe=2) as writer:
        assert not writer.done


@pytest.fixture(scope="module")
def adapted(tmp_path_factory) -> tuple[Path, Path]:
    """A tiny base and a LoRA of peft on it, with ranks and alphas by module, embeddings, a head."""
    from peft import LoraConfig, get_peft_model

    from generality.models import tiny_decoder

    folder = tmp_path_factory.mktemp("adapters")
    model = tiny_decoder("0.05M", vocabulary=40)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.save_pretrained(folder / "base")
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "down_proj", "embed_tokens"],
        rank_pattern={"layers.1.self_attn.q_proj": 2}, alpha_pattern={"down_proj": 3},
        modules_to_save=["lm_head"], init_lora_weights=False, use_rslora=True,
    )  # fmt: skip
    lora = get_peft_model(model, config)
    lora.peft_config["default"].base_model_name_or_path = str(folder / "base")
    with torch.no_grad():
        lora.base_model.model.lm_head.modules_to_save["default"].weight += 1
    lora.save_pretrained(folder / "lora")
    lora.merge_and_unload().save_pretrained(folder / "merged")
    return folder / "base", folder / "lora"


def test_adapters_are_added_as_peft_does(adapted):
    base, lora = adapted
    found, wanted = open_checkpoint(lora), Checkpoint(base.parent / "merged")
    assert isinstance(found, AdaptedCheckpoint)
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert torch.allclose(found[name], wanted[name], atol=1e-6), name
    assert len(found.factors) == 6
    assert not torch.equal(found["model.layers.0.self_attn.q_proj.weight"],
                           Checkpoint(base)["model.layers.0.self_attn.q_proj.weight"])  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peft_type": "IA3"}, "of the kind IA3"),
        ({"use_dora": True}, "of the kind DoRA"),
        ({"base_model_name_or_path": None}, "does not name its base"),
    ],
)
def test_other_adapters_are_refused(adapted, tmp_path, change, said):
    shutil.copytree(adapted[1], tmp_path / "lora")
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=said):
        open_checkpoint(tmp_path / "lora")


def test_an_adapter_on_the_wrong_base_is_refused(adapted, tmp_path):
    from generality.models import tiny_decoder

    tiny_decoder("0.15M", vocabulary=40).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="name .*base"):
        open_checkpoint(adapted[1], base=str(tmp_path / "other"))
