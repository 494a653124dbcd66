"""`generality ir`: source trees as a corpus of LLVM IR without copies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from generality.cli import options
from generality.errors import UserError


def ir(
    folders: Annotated[
        list[Path], typer.Argument(help="Source trees of C, C++ or Rust, one a package.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Corpus to write, .parquet; none: audit.")
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(help="c, c++ or rust; by default those with a compiler here."),
    ] = None,
    licence: Annotated[
        str, typer.Option(help="SPDX expression of all packages; by default what they declare.")
    ] = "",
    allow: Annotated[
        list[str] | None, typer.Option(help="A licence to accept beside MIT, Apache-2.0 and BSD.")
    ] = None,
    any_licence: Annotated[
        bool, typer.Option("--any-licence", help="Look at no licence: the code is your own.")
    ] = False,
    declared: Annotated[
        bool, typer.Option("--declared", help="Believe declared licences without a licence file.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="Processor time a file and level.")] = 60,
    memory: Annotated[float, typer.Option(min=0.1, help="GiB that a compiler may take.")] = 8,
    json: options.Json = False,
) -> None:
    """Compile source trees to LLVM IR before and after optimisation, and count the copies in it.

    Each file is compiled by itself, within limits; no build script is run. Modules that repeat
    another one are left out of the corpus, packages whose licence is not allowed as well.
    """
    from generality.benchmarks.ir_compilers import GIBIBYTE, LANGUAGES
    from generality.benchmarks.ir_corpus import (
        compiled_folders,
        failures_by_reason,
        ir_records,
        package_licence,
        unique_modules,
        write_corpus,
    )
    from generality.benchmarks.licences import PERMISSIVE
    from generality.errors import unknown
    from generality.measures.corpus_audit import audit_corpus
    from generality.selection.training_files import check_output

    for name in language or ():
        if name not in LANGUAGES.values():
            raise unknown("language", name, sorted(set(LANGUAGES.values())))
    if out is not None:
        check_output(out, (".parquet",))
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise UserError(f"There is no folder '{missing[0]}' with sources.")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise UserError("Two of the folders have one name: rename one, packages go by it.")
    allowed = {*PERMISSIVE, *(allow or ())}
    licences = {
        name: package_licence(folder, expression=licence, allowed=allowed, strict=not declared)
        for name, folder in zip(names, folders, strict=True)
    }
    refused = [name for name in names if not (any_licence or licences[name].accepted)]
    taken = [f for f, name in zip(folders, names, strict=True) if name not in refused]
    if not taken:
        raise UserError(
            f"The licence of '{refused[0]}' ({licences[refused[0]].expression or 'none found'}) is "
            "not allowed: allow it by --allow, or look at none with --any-licence."
        )
    modules, failures = compiled_folders(
        taken, languages=language or None, seconds=seconds, memory=round(memory * GIBIBYTE)
    )
    if not modules and not failures:
        raise UserError("There is no source of these languages in the folders.")
    kept = unique_modules(modules)
    records = ir_records(modules)
    before = audit_corpus([r.key for r in records], [r.language for r in records])
    left = [r for r in records if r.optimised_key]
    after = audit_corpus([r.optimised_key for r in left], [r.language for r in left])
    if out is not None:
        write_corpus(kept, out, licences)
    reasons = failures_by_reason(failures).most_common()
    told = {
        "modules": len(modules), "kept": len(kept), "functions": before.records,
        "distinct": before.distinct, "duplication": before.duplication,
        "duplication_optimised": after.duplication,
        "overlap": {
            f"{a} {b}": before.overlap[i, j]
            for i, a in enumerate(before.groups) for j, b in enumerate(before.groups) if i < j
        },
        "refused": {name: licences[name].expression for name in refused},
        "failed": dict(reasons), "out": out,
    }  # fmt: skip
    if json:
        options.print_json(told)
        return
    show(told)


def show(told: dict) -> None:
    """The audit as a table, and what was left out with its reasons."""
    from rich.table import Table

    console = options.console()
    table = Table("language", "functions", "distinct", "copies", "copies after -O3")
    for name, functions in told["functions"].items():
        late = told["duplication_optimised"].get(name, float("nan"))
        table.add_row(
            name, str(functions), str(told["distinct"][name]),
            f"{told['duplication'][name]:.1%}", f"{late:.1%}",
        )  # fmt: skip
    console.print(table)
    for pair, share in told["overlap"].items():
        console.print(f"{pair.replace(' ', ' and ')} share {share:.1%}")
    console.print(f"{told['modules']} files compiled, {told['kept']} of them distinct")
    for why, count in list(told["failed"].items())[:5]:
        console.print(f"{count} not compiled: {why}", soft_wrap=True)
    for name, expression in told["refused"].items():
        console.print(
            f"'{name}' left out: its licence ({expression or 'none found'}) is not allowed"
        )
    if told["out"] is not None:
        console.print(f"Written: {told['out']}", soft_wrap=True)
