"""Old versions of tables and their log go, those that somebody refers to stay readable."""

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

from candlecast.errors import DamageError
from candlecast.io.delta import DeltaDataset
from candlecast.io.delta_log import (
    Log,
    find_damage,
    is_readable,
    read_version,
    remove_old_files,
)
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
    assert [*Log(folder).commits] == [0, 1, 2, 3]
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


# --- A log with checkpoints -----------------------------------------------------------------------

Rows = list[tuple[str, int, int]]
KEPT = {3, 7}
"""Versions of `long` that are kept. Its checkpoints are 5 and 10, its newest version is 12."""


def test_spark_reads_an_old_version_of_a_folder(spark: SparkSession, tmp_path: Path) -> None:
    """Delta refuses versions that were written before its own time of retention."""
    table = DeltaDataset(table=f"{tmp_path}/prices", replace_by="ticker", keep_days=0)
    for number in range(2):
        table.save(rows(spark, number))
    table.pin = 0
    assert table.load().count() == 10


def test_versions_of_a_named_table_can_be_kept_for_months(spark: SparkSession) -> None:
    table = DeltaDataset(table="spark_catalog.kept.long", keep_days=90)
    table.save(rows(spark, 0))
    found = spark.sql(f"SHOW TBLPROPERTIES {table._sql_name}").collect()
    kept = {row["key"]: row["value"] for row in found if "Retention" in row["key"]}
    assert kept == {
        "delta.deletedFileRetentionDuration": "interval 7776000 seconds",
        "delta.logRetentionDuration": "interval 90 days",
    }


@pytest.fixture(scope="module")
def long(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 13 versions that are two days old, with a checkpoint every five.

    Each adds the rows of its number; every fourth replaces what there is, and 10 is maintenance.
    """
    folder = tmp_path_factory.mktemp("tables") / "prices"
    for number in range(13):
        if number == 10:
            spark.sql(f"ALTER TABLE delta.`{folder}` SET TBLPROPERTIES ('a' = 'b')")
            continue
        writer = rows(spark, number).coalesce(1).write.format("delta")
        writer = writer.option("delta.checkpointInterval", "5")  # at the first write
        writer.mode("append" if number % 4 else "overwrite").save(str(folder))
    age(folder, days=2)
    return folder


def expected(version: int) -> Rows:
    """The rows of a version of `long`."""
    numbers = {*range(version - version % 4, version + 1)} - {10}
    return sorted(("BA"[number % 2], id_, number) for number in numbers for id_ in range(10))


@pytest.fixture
def copy(long: Path, tmp_path: Path) -> Path:
    """A copy of `long`."""
    return Path(shutil.copytree(long, tmp_path / "prices"))


def by_spark(spark: SparkSession, folder: Path, version: int | None = None) -> Rows:
    reader = spark.read if version is None else spark.read.option("versionAsOf", version)
    return sorted(map(tuple, reader.format("delta").load(str(folder)).collect()))


def without_spark(folder: Path, version: int) -> Rows:
    found = read_version(folder, version)
    assert found is not None
    return sorted(tuple(row.values()) for row in found.to_pylist())


def clean(folder: Path, versions: set[int] = KEPT) -> None:
    remove_old_files(folder, time.time() - 86_400, versions)


def entry(folder: Path, number: int, kind: str = "json") -> Path:
    return folder / f"_delta_log/{number:020d}.{kind}"


def test_the_log_keeps_what_kept_versions_are_read_from(spark: SparkSession, copy: Path) -> None:
    clean(copy)
    assert [*Log(copy).commits] == [0, 1, 2, 3, 5, 6, 7, 10, 11, 12]
    assert [*Log(copy).checkpoints] == [5, 10]
    left = {file.name.strip(".")[:20] for file in copy.glob("_delta_log/*0*")}
    assert left == {f"{version:020d}" for version in Log(copy).commits}
    for version in (*KEPT, 12):
        assert by_spark(spark, copy, version) == without_spark(copy, version) == expected(version)
    assert find_damage(copy) is None
    table = DeltaDataset(table=str(copy), replace_by="ticker")
    for version in (4, 8, 9):
        assert not is_readable(copy, version)
        table.pin = version
        with pytest.raises(DatasetError, match=f"no longer has version {version}"):
            table.load()


def test_a_table_whose_log_has_gaps_is_written_restored_and_cleaned(
    spark: SparkSession, copy: Path
) -> None:
    clean(copy)
    whole = rows(spark, 13).write.format("delta").mode("overwrite")
    whole.option("txnAppId", "another").option("txnVersion", "13").save(str(copy))
    history = spark.sql(f"DESCRIBE HISTORY delta.`{copy}`").collect()
    assert [row["version"] for row in history] == [13, 12, 11, 10, 7, 6, 5, 3, 2, 1, 0]
    spark.sql(f"RESTORE TABLE delta.`{copy}` TO VERSION AS OF 7")
    assert by_spark(spark, copy) == expected(7)
    table = DeltaDataset(table=str(copy), replace_by="ticker")
    table.save(rows(spark, 15))
    age(copy, days=2)
    clean(copy)
    assert [*Log(copy).commits] == [0, 1, 2, 3, 5, 6, 7, 15]  # the newest is a checkpoint
    rows(spark, 16).write.format("delta").mode("append").save(str(copy))
    assert {row[2] for row in by_spark(spark, copy)} == {4, 6, 15, 16}
    for version in KEPT:
        assert by_spark(spark, copy, version) == expected(version)


def test_maintenance_after_a_gap_is_not_a_version_before_the_gap(copy: Path) -> None:
    for file in [*copy.glob("_delta_log/*00011.*"), *copy.glob("_delta_log/*00012.*")]:
        file.unlink()
    clean(copy)
    assert [*Log(copy).commits] == [0, 1, 2, 3, 5, 6, 7, 10]
    table = DeltaDataset(table=str(copy))
    assert table.find_commit(None).version == 10
    assert table.find_commit(7).version == 7
    with pytest.raises(DatasetError, match="no longer has version 9"):
        table.find_commit(9)


def test_a_clean_up_that_is_killed_leaves_what_is_needed_and_is_finished_by_the_next(
    spark: SparkSession, long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink, left = Path.unlink, 1_000

    class Killed(BaseException):
        pass

    def counted(path: Path, missing_ok: bool = False) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        unlink(path, missing_ok=missing_ok)

    def files(folder: Path) -> set[Path]:
        return {file.relative_to(folder) for file in folder.rglob("*")}

    monkeypatch.setattr(Path, "unlink", counted)
    whole = shutil.copytree(long, tmp_path / "whole")
    clean(whole)
    count = 1_000 - left
    for number in range(count):
        folder = shutil.copytree(long, tmp_path / f"{number}/prices")
        left = number
        with pytest.raises(Killed):
            clean(folder)
        assert find_damage(folder) is None
        for version in (*KEPT, 12):
            assert without_spark(folder, version) == expected(version)
        if number == count - 8:  # within the log
            assert by_spark(spark, folder, 7) == expected(7)
            assert by_spark(spark, folder) == expected(12)
            assert spark.sql(f"DESCRIBE HISTORY delta.`{folder}`").count()
        left = 1_000
        clean(folder)
        assert files(folder) == files(whole)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


def test_fault_51_a_damaged_checkpoint_that_the_log_can_do_without(
    spark: SparkSession, copy: Path
) -> None:
    checkpoint = entry(copy, 10, "checkpoint.parquet")
    flip(checkpoint)
    table = DeltaDataset(table=str(copy), replace_by="ticker")
    with pytest.raises(DatasetError) as caught:  # by Spark, which takes no other way
        table.save(rows(spark, 13))
    sums = f".{checkpoint.name}.crc"
    assert f"{checkpoint} is damaged" in str(caught.value)
    assert f"delete it and {sums}, then run again" in str(caught.value)
    checkpoint.unlink()
    checkpoint.with_name(sums).unlink()
    assert find_damage(copy) is None
    assert by_spark(spark, copy) == expected(12)


def test_fault_51_a_checkpoint_that_is_needed(copy: Path) -> None:
    clean(copy)
    older, newest = (entry(copy, number, "checkpoint.parquet") for number in (5, 10))
    content = older.read_bytes()
    older.write_bytes(content[:-100])
    assert find_damage(copy) is None  # the newest version is whole
    files = {*copy.rglob("*")}
    with pytest.raises(DamageError) as caught:
        clean(copy, set())
    assert caught.value.file == older
    assert f"delete it and .{older.name}.crc" in caught.value.cure
    with pytest.raises(DamageError):
        is_readable(copy, 7)
    assert {*copy.rglob("*")} == files
    older.write_bytes(content)
    flip(newest)
    damage = find_damage(copy)
    assert damage is not None
    assert damage.file == newest
    assert damage.cure.endswith("delete it and make it again: kedro run --tags ingest")
    newest.unlink()
    missing = find_damage(copy)
    assert missing is not None
    assert (missing.file, missing.cure) == (newest, damage.cure)


def test_fault_51_a_missing_commit_before_the_newest_checkpoint_is_no_damage(copy: Path) -> None:
    entry(copy, 8).unlink()
    assert find_damage(copy) is None
    assert not is_readable(copy, 9)
    assert is_readable(copy, 10)
    entry(copy, 11).unlink()
    damage = find_damage(copy)
    assert damage is not None
    assert damage.file == entry(copy, 11)


def test_fault_51_a_damaged_commit_with_a_checkpoint(spark: SparkSession, copy: Path) -> None:
    for number in (11, 12):
        entry(copy, number).unlink()
    commit = entry(copy, 10)
    commit.write_bytes(commit.read_bytes()[:100])
    damage = find_damage(copy)
    assert damage is None  # the checkpoint holds the newest version
    with pytest.raises(DatasetError) as caught:
        DeltaDataset(table=str(copy), replace_by="ticker").find_commit(None)
    assert f"{commit} is empty or cut off" in str(caught.value)
    assert f"all files in its folder with {commit.stem} in their name" in str(caught.value)
    for file in (copy / "_delta_log").glob(f"*{commit.stem}*"):
        file.unlink()
    assert by_spark(spark, copy) == without_spark(copy, 9) == expected(9)


# --- A run ----------------------------------------------------------------------------------------


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
    assert not is_readable(tables["train"], 1)  # of the second candidate, and older than 0 days
    assert is_readable(tables["windows"], 3)
    assert len([*tables["windows"].glob("*.parquet")]) < before["windows"]


@pytest.mark.slow
def test_a_candidate_that_ended_lately_keeps_its_versions(run: Run, stored: Path) -> None:
    train = stored / "tables/train"
    run(**SMALL, tags=["preprocess"], candidate="third")
    age(train, days=40)
    with closing(sqlite3.connect(stored / "mlflow/mlflow.db")) as store, store:
        store.execute("UPDATE runs SET end_time = 0 WHERE name = 'first'")
    run(**SMALL, tags=["preprocess"], candidate="fourth")
    assert is_readable(train, 0)  # the champion's
    assert is_readable(train, 1)  # the second candidate's, whose run ended today
    run(**SMALL, tags=["preprocess"], candidate="fifth", keep_versions_days=0)
    assert is_readable(train, 0)
    assert not is_readable(train, 1)


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
