"""LLVM IR: what is incidental goes, structure stays; compilers run in limits."""

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generality.benchmarks import ir_programs
from generality.benchmarks.ir_compilers import (
    IRModule,
    NotCompiled,
    compile_package,
    find_compilers,
    need_compilers,
    run_limited,
)
from generality.benchmarks.ir_corpus import (
    ir_records,
    package_licence,
    sample_corpus,
    unique_modules,
    write_corpus,
)
from generality.benchmarks.licences import license_filter
from generality.benchmarks.llvm_ir import (
    ir_counts,
    ir_functions,
    module_hash,
    normalize_ir,
    structural_hash,
)
from generality.errors import UserError

FUNCTION = """define dso_local i32 @_Z3sumPii(ptr nocapture noundef readonly %a, i32 noundef %n) #0 !dbg !9 {
entry:
  %s = alloca i32, align 4 ; a comment with %names
  store i32 0, ptr %s, align 4, !tbaa !5
  br label %loop

loop:                                             ; preds = %loop, %entry
  %i = phi i32 [ 0, %entry ], [ %j, %loop ]
  %j = add nsw i32 %i, 1
  %more = icmp slt i32 %j, %n
  br i1 %more, label %loop, label %done, !llvm.loop !6

done:
  %v = load i32, ptr %s, align 4
  ret i32 %v
}"""  # noqa: E501
MODULE = f'source_filename = "x"\n\n{FUNCTION}\n\ndeclare void @g()\n'


def test_what_is_incidental_goes():
    text = normalize_ir(FUNCTION)
    assert text.splitlines()[0] == "define i32 @0(ptr %0, i32 %1) {"
    for gone in ("!", ";", "align", "sum", "noundef", "#0", "%loop"):
        assert gone not in text
    assert "%6 = add nsw i32 %5, 1" not in text or "phi" in text
    assert normalize_ir(text) == text


def test_the_hash_sees_structure_and_nothing_else():
    key = structural_hash(FUNCTION)
    same = (
        FUNCTION.replace("%i", "%7x").replace("%more", "%3"),
        FUNCTION.replace("!tbaa !5", "!tbaa !77").replace("!dbg !9 ", ""),
        FUNCTION.replace("; a comment with %names", ""),
        FUNCTION.replace("_Z3sumPii", "other"),
    )
    assert {structural_hash(text) for text in same} == {key}
    different = (
        FUNCTION.replace("add nsw", "sub nsw"),
        FUNCTION.replace("alloca i32", "alloca i64"),
        FUNCTION.replace("icmp slt", "icmp sgt"),
        FUNCTION.replace("label %loop, label %done", "label %done, label %loop"),
        FUNCTION.replace("%i, 1", "%i, 2"),
    )
    assert key not in {structural_hash(text) for text in different}
    coarse = structural_hash(FUNCTION, constants=False)
    assert structural_hash(different[-1], constants=False) == coarse
    assert structural_hash(different[1], constants=False) != coarse


@given(st.permutations(["alpha", "beta", "gamma", "delta", "rho", "tau"]))
@settings(max_examples=20, deadline=None)
def test_names_never_count(names):
    text = FUNCTION
    for old, new in zip(("%s", "%i,", "%j", "%more", "%v", "%n"), names, strict=True):
        text = text.replace(old, f"%{new}" + ("," if old.endswith(",") else ""))
    text = text.replace("%i =", f"%{names[1]} =")
    assert structural_hash(text) == structural_hash(FUNCTION)
    assert normalize_ir(text) == normalize_ir(FUNCTION)


def test_counts():
    counts = ir_counts(FUNCTION)
    assert (counts.instructions, counts.blocks, counts.loops) == (9, 3, 1)
    assert counts.opcodes["br"] == 2
    switch = (
        "define i32 @f(i32 %x) {\n  switch i32 %x, label %a [\n    i32 1, label %b\n  ]\n"
        "a:\n  ret i32 0\nb:\n  br label %a\n}"
    )
    assert (ir_counts(switch).blocks, ir_counts(switch).loops) == (3, 0)
    assert ir_counts(switch).instructions == 3


def test_modules():
    assert [f.name for f in ir_functions(MODULE)] == ["_Z3sumPii"]
    assert module_hash(MODULE) == module_hash(MODULE.replace("%more", "%2"))
    assert module_hash("declare void @g()\n") == ""


def module(package: str, ir: str = MODULE, optimised: str = "") -> IRModule:
    return IRModule(package, "a.c", "c", "", ir, optimised, "a compiler")


def test_records_and_a_corpus_file(tmp_path: Path):
    (record,) = ir_records([module("one")])
    assert record.key == structural_hash(FUNCTION)
    assert (record.optimised, record.optimised_key) == ("", "")
    kept = unique_modules([module("one"), module("two"), module("none", "declare void @g()")])
    assert [m.package for m in kept] == ["one"]
    (tmp_path / "LICENSE").write_text(
        "Permission is hereby granted, free of charge, to any person obtaining a copy"
    )
    licence = package_licence(tmp_path)
    assert (licence.expression, licence.accepted) == ("MIT", True)
    write_corpus(kept, tmp_path / "c.parquet", {"one": licence})
    import pandas as pd

    (row,) = pd.read_parquet(tmp_path / "c.parquet").to_dict("records")
    assert row["content"] == MODULE
    assert row["license_expression"] == "MIT"
    (tmp_path / "Cargo.toml").write_text("[package]\nlicense='MIT OR GPL-3.0' # as above\n")
    assert package_licence(tmp_path).expression == "MIT OR GPL-3.0"
    (tmp_path / "Cargo.toml").write_text("[package]\nlicense.workspace = true\n")
    assert package_licence(tmp_path).expression == "MIT"
    with pytest.raises(UserError, match="as .parquet"):
        write_corpus(kept, tmp_path / "c.csv", {"one": licence})
    with pytest.raises(UserError, match="Nothing is left"):
        write_corpus([], tmp_path / "d.parquet", {})


@pytest.mark.parametrize(
    ("expression", "detected", "accepted"),
    [
        ("MIT OR GPL-3.0", ["MIT"], True),
        ("MIT AND Zlib", ["MIT"], False),
        ("Apache-2.0", [], False),
        ("GPL-3.0 OR (Apache-2.0)", ["apache-2.0"], True),
        ("MIT/Apache-2.0", ["Apache-2.0"], True),
        ("LicenseRef-DORMIT", ["MIT"], False),
        ("Apache-2.0 WITH LLVM-exception", ["Apache-2.0"], False),
    ],
)
def test_licences(expression, detected, accepted):
    assert license_filter(expression, detected) is accepted


def test_the_sample_that_comes_along():
    sample = sample_corpus()
    assert {r["language"] for r in sample["code"]} == {"c", "c++", "rust"}
    assert all(normalize_ir(r["ir"]).startswith("define") for r in sample["code"][::30])
    by_language = {"c": 0, "c++": 0, "rust": 0}
    for record in sample["programs"]:
        by_language[record["language"]] += 1
        assert record["optimised"]
    assert len(set(by_language.values())) == 1
    raw = sample["programs"][0]["raw"]
    assert normalize_ir(raw) == sample["programs"][0]["ir"]


def test_limits_hold(tmp_path: Path):
    spin = [sys.executable, "-S", "-c", "while True: pass"]
    code, _ = run_limited(spin, tmp_path, seconds=1, memory=2**32)
    assert code != 0
    code, said = run_limited(
        [sys.executable, "-S", "-c", "bytearray(2**31)"], tmp_path, seconds=5, memory=2**30
    )
    assert code != 0
    assert "MemoryError" in said
    code, said = run_limited(
        [sys.executable, "-S", "-c", "import os; print(sorted(os.environ))"], tmp_path,
        seconds=5, memory=2**32,
    )  # fmt: skip
    assert code == 0
    assert "GENERALITY_HOME" not in said


def test_what_cannot_be_compiled_is_said(tmp_path: Path):
    with pytest.raises(UserError, match="There is no folder"):
        list(compile_package(tmp_path / "none"))
    with pytest.raises(UserError, match="no compiler for cobol"):
        need_compilers(["cobol"])


@pytest.mark.skipif("c" not in find_compilers(), reason="neither clang nor ziglang is here")
def test_c_is_compiled_file_by_file(tmp_path: Path):
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "k.h").write_text("#define K 7\n")
    (tmp_path / "a.c").write_text('#include "k.h"\nint f(int x) { int y = x * K; return y; }\n')
    (tmp_path / "b.c").write_text('#include "nowhere.h"\n')
    good, bad = compile_package(tmp_path, package="p", languages=["c"])
    assert isinstance(good, IRModule)
    assert isinstance(bad, NotCompiled)
    assert "nowhere.h" in bad.why
    (record,) = ir_records([good])
    assert "alloca" in record.ir
    assert "alloca" not in record.optimised


@pytest.mark.skipif("rust" not in find_compilers(), reason="rustc is not here")
def test_rust_crates_with_their_features(tmp_path: Path):
    crate = tmp_path / "crate"
    (crate / "src").mkdir(parents=True)
    (crate / "Cargo.toml").write_text(
        '[package]\nname = "a-b"\nedition = "2021"\n[features]\ndefault = ["on"]\non = []\n'
    )
    (crate / "src" / "lib.rs").write_text(
        '#[cfg(feature = "on")]\n#[no_mangle]\npub fn twice(x: u32) -> u32 { x + x }\nmod part;\n'
    )
    (crate / "src" / "part.rs").write_text("pub fn nothing() {}\n")
    (result,) = compile_package(crate, languages=["rust"])
    assert isinstance(result, IRModule), result
    assert "twice" in {f.name for f in ir_functions(result.ir)}


@pytest.mark.skipif("rust" not in find_compilers(), reason="rustc is not here")
def test_programs_compile_to_the_same_text_wherever_they_lie(monkeypatch):
    monkeypatch.setattr(ir_programs, "HEADERS", {"rust": ir_programs.HEADERS["rust"]})
    first, second = (ir_programs.compile_programs(4, seed=0) for _ in range(2))
    assert any("alloc_" in record["raw"] for record in first)  # named by a hash of their place
    assert first == second
