"""Makes src/generality/benchmarks/ir_sample.json.gz anew: python benchmarks/ir_sample.py."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from generality.benchmarks.ir_corpus import compiled_folders, ir_records, plain
from generality.benchmarks.ir_programs import compile_programs
from generality.models import fetch

TARGET = Path(__file__).parents[1] / "src/generality/benchmarks/ir_sample.json.gz"
PACKAGES = {"sources-lz4": ["lz4"], "sources-pyclipper": ["clipper"],
            "sources-orjson": ["itoa", "ryu", "version_check"]}  # fmt: skip

if __name__ == "__main__":
    folders = [fetch(name) / part for name, parts in PACKAGES.items() for part in parts]
    records = [r for r in ir_records(compiled_folders(folders)[0]) if len(r.ir) < 1500]
    code = [
        r for lang in ("c", "c++", "rust") for r in [x for x in records if x.language == lang][:90]
    ]
    sample = {
        "code": plain(code),
        "programs": compile_programs(96, seed=0, distinct=60, packages=4),
    }
    with gzip.GzipFile(TARGET, "wb", compresslevel=9, mtime=0) as file:
        file.write(json.dumps(sample).encode())
    print(len(code), len(sample["programs"]), TARGET.stat().st_size)
