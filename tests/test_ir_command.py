"""`generality ir` end to end, with a compiler where there is one."""

import json
from pathlib import Path

import pandas as pd
import pytest

from generality.benchmarks.ir_compilers import find_compilers

MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy of this"
needs_c = pytest.mark.skipif("c" not in find_compilers(), reason="neither clang nor ziglang")


def package(folder: Path, licence: str, **files: str) -> Path:
    folder.mkdir()
    (folder / "LICENSE").write_text(licence)
    for name, text in files.items():
        (folder / f"{name}.c").write_text(text)
    return folder


@needs_c
def test_a_corpus_without_copies(generality, tmp_path: Path):
    one = package(tmp_path / "one", MIT, a="int f(int x) { return x * 7; }", b="int g( {")
    two = package(tmp_path / "two", MIT, a="int other(int y) { return y * 7; }")
    gpl = package(tmp_path / "gpl", "GNU General Public License", a="int h(void) { return 1; }")
    out = tmp_path / "corpus.parquet"
    answer = generality("ir", one, two, gpl, "-o", out, "--language", "c", "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert (told["modules"], told["kept"]) == (2, 1)
    assert told["duplication"] == {"c": 1.0}
    assert told["refused"] == {"gpl": "GPL"}
    assert "expected" in next(iter(told["failed"]))
    assert list(pd.read_parquet(out)["package_source"]) == ["one"]


def test_mistakes_are_explained(generality, tmp_path: Path):
    (tmp_path / "src").mkdir()
    for words, said in (
        (["nowhere"], "There is no folder 'nowhere'"),
        (["src", "-o", "c.csv"], "must end in .parquet"),
        (["src", "-o", "none/c.parquet"], "does not exist; make it"),
        (["src"], "'src' (none found) is not allowed"),
        (["src", "--any-licence"], "no source of these languages"),
        (["src", "--language", "fortran"], "fortran"),
        (["src", "src"], "one name"),
    ):
        answer = generality("ir", *words)
        assert answer.code == 2, words
        assert said in answer.err
