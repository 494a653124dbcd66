"""Generated programs, compiled: one algorithm in three languages and what compilers make of it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from generality.benchmarks.ir_compilers import LANGUAGES, emit_ir, need_compilers
from generality.benchmarks.llvm_ir import ir_functions, normalize_ir
from generality.benchmarks.worlds.algorithm_programs import (
    HEADERS,
    algorithm_programs,
    module_source,
)
from generality.errors import UserError

_ALIAS = re.compile(r"^@(\w+) = .*\balias .*, ptr @(\w+)$", re.M)
_SUFFIX = {language: suffix for suffix, language in reversed(LANGUAGES.items())}


def compile_programs(count: int, *, seed: int, **options: Any) -> list[dict[str, Any]]:
    """`algorithm_programs` as a compiler of each language sees them; one record a function.

    A record has `language`, `algorithm`, `program`, `package`, and the function as `source`,
    `raw` (IR before optimisation, as printed), `ir` (the same, normalised) and `optimised` (after
    -O3, normalised).

    Raises:
        UserError: a compiler is missing.
    """
    compilers = need_compilers(list(HEADERS))
    functions = algorithm_programs(count, seed=seed, **options)
    records = []
    for language, compiler in compilers.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"programs{_SUFFIX[language]}"
            path.write_text(module_source(functions, language))
            # Constants are named by a hash of where the source lies, which is elsewhere each time.
            here = f"--remap-path-prefix={path.parent.resolve()}=."
            edition = ["--edition=2021", here] if language == "rust" else []
            texts = []
            for optimised in (False, True):
                text, why = emit_ir(
                    compiler, language, path, options=edition, optimised=optimised, seconds=300
                )
                if why:
                    raise UserError(f"{compiler.version} does not compile {path.name}: {why}")
                bodies = {f.name: f.text for f in ir_functions(text)}
                for alias, target in _ALIAS.findall(text):  # -O3 folds functions that are equal
                    bodies.setdefault(alias, bodies.get(target, ""))
                texts.append(bodies)
        for function in functions:
            before, after = (text[function.name] for text in texts)
            records.append(
                {
                    "language": language, "algorithm": function.algorithm,
                    "program": function.program, "package": function.package,
                    "source": function.sources[language], "raw": before,
                    "ir": normalize_ir(before), "optimised": normalize_ir(after),
                }
            )  # fmt: skip
    return records
