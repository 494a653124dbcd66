import json
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from generality.cli.app import app
from generality.errors import UserError
from generality.weights import Rank, load_rank


def typed(*words: object):
    return CliRunner().invoke(app, ["reshard", *map(str, words)])


def test_a_checkpoint_goes_to_ranks_and_back(tmp_path: Path):
    weight = torch.arange(8.0).reshape(4, 2)
    source, ranks, back = tmp_path / "source", tmp_path / "ranks", tmp_path / "back"
    dcp.save({"model": {"a.weight": weight}, "step": 4}, checkpoint_id=source, no_dist=True)
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps([{"pattern": ".*weight", "kind": "column"}]))
    done = typed(source, "--to", "tp=2,dp=2,zero=3", "--rules", rules, "-o", ranks)
    assert done.exit_code == 0, done.output
    assert "1 parameters with weight" in done.output
    assert load_rank(ranks, Rank(0, 1, 1))["weight/a.weight"].tolist() == [6, 7]
    done = typed(ranks, "--to", "weights", "-o", back, "--json")
    assert json.loads(done.stdout)["extra"] == ["step"]
    assert torch.equal(load_file(back / "model.safetensors")["a.weight"], weight)


def test_places_that_do_not_do_are_said(tmp_path: Path):
    save_file({"w": torch.ones(4)}, tmp_path / "w.safetensors")
    for source, out, said in (
        (tmp_path, "out", "holds a model, not a checkpoint: name a .safetensors file in it"),
        (tmp_path / "w.safetensors", "w.safetensors/out", "name another place"),
    ):
        done = typed(source, "-o", tmp_path / out)
        assert isinstance(done.exception, UserError)
        assert said in str(done.exception)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "two"], "--to is universal"),
        (["--to", "dp=2,dp=3"], "--to is universal"),
        (["--to", "weights", "--rules", "llama"], "--rules is for the parts of ranks"),
        (["--to", "tp=2"], "Say by --rules"),
        (["--to", "tp=2", "--rules", "lama"], "Did you mean 'llama'"),
        (["--to", "tp=99", "--rules", "replicated"], "cut no parameter, so each of 99"),
        (["--to", "pp=2", "--rules", "replicated"], "stage 1 of 2 would hold no parameter"),
        (["--to", "tp=2", "--rules", "none.json"], "holds no rules"),
    ],
)
def test_mistakes_are_said(tmp_path: Path, options, said):
    dcp.save({"w": torch.ones(4)}, checkpoint_id=tmp_path / "source", no_dist=True)
    done = typed(tmp_path / "source", "-o", tmp_path / "out", *options)
    assert isinstance(done.exception, UserError)
    assert said in str(done.exception)
    assert not (tmp_path / "out").exists()
