"""Old versions of tables go, those that somebody refers to stay readable."""

import os
import re
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from kedro.io import DatasetError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from candlecast.io.delta import DeltaDataset
from candlecast.io.delta_log import Log, is_readable, remove_old_files
from candlecast.runtime.spark import _clear
from conftest import SMALL, Run


def rows(spark: SparkSession, number: int) -> DataFrame:
    ticker = F.lit("A" if number % 2 else "B").alias("ticker")
    return spark.range(10).select(ticker, F.col("id"), F.lit(number).alias("number"))


def age(folder: Path, *, days: float) -> None:
    """Make a table older: the times in its commits, and those of its files."""

    def earlier(found: re.Match[str]) -> str:
        return f'"timestamp":{int(found[1]) - round(days * 86_400_000)}'

    for commit in (folder / "_delta_log").glob("*.json"):
        commit.write_text(re.sub(r'"timestamp":(\d+)', earlier, commit.read_text()))
        commit.with_name(f".{commit.name}.crc").unlink(missing_ok=True)
    for file in folder.rglob("*"):
        moment = file.stat().st_mtime - days * 86_400
        os.utime(file, (moment, moment))


@pytest.fixture(scope="module")
def versions(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of four versions: two tickers, each replaced once."""
    folder = tmp_path_factory.mktemp("tables") / "prices"
    table = DeltaDataset(table=str(folder), replace_by="ticker")
    for number in range(4):
        table.save(rows(spark, number))
    return folder


def readable(folder: Path) -> list[int]:
    return [version for version in range(4) if is_readable(folder, version)]


def test_versions_replaced_long_ago_go_and_protected_ones_stay(
    versions: Path, spark: SparkSession, tmp_path: Path
) -> None:
    folder = tmp_path / "prices"
    shutil.copytree(versions, folder)
    orphan = folder / "part-00000-orphan.snappy.parquet"
    orphan.write_bytes(b"half")
    assert remove_old_files(folder, time.time() - 86_400, set()) == 0
    assert readable(folder) == [0, 1, 2, 3]
    age(folder, days=2)
    young = folder / "part-00001-young.snappy.parquet"
    young.write_bytes(b"of a write that was just killed")
    content = {
        version: spark.read.option("versionAsOf", version).format("delta").load(str(folder)).count()
        for version in (0, 3)
    }
    assert remove_old_files(folder, time.time() - 86_400, {0}) > 0
    assert not orphan.exists()
    assert young.exists()
    assert readable(folder) == [0, 3]
    for version, count in content.items():
        frame = spark.read.option("versionAsOf", version).format("delta").load(str(folder))
        assert frame.count() == len(frame.collect()) == count
    assert Log(folder).find(3).files <= {*folder.iterdir()}
    pinned = DeltaDataset(table=str(folder), replace_by="ticker")
    pinned.pin = 2
    with pytest.raises(DatasetError, match="no longer has version 2"):
        pinned.load()


@pytest.mark.slow
def test_a_run_removes_what_only_old_versions_need(run: Run, stored: Path) -> None:
    """Of the tables that it writes; the champion's and the second candidate's versions stay."""
    tables = {name: stored / "tables" / name for name in ("prices", "train", "windows")}
    before = {name: len([*folder.glob("*.parquet")]) for name, folder in tables.items()}
    run(**SMALL, tags=["ingest", "preprocess"], candidate="third")
    assert all(is_readable(tables[name], 0) for name in tables)  # of the champion's candidate
    run(**SMALL, tags=["ingest", "preprocess"], candidate="fourth", keep_versions_days=0)
    assert is_readable(tables["prices"], 0)
    assert is_readable(tables["train"], 0)
    assert not is_readable(tables["windows"], 0)
    assert not is_readable(tables["prices"], 1)  # of the second candidate, and older than 0 days
    assert is_readable(tables["windows"], 3)
    assert len([*tables["windows"].glob("*.parquet")]) < before["windows"]


@pytest.mark.slow
def test_a_candidate_that_ended_lately_keeps_its_versions(run: Run, stored: Path) -> None:
    prices = stored / "tables/prices"
    run(**SMALL, tags=["ingest"], candidate="third")
    age(prices, days=40)
    with closing(sqlite3.connect(stored / "mlflow/mlflow.db")) as store, store:
        store.execute("UPDATE runs SET end_time = 0 WHERE name = 'first'")
    run(**SMALL, tags=["ingest"], candidate="fourth")
    assert is_readable(prices, 0)  # the champion's
    assert is_readable(prices, 1)  # the second candidate's, whose run ended today
    run(**SMALL, tags=["ingest"], candidate="fifth", keep_versions_days=0)
    assert is_readable(prices, 0)
    assert not is_readable(prices, 1)


def test_what_dead_sessions_have_left_goes_when_one_starts(tmp_path: Path) -> None:
    left = tmp_path / "blockmgr-1" / "spilled"
    left.parent.mkdir()
    left.touch()
    (tmp_path / "spark.log").touch()
    _clear(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]
    left.parent.mkdir()
    left.touch()
    _clear(tmp_path)  # the session above may still be alive
    assert left.exists()
