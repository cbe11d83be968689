"""The environment `databricks` on open-source Spark: named tables and an existing session.

The tasks run in their own process, as on Databricks: with a session of Spark Connect, as on
serverless compute, through the wheel's entry point, on tables in a persistent metastore. In a
classic session: test_databricks_mlflow.
"""

import json
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kedro.io import DatasetError
from mlflow.tracking import MlflowClient
from pyspark.sql import SparkSession

from candlecast.errors import ParameterError
from candlecast.io.delta import Commit, DeltaDataset, TableVersion
from candlecast.parameters import check_parameters
from candlecast.runtime.log import free_bytes
from conftest import ROOT, loader
from connect_stages import stages
from databricks_task import maintain
from yahoo_server import YahooServer, prices, walk

FROM_2019 = walk(date(2019, 1, 1), date(2021, 12, 31))
MODEL = "spark_catalog.candlecast.candlecast"


def options(volume: Path, *more: str, **parameters: str) -> list[str]:
    """Command-line options for a small run."""
    parameters = {
        "catalog": "spark_catalog",
        "schema": "candlecast",
        "volume": str(volume),
        "tickers": "AAPL IBM",
        "start": "2019-01-01",
        "end": "2021-12-31",
        "estimators": "forest_5 forest_10",
        "folds": "2",
        "evaluation.repetitions": "1000",
        **parameters,
    }
    return [
        *("--env", "databricks", "--conf-source", str(ROOT / "conf"), *more),
        *("--params", ",".join(f"{key}={value}" for key, value in parameters.items())),
    ]


def run_tasks(
    server: YahooServer, folder: Path, tasks: list[list[str]]
) -> subprocess.CompletedProcess[str]:
    """Run tasks one after another in an empty folder, in one session of Spark Connect."""
    environment = server.environment(folder / "hook", pace=0)
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN", "MLFLOW_TRACKING_URI", "SPARK_REMOTE"):
        environment.pop(name, None)
    (folder / "empty").mkdir()
    return subprocess.run(
        [
            *(sys.executable, str(ROOT / "tests/databricks_task.py"), str(folder / "spark")),
            *(word for task in tasks for word in ["--", *task]),
        ],
        cwd=folder / "empty",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def tables(folder: Path, schema: str) -> set[str]:
    """The names of a schema's tables."""
    return {path.name for path in (folder / f"spark/warehouse/{schema}.db").iterdir()}


@pytest.fixture(scope="module")
def connected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the log of tasks on Spark Connect, all in one session: its start takes long.

    A candidate becomes champion and makes forecasts; while it trains, the platform maintains the
    prices table. Another schema takes its prices from that table, twice: from a later session on,
    so that no ticker is fetched again as it was stored. Then there are the stages of
    connect_stages.py. The last task names a catalog that does not exist.
    """
    folder = tmp_path_factory.mktemp("connect")
    write_market(folder / "stages")
    volume = folder / "volume"
    approval = {"approver": "Ada", "override_reason": "a test"}
    own = {"schema": "own", "prices": "spark_catalog.candlecast.prices", "tickers": ""}
    tasks = [
        options(volume, "--tags", "ingest", candidate="c-1"),
        ["maintain", "spark_catalog.candlecast.prices"],
        options(volume, "--tags", "preprocess,train,evaluate", candidate="c-1"),
        options(volume, "--pipelines", "registration", candidate="c-1", **approval),
        options(volume, "--pipelines", "forecast"),
        options(folder / "own", "--tags", "ingest", candidate="own", **own),
        options(folder / "own", "--tags", "ingest", candidate="later", start="2020-01-02", **own),
        ["stages", str(folder / "stages")],
        options(folder / "other", "--tags", "ingest", candidate="c-2", catalog="nope"),
    ]
    with YahooServer() as server:
        for ticker in ("AAPL", "IBM"):
            server.script(ticker, prices(FROM_2019))
        done = run_tasks(server, folder, tasks)
    assert done.returncode == 1
    assert [line for line in done.stdout.splitlines() if "Deleted 0 files" not in line] == []
    assert list((folder / "empty").iterdir()) == []
    return folder, done.stderr


@pytest.mark.slow
def test_candidate_champion_and_forecast_on_spark_connect(connected: tuple[Path, str]) -> None:
    folder, log = connected
    volume = folder / "volume"
    # Only the project's errors: Spark logs others about its metastore.
    errors = [line for line in log.splitlines() if "  ERROR   " in line]
    assert len(errors) == 1, log
    assert "nope.candlecast.prices" in errors[0]
    assert "REQUIRES_SINGLE_PART_NAMESPACE" in errors[0]
    assert "Traceback" not in log
    assert "prices v0, quality v0" in log  # despite the maintenance
    assert "train v0 (1,204 rows), test v0 (308 rows)" in log
    assert f"report: {volume / 'reporting/report.html'}" in log
    client = MlflowClient(f"sqlite:///{volume}/mlflow/mlflow.db")
    champion = client.get_model_version_by_alias(MODEL, "champion")
    assert champion.tags["candidate"] == "c-1"
    assert champion.tags["version_prices"] == "0"
    assert champion.tags["override_reason"] == "a test"
    assert f"track record: {volume / 'reporting/track_record.html'}" in log
    assert tables(folder, "candlecast") == {
        *("prices", "quality", "windows", "train", "test", "test_scores", "forecasts"),
    }
    assert log.count("prices from spark_catalog.candlecast.prices: 2 tickers, 0 missing") == 2
    later = log.partition("candidate later")[2]
    assert re.search(r"merge_prices .*prices v1$", later, re.MULTILINE)
    assert tables(folder, "own") == {"prices", "quality"}


def write_market(folder: Path) -> None:
    """Write prices of a hundred tickers as prices.parquet."""
    random, days = np.random.default_rng(1), pd.bdate_range("2020-01-01", periods=120).date
    frames = []
    for number in range(100):
        opened = 100 * np.exp(random.normal(0, 0.02, len(days)).cumsum())
        close = opened * np.exp(random.normal(0, 0.02, len(days)))
        frame = pd.DataFrame({"ticker": f"T{number:02d}", "session": days, "open": opened})
        frames.append(
            frame.assign(
                close=close,
                high=np.maximum(opened, close) * 1.01,
                low=np.minimum(opened, close) * 0.99,
                volume=random.integers(1000, 2000, len(days)).astype(float),
            )
        )
    folder.mkdir()
    pd.concat(frames).to_parquet(folder / "prices.parquet")


@pytest.mark.slow
def test_stages_on_spark_connect_are_equal_to_the_bit(
    connected: tuple[Path, str], spark: SparkSession
) -> None:
    folder = connected[0] / "stages"
    train, test, evidence = stages(spark, folder)
    for name, rows in {"train": train, "test": test}.items():
        remote = pd.read_parquet(folder / f"{name}.parquet")
        pd.testing.assert_frame_equal(remote, rows, check_exact=True)
    assert json.loads((folder / "evidence.json").read_text()) == evidence
    assert len(train) > 5_000
    assert test["probability"].nunique() > 10


# --- A platform that maintains its tables --------------------------------------------------------


@pytest.mark.parametrize(
    "named", [pytest.param(False, marks=pytest.mark.slow), True], ids=["folder", "name"]
)
def test_maintenance_is_not_a_new_version(named: bool, spark: SparkSession, tmp_path: Path) -> None:
    table = "spark_catalog.kept.prices" if named else f"{tmp_path}/prices"
    dataset = DeltaDataset(table=table, replace_by="ticker")
    dataset.stamp = {"sources": {"other": 7}, "parameters": {"window": 14}}
    for ticker, close in {"AAPL": 1.5, "IBM": 2.5}.items():
        dataset.save(pd.DataFrame({"ticker": [ticker], "close": [close]}))
    spark.sql(f"ALTER TABLE {dataset._sql_name} SET TBLPROPERTIES ('maintained' = 'yes')")
    spark.sql(f"ALTER TABLE {dataset._sql_name} ALTER COLUMN close COMMENT 'in dollars'")
    maintain(spark, dataset._sql_name)
    history = spark.sql(f"DESCRIBE HISTORY {dataset._sql_name}").select("operation").collect()
    assert [row[0] for row in history] == [
        *("VACUUM END", "VACUUM START", "OPTIMIZE", "CHANGE COLUMN", "SET TBLPROPERTIES", "WRITE"),
        "CREATE OR REPLACE TABLE AS SELECT" if named else "WRITE",
    ]
    loaded = dataset.load()
    assert dataset.commit == Commit(1, None, {"other": 7}, {"window": 14})
    # It reads the current, single file: maintenance removes the files of older versions.
    assert len(loaded.inputFiles()) == 1
    dataset.save(pd.DataFrame({"ticker": ["IBM"], "close": [3.5]}))
    assert dataset.commit.version == 7
    assert sorted(loaded.collect()) == [("AAPL", 1.5), ("IBM", 2.5)]
    spark.sql(f"DELETE FROM {dataset._sql_name} WHERE ticker = 'IBM'")
    dataset.load()
    assert dataset.commit == Commit(8, None, {}, {})  # a commit by somebody else
    for pin, rows in {0: [("AAPL", 1.5)], 1: [("AAPL", 1.5), ("IBM", 2.5)]}.items():
        dataset.pin = pin
        assert sorted(dataset.load().collect()) == rows
        assert dataset.commit.version == pin
    dataset.pin = 9
    with pytest.raises(DatasetError, match="no longer has version 9"):
        dataset.load()


def test_a_failed_write_names_table_and_reason(spark: SparkSession, tmp_path: Path) -> None:
    dataset = DeltaDataset(table=f"{tmp_path}/prices", schema="close DOUBLE")
    message = r"Table .*/prices can't be written: \[CAST_INVALID_INPUT\] The value 'dear' "
    with pytest.raises(DatasetError, match=message):
        dataset.save(pd.DataFrame({"close": ["dear"]}))


def test_a_change_older_than_the_delta_log(spark: SparkSession, tmp_path: Path) -> None:
    dataset = DeltaDataset(table=f"{tmp_path}/prices")
    dataset.save(pd.DataFrame({"ticker": ["AAPL"], "close": [1.5]}))
    spark.sql(f"ALTER TABLE {dataset._sql_name} SET TBLPROPERTIES ('a' = 'b')")
    spark.sql(f"ALTER TABLE {dataset._sql_name} SET TBLPROPERTIES ('a' = 'c')")
    (tmp_path / "prices/_delta_log/00000000000000000000.json").unlink()
    assert TableVersion(table=f"{tmp_path}/prices").load() == 1


# --- Without Spark --------------------------------------------------------------------------------


def test_missing_parameters_are_named() -> None:
    committed = loader("databricks")["parameters"]
    with pytest.raises(ParameterError) as caught:
        check_parameters(committed)
    assert list(caught.value.faults) == ["catalog", "schema", "volume"]
    with pytest.raises(ParameterError) as caught:
        check_parameters({**committed, "catalog": "main", "schema": "candlecast"})
    assert list(caught.value.faults) == ["volume"]


def test_a_volume_of_unknown_size_is_not_full(tmp_path: Path) -> None:
    assert shutil.disk_usage("/proc").total == 0  # like a file system that does not report its size
    for folder in (Path("/proc"), tmp_path / "none"):
        assert free_bytes(folder) is None


def test_tables_folders_and_model_follow_from_the_parameters() -> None:
    configuration = loader("databricks")
    configuration.runtime_params = {
        "catalog": "main",
        "schema": "candlecast",
        "volume": "/Volumes/main/candlecast/files",
    }
    parameters = check_parameters(configuration["parameters"])
    assert parameters["tables"] == "main.candlecast."
    assert parameters["data_root"] == "/Volumes/main/candlecast/files"
    assert parameters["registered_model"] == "main.candlecast.candlecast"
    assert configuration["spark"]["session"] == {}
    tracking = configuration["mlflow"]
    assert tracking["server"] == {"mlflow_tracking_uri": "databricks"}
    experiment = tracking["tracking"]["experiment"]["create_experiment_kwargs"]
    assert experiment["artifact_location"] is None


NOT_ON_CONNECT = re.compile(
    r"\b(sparkContext|SparkContext|RDD|rdd|_jvm|_jsc|_jdf|parallelize)\b"
    r"|(?<!functools)\.(cache|persist|unpersist)\b|conf\.set\("
)


def test_the_package_uses_nothing_that_spark_connect_lacks() -> None:
    files = {*(ROOT / "src").rglob("*.py")} - {ROOT / "src/candlecast/runtime/spark.py"}  # local
    modules = {file: file.read_text() for file in files}
    used = {str(file): NOT_ON_CONNECT.findall(text) for file, text in modules.items()}
    assert modules and {file: names for file, names in used.items() if names} == {}
