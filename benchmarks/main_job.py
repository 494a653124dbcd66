"""The main job twice: time from nothing, time again, identical rows, peak memory.

    python benchmarks/main_job.py [--scale small]

The first run starts without kept results (models are fetched beforehand); both are whole commands,
start of the interpreter included. Targets: at least 20 times faster again, identical rows, peak
resident memory under 4 GiB.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from generality.home import artifacts_home
from generality.lab import find_runs, read_run
from generality.models import fetch

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--scale", default="small")
scale = parser.parse_args().scale

for name in ("smollm2-135m", "minilm-l6", "vader-sentiment"):
    fetch(name)

with tempfile.TemporaryDirectory() as folder:
    home = Path(folder)
    (home / "artifacts").symlink_to(artifacts_home())
    command = [sys.executable, "-m", "generality", "run", "weak-to-strong", "--scale", scale]
    seconds, rows, report = [], [], []
    for _ in range(2):
        started = time.perf_counter()
        subprocess.run(
            [*command, "--out", str(home / "runs")],
            env={**os.environ, "GENERALITY_HOME": folder}, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        seconds.append(time.perf_counter() - started)
        rows.append(read_run(find_runs(home / "runs")[0]).rows)
        report.append(read_run(find_runs(home / "runs")[0]).environment["steps"])

peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
print(f"first run   {seconds[0]:8.1f} s   {report[0]}")
print(f"second run  {seconds[1]:8.1f} s   {report[1]}")
print(f"ratio       {seconds[0] / seconds[1]:8.1f}     (target 20)")
print(
    f"rows        {'identical' if rows[0].equals(rows[1]) else 'DIFFERENT'}, {len(rows[0])} of them"
)
print(f"peak memory {peak:8.2f} GiB (target below 4)")
