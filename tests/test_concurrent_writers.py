"""Two jobs that write the same table at once without a lock, as on Databricks.

Most tests interleave two datasets in one process; the slow one has two processes with a Spark each.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from kedro.io import DatasetError
from pyspark.sql import DataFrame, SparkSession

from candlecast.errors import ConcurrentWriteError
from candlecast.frames import Addition
from candlecast.io.delta import DeltaDataset

ROUNDS = 3


def rows(**closes: float) -> pd.DataFrame:
    return pd.DataFrame({"ticker": list(closes), "close": list(closes.values())})


def table(spark: SparkSession, dataset: DeltaDataset) -> list[tuple[str, float]]:
    return sorted(map(tuple, spark.table(dataset._sql_name).collect()))


@pytest.fixture(params=[pytest.param("folder", marks=pytest.mark.slow), "name"])
def address(request: pytest.FixtureRequest, tmp_path: Path, spark: SparkSession) -> str:
    """Where a table lies; nothing is there yet."""
    if request.param == "folder":
        return f"{tmp_path}/prices"
    spark.sql("DROP TABLE IF EXISTS spark_catalog.shared.prices")
    return "spark_catalog.shared.prices"


@pytest.mark.parametrize("there", [False, True], ids=["first", "later"])
def test_fault_44_a_commit_that_comes_between_is_not_overwritten(
    there: bool, address: str, spark: SparkSession
) -> None:
    """The other job commits after this one has read what is stored, and before it writes."""
    dataset, other = (DeltaDataset(table=address, replace_by="ticker") for _ in range(2))
    if there:
        dataset.save(rows(AAPL=1.0))
    seen = []

    def change(stored: DataFrame | None) -> DataFrame:
        seen.append([] if stored is None else sorted(map(tuple, stored.collect())))
        if len(seen) == 1:
            other.save(rows(AAPL=2.0, IBM=3.0))
        frame = spark.createDataFrame(rows(AAPL=4.0, MSFT=5.0))
        return frame if stored is None else frame.union(stored.where("ticker = 'IBM'"))

    dataset.ATTEMPTS = 3
    dataset.save(change)
    assert seen == [[("AAPL", 1.0)] if there else [], [("AAPL", 2.0), ("IBM", 3.0)]]
    assert table(spark, dataset) == [("AAPL", 4.0), ("IBM", 3.0), ("MSFT", 5.0)]
    assert other.commit and dataset.commit
    assert (other.commit.version, dataset.commit.version) == (int(there), int(there) + 1)


def test_files_of_many_additions_are_written_again_as_few(
    spark: SparkSession, tmp_path: Path
) -> None:
    """Of a folder; Databricks looks after its own tables."""
    dataset = DeltaDataset(table=f"{tmp_path}/prices", replace_by="ticker")
    dataset.MANY_FILES = 4
    dataset.save(spark.createDataFrame(rows(AAPL=0.0)).repartition(1))
    files = []
    for number in range(1, 6):
        frame = spark.createDataFrame(rows(AAPL=float(number))).repartition(1)
        dataset.save(lambda _, frame=frame: Addition(frame))  # type: ignore[misc]
        files.append(len(dataset.load().inputFiles()))
    assert files[:3] == [2, 3, 4]
    assert files[3] < 4
    assert table(spark, dataset) == [("AAPL", float(number)) for number in range(6)]
    assert dataset.commit and dataset.commit.version == 5


@pytest.mark.parametrize("other_adds", [False, True])
def test_fault_44_rows_are_added_once_whatever_comes_between(
    other_adds: bool, address: str, spark: SparkSession
) -> None:
    dataset, other = (DeltaDataset(table=address, replace_by="ticker") for _ in range(2))
    dataset.save(rows(AAPL=1.0))
    seen, files = [], []

    def change(stored: DataFrame | None) -> Addition:
        assert stored
        seen.append(stored.count())
        if len(seen) == 1:
            others = rows(IBM=3.0)
            added = Addition(spark.createDataFrame(others))
            other.save((lambda stored: added) if other_adds else others)
        files.append({*spark.table(dataset._sql_name).inputFiles()})
        return Addition(spark.createDataFrame(rows(MSFT=5.0)))

    dataset.save(change)
    assert seen == [1, 2]
    assert table(spark, dataset) == [("AAPL", 1.0), ("IBM", 3.0), ("MSFT", 5.0)]
    assert dataset.commit and dataset.commit.version == 2
    assert files[-1] < {*spark.table(dataset._sql_name).inputFiles()}  # nothing is written again


@pytest.mark.parametrize("adds", [False, True])
def test_fault_44_maintenance_between_two_writers_hides_neither(
    adds: bool, address: str, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has read the table before the platform maintained it, and the other after that."""
    dataset, other = (DeltaDataset(table=address, replace_by="ticker") for _ in range(2))
    dataset.save(rows(AAPL=1.0))
    added = spark.createDataFrame(rows(IBM=2.0))
    dataset.save(lambda _: Addition(added))  # a second file
    before = dataset._find(None)
    spark.sql(f"OPTIMIZE {dataset._sql_name}")
    assert other._find(None)[0] == before[0] + 1
    monkeypatch.setattr(dataset, "_find", lambda pin: before)
    seen = []

    def change(stored: DataFrame | None) -> DataFrame | Addition:
        assert stored
        seen.append(stored.count())
        if len(seen) == 1:
            frame = spark.createDataFrame(rows(MSFT=3.0))
            dataset.save(lambda _: Addition(frame))
        new = spark.createDataFrame(rows(GOOG=4.0))
        return Addition(new) if adds else stored.union(new)

    other.save(change)
    assert seen == [2, 3]
    expected = [("AAPL", 1.0), ("GOOG", 4.0), ("IBM", 2.0), ("MSFT", 3.0)]
    assert table(spark, other) == expected


def test_fault_44_a_writer_that_never_comes_first_gives_up_and_harms_nothing(
    address: str, spark: SparkSession
) -> None:
    dataset, other = (DeltaDataset(table=address, replace_by="ticker") for _ in range(2))
    dataset.ATTEMPTS = 2

    def change(stored: DataFrame | None) -> DataFrame:
        other.save(rows(AAPL=2.0))
        return spark.createDataFrame(rows(AAPL=1.0))

    with pytest.raises(DatasetError, match=address) as error:
        dataset.save(change)
    assert isinstance(error.value.__cause__, ConcurrentWriteError)
    assert error.value.__cause__.attempts == 2
    assert table(spark, dataset) == [("AAPL", 2.0)]


def adding(session: str, spark: SparkSession) -> Callable[[DataFrame | None], DataFrame]:
    """Return a change that adds a row to what is stored of the one ticker."""

    def change(stored: DataFrame | None) -> DataFrame:
        frame = spark.createDataFrame([("AAPL", session)], "ticker string, session string")
        return frame if stored is None else stored.union(frame)

    return change


WRITER = """
import json, sys
from pathlib import Path
import yaml
from candlecast.io.delta import DeltaDataset
from candlecast.runtime.spark import start_session
from test_concurrent_writers import adding
root, folder, rounds = sys.argv[1:]
session = yaml.safe_load(Path(root, "conf/base/spark.yml").read_text())["session"]
spark = start_session({**session, "spark.master": "local[1]"}, Path(folder, "spark"))
dataset = DeltaDataset(table=f"{folder}/prices", replace_by="ticker")
print("ready", flush=True)
for number in range(int(rounds)):
    sys.stdin.readline()
    dataset.save(adding(f"train-{number}", spark))
    print(json.dumps(dataset.commit.version), flush=True)
"""


@pytest.mark.slow
def test_fault_44_two_processes_lose_no_row(tmp_path: Path, spark: SparkSession) -> None:
    """Each round they start together; each reads all that is stored, adds a row and writes it."""
    tests = Path(__file__).parent
    dataset = DeltaDataset(table=f"{tmp_path}/prices", replace_by="ticker")
    versions = []
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tests.parent), str(tmp_path), str(ROUNDS)],
        cwd=tests,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdin and other.stdout
        assert other.stdout.readline() == "ready\n"
        for number in range(ROUNDS):
            other.stdin.write("go\n")
            other.stdin.flush()
            dataset.save(adding(f"forecast-{number}", spark))
            assert dataset.commit
            versions += [dataset.commit.version, json.loads(other.stdout.readline())]
    assert other.returncode == 0
    assert sorted(versions) == list(range(2 * ROUNDS))
    stored = spark.read.format("delta").load(f"{tmp_path}/prices").collect()
    assert sorted(row["session"] for row in stored) == sorted(
        f"{name}-{number}" for name in ("train", "forecast") for number in range(ROUNDS)
    )
