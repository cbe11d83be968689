"""Every benchmark runs in its quick size."""

import json
import os
import subprocess
import sys

import pytest

from conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.mark.slow
def test_every_benchmark_runs_in_its_quick_size(tmp_path):
    written = tmp_path / "figures.json"
    # MLflow's own setting: it gives up inferring pip requirements, which takes 6 s a model.
    environment = {**os.environ, "MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT": "0"}
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "bench.py"), "--quick", "--json", str(written)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    sections = [line for line in done.stdout.splitlines() if line and not line.startswith(" ")]
    # bench.py runs the first two in its own comparisons; figures.py is none; market.py runs alone
    others = {"original.py", "bare.py", "figures.py", "market.py", "bench.py"}
    assert {line for line in sections if line.endswith(".py")} == {
        file.name for file in BENCHMARKS.glob("*.py")
    } - others
    figures = json.loads(written.read_text())["figures"]
    assert {each["peer"] for each in figures} >= {
        *("original, five autologged runs", "bare script", "yfinance itself"),
        *("scikit-learn, all rows", "scikit-learn, n_jobs=1"),
    }
    assert all(each["ratio"] == each["theirs"] / each["ours"] for each in figures)


@pytest.mark.slow
def test_the_default_pipelines_run_on_a_small_market(tmp_path):
    written = tmp_path / "market.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "market.py"), "--quick", "--json", str(written)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(written.read_text())["peak_mb"].keys() >= {"kedro", "java"}
