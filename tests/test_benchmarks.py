"""Every benchmark runs in its quick size."""

import os
import subprocess
import sys

import pytest

from conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.mark.slow
def test_every_benchmark_runs_in_its_quick_size():
    # MLflow's own setting: it gives up inferring pip requirements, which takes 6 s a model.
    environment = {**os.environ, "MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT": "0"}
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "bench.py"), "--quick"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    sections = [line for line in done.stdout.splitlines() if line and not line.startswith(" ")]
    contenders = {"original.py", "bare.py"}  # bench.py runs them in its own comparisons
    peers = {file.name for file in BENCHMARKS.glob("*.py")} - {"bench.py"} - contenders
    assert {line for line in sections if line.endswith(".py")} == peers
    assert "original, five autologged runs" in done.stdout
    assert "bare script" in done.stdout
