"""Commands that are killed or interrupted where it hurts most; scripts/kills.py does it at random.

Each test kills the real command, and finishes its work in this process.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from candlecast.errors import RegistrationError
from conftest import SMALL, register

pytestmark = pytest.mark.slow
TEXTS = "tickers=AAPL IBM,start=2010-01-01,estimators=forest_5 forest_10 forest_20,folds=3"


def start(project: Path, *options: str, candidate: str = "killed") -> subprocess.Popen[str]:
    """Start ``kedro run`` under the data root ``data`` beside the project."""
    return subprocess.Popen(
        [
            str(Path(sys.executable).with_name("kedro")),
            *("run", *options, "--params"),
            f"{TEXTS},candidate={candidate},data_root={project.parent / 'data'},"
            "evaluation.repetitions=1000",
        ],
        cwd=project,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(running: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    while not condition():
        assert running.poll() is None, running.communicate()[1]
        time.sleep(0.01)


def statuses(store: Path) -> list[str]:
    with closing(sqlite3.connect(store)) as opened:
        return [status for (status,) in opened.execute("SELECT status FROM runs")]


def test_fault_24_a_store_that_was_killed_while_it_was_made_is_made_again(project, run, tmp_path):
    folder = tmp_path / "data/mlflow"
    for seconds in (0.1, 0.6):  # MLflow takes more than a second
        (folder / "unfinished.db").unlink(missing_ok=True)
        with start(project, "--tags", "ingest") as running:
            wait_for(running, (folder / "unfinished.db").exists)
            time.sleep(seconds)
            os.killpg(running.pid, signal.SIGKILL)
        assert not (folder / "mlflow.db").exists()
    run(**SMALL, tags=["ingest"])
    assert [file.name for file in folder.glob("*.db*")] == ["mlflow.db"]
    assert statuses(folder / "mlflow.db") == ["FINISHED"]


def test_fault_24_of_two_first_runs_at_once_one_is_refused(project, tmp_path):
    first, second = (start(project, "--tags", "ingest", candidate=name) for name in ("a", "b"))
    with first, second:
        outputs = {each.communicate()[1]: each.returncode for each in (first, second)}
    assert sorted(outputs.values()) == [0, 1]
    [refused] = [output for output, code in outputs.items() if code]
    [line] = refused.splitlines()
    assert f"{tmp_path / 'data'} is locked by candidate" in line
    assert statuses(tmp_path / "data/mlflow/mlflow.db") == ["FINISHED"]


def test_fault_24_an_interrupt_in_a_spark_job_ends_in_one_line(project, stored, run, tmp_path):
    windows = stored / "tables/windows"
    before = set(windows.rglob("*.parquet"))
    with start(project, "--tags", "preprocess") as running:
        wait_for(running, lambda: set(windows.rglob("*.parquet")) - before)
        os.killpg(running.pid, signal.SIGINT)
        output = running.communicate()[1]
    assert running.returncode == 130
    lines = output.splitlines()
    assert [" INFO " in line for line in lines] == [True] * (len(lines) - 1) + [False]
    assert "Ended by SIGINT" in lines[-1]
    assert sorted(statuses(stored / "mlflow/mlflow.db")) == ["FINISHED", "FINISHED", "KILLED"]
    run(**SMALL, candidate="killed", tags=["preprocess"])


def test_fault_24_a_run_that_was_killed_late_is_repeated_without_a_trace(project, stored, run):
    report = stored / "reporting/report.html"
    before = report.stat().st_mtime
    with start(project, "--tags", "train,evaluate") as running:
        wait_for(running, lambda: report.stat().st_mtime > before)
        os.kill(running.pid, signal.SIGKILL)
    store = stored / "mlflow/mlflow.db"
    assert sorted(statuses(store)) == ["FINISHED", "FINISHED", "RUNNING"]
    with pytest.raises(RegistrationError, match="KILLED"):
        register(run, "killed")
    run(**SMALL, candidate="killed", tags=["train", "evaluate"])
    assert statuses(store) == ["FINISHED"] * 3
    with closing(sqlite3.connect(store)) as opened:
        twice = "SELECT key FROM metrics GROUP BY run_uuid, key HAVING count(*) > 1"
        again = {key for (key,) in opened.execute(twice)}
    assert not any(key.startswith(("validation.", "importance.", "gate.")) for key in again)
    run(**SMALL, candidate="killed", tags=["evaluate"])  # of the same model
    with closing(sqlite3.connect(store)) as opened:
        points = "SELECT max(n) FROM (SELECT count(*) AS n FROM metrics GROUP BY run_uuid, key)"
        assert opened.execute(points).fetchone()[0] <= 2  # one per model
    runs = mlflow.search_runs(output_format="list")
    metrics = {run.data.tags["candidate"]: run.data.metrics for run in runs}
    assert metrics["killed"].keys() >= metrics["second"].keys()
    for name, value in metrics["second"].items():
        if "champion" not in name:
            assert metrics["killed"][name] == value, name
