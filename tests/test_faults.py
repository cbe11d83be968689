"""Faults of a whole run: one clear error, nothing half-written, kept data never worse than before.

The table of faults is docs/faults.md; those of a source of prices are in test_yahoo.py and
test_yahoo_environment.py, those of single functions beside them.
"""

import atexit
import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kedro.io import AbstractDataset, DataCatalog, DatasetError
from mlflow.tracking import MlflowClient
from py4j.protocol import Py4JError

from candlecast.errors import (
    CandlecastError,
    IncompatibleRunError,
    IngestError,
    LockedError,
    NotEnoughDataError,
    ParameterError,
    SparkUnavailableError,
)
from candlecast.runtime import interrupts
from candlecast.runtime.log import TRACEBACK, expected_message
from candlecast.runtime.spark import require_java
from conftest import ROOT, SMALL, kedro, run_session

DATA = {key: SMALL[key] for key in ("tickers", "start")}


def with_value(column, value, session="2011-03-01"):
    """Change a price of IBM."""

    def change(table):
        rows = table["ticker"].eq("IBM") & table["session"].eq(session)
        assert rows.sum() == 1
        return table.assign(**{column: table[column].mask(rows, value)})

    return change


def tracked(data_root):
    """The MLflow runs of a data root, the newest first."""
    return MlflowClient(f"sqlite:///{data_root}/mlflow/mlflow.db").search_runs(["1"])


def count(spark, data_root, table="prices"):
    return spark.read.format("delta").load(f"{data_root}/tables/{table}").count()


def without_many_opens(table):
    return table.assign(
        open=table["open"].mask(table["ticker"].eq("IBM") & (table.index % 10 == 0))
    )


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        pytest.param(
            without_many_opens, IngestError, "IBM: 80 of 795.*max_missing_share", id="fault_07"
        ),
        pytest.param(
            with_value("low", -1.0),
            IngestError,
            "IBM: 1 of 795.*prices are positive.*2011-03-01",
            id="fault_08",
        ),
        pytest.param(
            lambda table: table.rename(columns={"close": "Last"}),
            DatasetError,
            "no column for close; it has .*Last",
            id="fault_09",
        ),
    ],
)
def test_fault_07_08_09_impossible_prices_are_refused_before_any_write(
    run, sample, tmp_path, change, error, named
):
    with pytest.raises(error, match=f"(?s){named}"):
        run(**DATA, prices=sample(change))
    assert not (tmp_path / "data/tables").exists()


@pytest.mark.slow
def test_fault_10_unsorted_rows_and_columns_give_the_same(run, sample, trained, spark, tmp_path):
    def shuffle(table):
        shuffled = table.sample(frac=1, random_state=1)
        return shuffled[sorted(shuffled.columns, reverse=True)]

    run(**SMALL, prices=sample(shuffle), tags=["ingest", "preprocess"])
    for name in ("train", "test"):
        same, unsorted = (
            spark.read.format("delta").load(f"{root}/tables/{name}").orderBy("ticker", "session")
            for root in (trained, tmp_path / "data")
        )
        assert unsorted.collect() == same.collect()


def test_fault_17_orphan_files_of_a_killed_write_are_not_read(run, stored, spark):
    whole, folder = count(spark, stored), stored / "tables/prices"
    some_file = next(folder.glob("*.parquet"))
    (folder / "part-00009-orphan.snappy.parquet").write_bytes(some_file.read_bytes())
    (folder / "part-00010-half.snappy.parquet").write_bytes(some_file.read_bytes()[:100])
    assert count(spark, stored) == whole
    run(**SMALL, tags=["ingest", "preprocess"])
    assert count(spark, stored) == whole


def test_prices_that_a_forecast_fetched_meanwhile_do_not_stop_a_candidate(run, stored, spark):
    """Its champion is compared on the prices that its test set was made of."""
    prices = f"delta.`{stored}/tables/prices`"
    spark.sql(f"DELETE FROM {prices} WHERE session > '2012-12-31'")
    run(**SMALL, candidate="second", tags=["train", "evaluate"])
    [second] = [run for run in tracked(stored) if run.data.tags["candidate"] == "second"]
    assert second.data.tags["version.prices"] == "1"  # the deletion made 2
    scores = spark.read.format("delta").load(f"{stored}/tables/test_scores")
    assert {row[0] for row in scores.select("champion_version").distinct().collect()} == {1}
    assert scores.where("champion IS NULL").count() == 0  # also of sessions deleted meanwhile


def test_fault_18_a_mix_of_table_versions_is_refused_and_mended(run, stored):
    """Killed after prices and quality were written again, before windows were."""
    run(**SMALL, candidate="second", tags=["ingest"])
    with pytest.raises(IncompatibleRunError) as caught:
        run(**SMALL, candidate="second", tags=["evaluate"])
    assert sorted(caught.value.differences["prices"]) == [1, 2]  # of the run before and this one
    run(**SMALL, candidate="second")


def test_what_was_made_for_another_is_refused(run, stored):
    """Another candidate's predictions, and the same candidate's or tables with other parameters."""

    def differences(**given):
        with pytest.raises(IncompatibleRunError) as caught:
            run(**given)
        return caught.value.subject, caught.value.differences

    other = differences(**SMALL, candidate="other", tags=["evaluate"])
    assert other == ("table test_scores", {"candidate": ("second", "other")})
    changed = {**SMALL, "folds": 4, "gate": {"threshold": 0.1}}
    assert differences(**changed, candidate="second", tags=["train"]) == (
        "candidate second",
        {"folds": ("3", "4"), "gate.threshold": ("0.0", "0.1")},
    )
    # The lock is free again.
    narrow = differences(**SMALL, window=5, tags=["train", "evaluate"])
    assert narrow == ("tables train, test", {"window": (14, 5)})
    both = differences(**{**SMALL, "folds": 4}, window=5, candidate="second", tags=["train"])
    assert both[0] == "candidate second and tables train, test"
    assert both[1].keys() == {"folds", "purge", "window"}
    with pytest.raises(CandlecastError, match="MSFT"):
        run(**{**SMALL, "tickers": ["AAPL", "MSFT"]}, tags=["preprocess"])


@pytest.mark.slow
def test_fault_19_a_full_disk_leaves_the_old_version(tmp_path):
    """On a small file system that fills up during the second run: see full_disk.py."""
    alone = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    if not shutil.which("unshare"):
        pytest.skip("A small disk needs unshare (Linux)")
    own = ["unshare", "--mount", *alone]
    trial = subprocess.run(
        [*own, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if trial.returncode:
        pytest.skip(f"A small disk can't be mounted here: {trial.stderr.strip()}")
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        [*own, sys.executable, str(ROOT / "tests/full_disk.py"), str(disk)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == [found["rows"][0]] * 3  # before, when it was full, after
    assert found["statuses"] == ["FINISHED", "FAILED", "FINISHED"]
    [error] = found["error"].splitlines()
    assert f"{disk} is full" in error


def test_fault_20_too_little_history_is_refused_before_spark(run, tmp_path):
    with pytest.raises(NotEnoughDataError, match=r"196\D.*281\D"):
        run(tickers=["FB"])
    assert not (tmp_path / "data/tables").exists()
    assert not (tmp_path / "data/spark").exists()
    [failed] = tracked(tmp_path / "data")
    assert failed.info.status == "FAILED"


def test_fault_24_a_second_run_at_the_same_time_is_refused(run, tmp_path):
    (tmp_path / "data").mkdir()
    with (tmp_path / "data/run.lock").open("w") as held:
        held.write("candidate other, process 1, since noon")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(LockedError) as caught:
            run(**DATA)
        assert caught.value.holder == "candidate other, process 1, since noon"
    run(**DATA, tags=["ingest"])
    run(**DATA, tags=["ingest"])


def test_fault_24_a_killed_run_leaves_no_lock(project, run):
    data_root = project / "data"
    with subprocess.Popen(
        [Path(sys.executable).with_name("kedro"), "run", "--params", "tickers=AAPL IBM"],
        cwd=project,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as running:
        lock = data_root / "run.lock"
        for _ in range(600):
            if lock.exists() and lock.read_text():
                break
            time.sleep(0.1)
        try:
            with pytest.raises(LockedError, match=f"process {running.pid}"):
                run(**DATA, data_root=data_root, tags=["ingest"])
        finally:
            os.killpg(running.pid, signal.SIGKILL)
    run(**DATA, data_root=data_root, tags=["ingest"])


def test_fault_24_an_end_that_a_finalizer_swallowed_comes_with_the_next_node(monkeypatch):
    for module, name in (
        *((signal, "signal"), (logging, "disable"), (atexit, "register")),
        (interrupts, "stop_java"),
    ):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    hooks = interrupts.InterruptHooks()

    class Finalized:
        def __del__(self):
            hooks._end(signal.SIGTERM, None)

    hooks.before_node_run()
    Finalized()  # Python ignores what a finalizer raises
    with pytest.raises(SystemExit) as caught:
        hooks.before_node_run()
    assert caught.value.code == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("script", "found"),
    [
        (None, "none in JAVA_HOME="),
        ("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n", "Java 11"),
        ("#!/bin/sh\necho 'openjdk version \"25.0.2\" 2026-01-20 LTS' >&2\n", "Java 25"),
        ("#!/bin/sh\necho nonsense >&2\n", "nonsense"),
    ],
)
def test_fault_26_java_missing_too_old_or_too_new(tmp_path, monkeypatch, script, found):
    (tmp_path / "bin").mkdir()
    if script:
        java = tmp_path / "bin/java"
        java.write_text(script)
        java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(SparkUnavailableError) as caught:
        require_java()
    assert caught.value.needed == "Java 17 or 21"
    assert found in caught.value.found


def test_fault_26_the_command_ends_with_one_line(project, tmp_path):
    """As every refusal of the real command does."""
    done = kedro(project, "run", env={**os.environ, "JAVA_HOME": str(tmp_path / "no")})
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert ["  ERROR   " in line for line in lines] == [False] * (len(lines) - 1) + [True]
    assert "Java 17 or 21" in lines[-1]
    assert not (project / "data/tables").exists()


def test_fault_28_a_typo_is_refused_with_the_near_match_before_anything_is_written(run, tmp_path):
    with pytest.raises(ParameterError) as caught:
        run(windw=14, test_fraction="much")
    assert list(caught.value.faults) == ["test_fraction", "windw"]
    assert not (tmp_path / "data").exists()


# --- Messages and bugs ----------------------------------------------------------------------------


class Broken(AbstractDataset):
    """A dataset that raises."""

    def __init__(self, error):
        self.error = error

    def load(self):  # noqa: D102
        raise self.error

    def save(self, data):  # noqa: D102
        raise self.error

    def _describe(self):
        return {}


def test_a_bug_inside_a_dataset_is_not_a_message_for_users():
    """Kedro wraps both kinds of error in a DatasetError."""
    expected = ParameterError({"window": "is too wide"})
    bugs = [(error, None) for error in (ZeroDivisionError(), KeyError(1))]
    for error, message in ((expected, str(expected)), *bugs):
        catalog = DataCatalog({"broken": Broken(error)})
        with pytest.raises(DatasetError) as caught:
            catalog.load("broken")
        assert expected_message(caught.value) == message
        with pytest.raises(DatasetError) as caught:
            catalog.save("broken", 1)
        assert expected_message(caught.value) == message
    assert expected_message(expected) == str(expected)
    assert expected_message(DatasetError("of Kedro or of a plugin")) is None
    assert expected_message(ZeroDivisionError()) is None


def test_an_expected_error_is_one_line_and_a_variable_shows_its_traceback(
    tmp_path, monkeypatch, capsys
):
    def shown():
        with pytest.raises(ParameterError) as caught:
            run_session(tmp_path / "data", windw=14)
        sys.excepthook(caught.type, caught.value, caught.tb)
        return capsys.readouterr().err.splitlines()

    [line] = shown()
    assert "ERROR   windw: " in line
    monkeypatch.setenv(TRACEBACK, "1")
    first, *_, error, same = shown()
    assert first == "Traceback (most recent call last):"
    assert error.startswith("candlecast.errors.ParameterError: windw: ")
    assert "ERROR   windw: " in same
    monkeypatch.delenv(TRACEBACK)
    sys.excepthook(ZeroDivisionError, ZeroDivisionError("a bug"), None)
    assert capsys.readouterr().err == "ZeroDivisionError: a bug\n"


def test_fault_57_java_out_of_memory_is_one_line(tmp_path, capsys):
    """The error is the one that Spark raised with 5,000 tickers and 2 GB."""
    with pytest.raises(ParameterError):
        run_session(tmp_path / "data", windw=14)  # it sets the hook
    error = Py4JError("Answer from Java side is empty")
    sys.excepthook(Py4JError, error, None)
    assert "Answer from Java side is empty" in capsys.readouterr().err
    log = tmp_path / "data/spark/spark.log"
    log.parent.mkdir(parents=True)
    log.write_text("ERROR Executor: task 0.0\njava.lang.OutOfMemoryError: Java heap space\n")
    sys.excepthook(Py4JError, error, None)
    [line] = capsys.readouterr().err.splitlines()
    assert "ERROR   Java ran out of memory" in line
    assert "spark.driver.memory" in line
    sys.excepthook(ZeroDivisionError, ZeroDivisionError("a bug"), None)
    assert capsys.readouterr().err == "ZeroDivisionError: a bug\n"


def test_a_contract_broken_by_one_ticker_keeps_what_was_stored(run, sample, stored, spark):
    """Kept data is never worse than before the run."""
    before = count(spark, stored)
    with pytest.raises(IngestError, match="high >= low"):
        run(**SMALL, tags=["ingest"], prices=sample(with_value("high", 1.0)))
    assert count(spark, stored) == before
    history = spark.sql(f"DESCRIBE HISTORY delta.`{stored}/tables/prices`").count()
    assert history == 2  # of the first and the second candidate
