import dataclasses
from pathlib import Path

from generality.benchmarks.worlds import world_tokenizer
from generality.lab import Lab
from generality.models import tiny_decoder
from generality.studies.supervise import grape


def test_a_named_model_chooses_among_ways_of_answering(artifacts: Path, tmp_path: Path) -> None:
    tokenizer = world_tokenizer()
    tiny_decoder("0.05M", vocabulary=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    config = dataclasses.replace(grape.SCALES["smoke"], articles=3)
    lab = Lab(home=tmp_path / "steps", device="cpu", progress=False)
    rows = list(grape.article_rows(config, lab, str(tmp_path / "model")))
    assert len(rows) == config.seeds * 2 * len(grape.ANSWERS)
    for first in range(0, len(rows), len(grape.ANSWERS)):
        several = rows[first : first + len(grape.ANSWERS)]
        assert sum(row["score"] for row in several) == 1
        assert {row["method"] for row in several} == set(grape.ANSWERS)
        assert -1 <= several[0]["follows_length"] <= 1
