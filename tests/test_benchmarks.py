"""Every benchmark runs in its quick size."""

import json
import os
import re
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
    # bench.py itself runs the first two as contenders; figures.py is no benchmark
    others = {"original.py", "bare.py", "figures.py", "bench.py"}
    scripts = {file.name for file in BENCHMARKS.glob("*.py")} - others
    assert {line for line in done.stdout.splitlines() if line.endswith(".py")} == scripts
    figures = json.loads(written.read_text())["figures"]
    assert {each["peer"] for each in figures} == {
        *("original, five autologged runs", "bare script", "yfinance itself"),
        *("first ingest", "polars, Delta to Delta", "polars, Delta to Parquet"),
        *("scikit-learn, n_jobs=1", "scikit-learn, n_jobs=-1"),
        *("scikit-learn, all rows", "scikit-learn, 1,000 per tree"),
    }
    assert all(each["ratio"] == each["theirs"] / each["ours"] for each in figures)
    of_market = re.search(r"peak memory per process: (.*)", done.stdout)
    assert of_market and {*re.findall(r"([a-z]+)\w* [\d,]+ MB", of_market[1])} >= {"kedro", "java"}
