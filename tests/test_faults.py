"""Faults of the whole command: one clear error, an exit code that is not 0, nothing half-written.

Named after the list of faults that a trusted system answers; those of a source of prices are in
test_yahoo.py and test_yahoo_environment.py, those of single functions beside them.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from candlecast.errors import CandlecastError, RefusedError, TooLittleHistoryError
from candlecast.hooks import BusyError, MixedTablesError, OtherRunError
from candlecast.spark import SparkUnavailableError, java_version
from conftest import SMALL, kedro

TINY = "tickers=AAPL IBM,start=2010-01-01,folds=3"


def change_sample(project, change):
    """Rewrite the sample of a copied project."""
    file = project / "data/sample/prices.csv"
    table = pd.read_csv(file)
    change(table).to_csv(file, index=False)


def refused(done, *words):
    """Assert that a command was refused by one clear error, and return it."""
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if "  ERROR   " in line]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    return errors[0]


def no_table(project):
    return not (project / "data/tables").exists()


def test_fault_07_too_many_missing_opens_are_refused(project):
    def change(table):
        table.loc[table["ticker"].eq("IBM") & (table.index % 10 == 0), "open"] = None
        return table

    change_sample(project, change)
    refused(kedro(project, "run", "--params", TINY), "max_missing_share", "IBM: 80 of 795 rows")
    assert no_table(project)


def test_fault_08_a_price_that_can_not_be_is_refused(project):
    def change(table):
        table.loc[table["ticker"].eq("IBM") & table["session"].eq("2011-03-01"), "low"] = -1.0
        return table

    change_sample(project, change)
    refused(
        kedro(project, "run", "--params", TINY),
        "IBM: 1 of 795 rows of prices break the rule 'prices are positive'",
        "2011-03-01",
    )
    assert no_table(project)


def test_fault_09_a_missing_column_is_refused(project):
    change_sample(project, lambda table: table.rename(columns={"close": "Close"}))
    refused(kedro(project, "run", "--params", TINY), "expected", "close", "Close")
    assert no_table(project)


def test_fault_10_unsorted_rows_and_columns_give_the_same(run, project, tmp_path, monkeypatch):
    def change(table):
        shuffled = table.sample(frac=1, random_state=1)
        return shuffled[sorted(shuffled.columns, reverse=True)]

    run(**SMALL, data_root=str(tmp_path / "sorted"))
    change_sample(project, change)
    source = project / "data/sample/prices.csv"
    monkeypatch.setattr("candlecast.datasets.SampleSource.__init__", _reading(source))
    run(**SMALL, data_root=str(tmp_path / "shuffled"))
    one, other = (
        (tmp_path / name / "reporting/metrics.json").read_text() for name in ("sorted", "shuffled")
    )
    assert one == other


def _reading(file):
    def init(self, *, filepath, ingested_at, metadata=None):
        self._filepath, self._ingested_at, self.metadata = file, ingested_at, metadata

    return init


def test_fault_17_orphan_files_of_a_killed_write_are_not_read(run, spark, tmp_path):
    run(**SMALL, tags=["ingest"])
    folder = tmp_path / "data/tables/prices"
    whole = spark.read.format("delta").load(str(folder)).count()
    (some_file,) = list(folder.glob("*.parquet"))[:1]
    (folder / "part-00009-orphan.snappy.parquet").write_bytes(some_file.read_bytes())
    (folder / "part-00010-half.snappy.parquet").write_bytes(some_file.read_bytes()[:100])
    assert spark.read.format("delta").load(str(folder)).count() == whole
    run(**SMALL)
    assert spark.read.format("delta").load(str(folder)).count() == whole


def test_prices_that_a_forecast_fetched_meanwhile_do_not_stop_a_candidate(run, spark, tmp_path):
    """Its champion is compared on the prices that its test set was made of."""
    run(**SMALL, candidate="slow", tags=["ingest", "preprocess"])
    table = str(tmp_path / "data/tables/prices")
    spark.sql(f"DELETE FROM delta.`{table}` WHERE session > '2012-12-31'")
    run(**SMALL, candidate="slow", tags=["train", "evaluate"])
    versions = {
        name: value
        for name, value in MlflowClient(f"sqlite:///{tmp_path}/data/mlflow/mlflow.db")
        .search_runs(["1"])[0]
        .data.tags.items()
        if name.startswith("version.")
    }
    assert versions["version.prices"] == "0"


def test_fault_18_a_mix_of_table_versions_is_refused_and_mended(run, tmp_path):
    """Killed after prices and quality were written anew, before windows were."""
    run(**SMALL, candidate="mixed")
    run(**SMALL, candidate="mixed", tags=["ingest"])
    with pytest.raises(MixedTablesError, match=r"type: kedro run \(with the same"):
        run(**SMALL, candidate="mixed", tags=["evaluate"])
    run(**SMALL, candidate="mixed")
    run(**SMALL, candidate="mixed", tags=["evaluate"])


def test_what_was_made_for_another_is_refused(run):
    """Another candidate's scores, other parameters of the same candidate, tables of other ones."""
    run(**SMALL, candidate="one")
    with pytest.raises(OtherRunError, match="test_scores was made with candidate=one, and two is"):
        run(**SMALL, candidate="two", tags=["evaluate"])
    with pytest.raises(OtherRunError, match="Candidate one was begun with folds=3; now it is 4"):
        run(**{**SMALL, "folds": 4}, candidate="one", tags=["train"])
    with pytest.raises(OtherRunError, match="train was made with window=14, and 5 is asked for"):
        run(**SMALL, window=5, tags=["train", "evaluate"])
    with pytest.raises(CandlecastError, match="Never fetched: MSFT"):
        run(**{**SMALL, "tickers": ["AAPL", "MSFT"]}, tags=["preprocess"])


def test_fault_19_a_full_disk_leaves_the_old_version(run, project, spark, tmp_path):
    """On a real small file system that fills up during the second run."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)], check=True)
    try:
        run(**SMALL, data_root=str(disk), tags=["ingest"])
        prices = str(disk / "tables/prices")
        before = spark.read.format("delta").load(prices).count()
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        (disk / "filler").write_bytes(b"0" * (free - 60_000))
        done = kedro(project, "run", "--tags", "ingest", "--params", f"{TINY},data_root={disk}")
        assert done.returncode != 0
        [error] = [line for line in done.stderr.splitlines() if "  ERROR   " in line]
        assert f"The disk of {disk} is full" in error
        assert spark.read.format("delta").load(prices).count() == before
        runs = MlflowClient(f"sqlite:///{disk}/mlflow/mlflow.db").search_runs(["1"])
        assert sorted(tracked.info.status for tracked in runs) == ["FAILED", "FINISHED"]
        (disk / "filler").unlink()
        run(**SMALL, data_root=str(disk), tags=["ingest"])
        assert spark.read.format("delta").load(prices).count() == before
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_fault_20_too_little_history_is_refused_before_spark(project):
    done = kedro(project, "run", "--params", "tickers=FB")
    refused(done, "There are 196 session dates in all and 281 are needed")
    assert no_table(project)
    assert not (project / "data/spark").exists()


def test_a_failed_run_is_marked_as_failed(run, tmp_path):
    with pytest.raises(TooLittleHistoryError):
        run(tickers=["FB"])
    [tracked] = MlflowClient(f"sqlite:///{tmp_path}/data/mlflow/mlflow.db").search_runs(["1"])
    assert tracked.info.status == "FAILED"


def test_fault_24_a_second_run_at_the_same_time_is_refused(run, tmp_path):
    (tmp_path / "data").mkdir()
    with (tmp_path / "data/run.lock").open("w") as held:
        held.write("candidate other, process 1, since noon")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="candidate other, process 1, since noon"):
            run(**SMALL)
    run(**SMALL, tags=["ingest"])
    run(**SMALL, tags=["ingest"])


def test_fault_24_a_killed_run_leaves_no_lock(project):
    running = subprocess.Popen(
        [str(Path(sys.executable).with_name("kedro")), "run"],
        cwd=project,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    lock = project / "data/run.lock"
    for _ in range(600):
        if lock.exists() and lock.read_text():
            break
        time.sleep(0.1)
    busy = kedro(project, "run", "--tags", "ingest")
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    refused(busy, "Another run is at work in", f"process {running.pid}")
    done = kedro(project, "run", "--tags", "ingest")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("script", "came"),
    [
        (None, "found none in JAVA_HOME="),
        ("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n", "found Java 11 at"),
        ("#!/bin/sh\necho nonsense >&2\n", "says 'nonsense'"),
    ],
)
def test_fault_26_java_missing_or_too_old(tmp_path, monkeypatch, script, came):
    (tmp_path / "bin").mkdir()
    if script:
        java = tmp_path / "bin/java"
        java.write_text(script)
        java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(SparkUnavailableError, match="needs Java 17 or later") as raised:
        java_version()
    assert came in str(raised.value)
    assert "apt-get install openjdk-17-jre-headless" in str(raised.value)


def test_fault_26_the_command_says_it_in_one_line(project, tmp_path):
    done = kedro(
        project, "run", "--params", TINY, env={**os.environ, "JAVA_HOME": str(tmp_path / "no")}
    )
    refused(done, "candlecast needs Java 17 or later")
    assert no_table(project)


def test_fault_28_a_typo_is_refused_with_the_near_match(project):
    done = kedro(project, "run", "--params", "windw=14,test_fraction=much")
    refused(done, "windw: unknown parameter; did you mean window?", "test_fraction", "'much'")
    assert not (project / "data/mlflow").exists()


def test_a_contract_broken_by_one_ticker_keeps_what_was_stored(
    run, project, spark, tmp_path, monkeypatch
):
    """Kept data is never worse than before the run."""
    run(**SMALL, tags=["ingest"])
    folder = str(tmp_path / "data/tables/prices")
    before = spark.read.format("delta").load(folder).count()

    def change(table):
        table.loc[table["ticker"].eq("IBM") & table["session"].eq("2011-03-01"), "high"] = 1.0
        return table

    change_sample(project, change)
    monkeypatch.setattr(
        "candlecast.datasets.SampleSource.__init__", _reading(project / "data/sample/prices.csv")
    )
    with pytest.raises(RefusedError, match="high >= low"):
        run(**SMALL, tags=["ingest"])
    assert spark.read.format("delta").load(folder).count() == before
    history = spark.sql(f"DESCRIBE HISTORY delta.`{folder}`").count()
    assert history == 1
    mlflow.set_tracking_uri(None)
