"""The environment of Databricks on open-source Spark: tables by name, a session that is there.

Each run is a process of its own that finds a session and calls the wheel's entry point; sessions
are classic, or of Spark Connect as on serverless compute. Tables live in a persistent metastore.
"""

import ast
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from kedro.io import DatasetError
from mlflow.tracking import MlflowClient
from pyspark.sql import SparkSession

from candlecast.io.delta import Commit, DeltaDataset, TableVersion
from candlecast.parameters import ParameterError, check_parameters
from candlecast.runtime.hooks import MIN_FREE_BYTES, ProjectHooks
from conftest import ROOT, loader
from databricks_task import keep
from yahoo_server import YahooServer, prices, walk

FROM_2016 = walk(date(2016, 1, 1), date(2021, 12, 31))
MODEL = "spark_catalog.candlecast.candlecast"


def options(volume: Path, *given: str, **parameters: str) -> list[str]:
    """The options of a small run."""
    parameters = {
        "catalog": "spark_catalog",
        "schema": "candlecast",
        "volume": str(volume),
        "tickers": "AAPL IBM",
        "start": "2016-01-01",
        "end": "2021-12-31",
        "forest_sizes": "5 10",
        "folds": "3",
        **parameters,
    }
    return [
        *("--env", "databricks", "--conf-source", str(ROOT / "conf"), *given),
        *("--params", ",".join(f"{key}={value}" for key, value in parameters.items())),
    ]


def run_tasks(
    server: YahooServer, kind: str, folder: Path, tasks: list[list[str]]
) -> subprocess.CompletedProcess[str]:
    """Run tasks after each other in an empty folder, with a session that is there."""
    environment = server.environment(folder / "hook", pace=0)
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN", "MLFLOW_TRACKING_URI", "SPARK_REMOTE"):
        environment.pop(name, None)
    (folder / "empty").mkdir()
    return subprocess.run(
        [
            *(sys.executable, str(ROOT / "tests/databricks_task.py"), kind, str(folder / "spark")),
            *(word for task in tasks for word in ["--", *task]),
        ],
        cwd=folder / "empty",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classic", "connect"])
def test_candidates_champion_and_forecast_on_tables_by_name(kind: str, tmp_path: Path) -> None:
    """Two candidates after each other, the second made champion, its forecast of the next session.

    The platform looks after the table of prices while the second one is made. The last task names a
    catalog that is not there.
    """
    volume = tmp_path / "volume"
    approval = {"approver": "Ada", "override_reason": "to try it out"}
    tasks = [
        options(volume, candidate="first", end="2021-06-30"),
        options(volume, "--tags", "ingest", candidate="second"),
        ["keep", "spark_catalog.candlecast.prices"],
        options(volume, "--tags", "preprocess,train,evaluate", candidate="second"),
        options(volume, "--pipelines", "registration", candidate="second", **approval),
        options(volume, "--pipelines", "forecast"),
        options(tmp_path / "other", "--tags", "ingest", candidate="c-1", catalog="nope"),
    ]
    with YahooServer() as server:
        for ticker in ("AAPL", "IBM"):
            server.script(ticker, prices(FROM_2016))
        done = run_tasks(server, kind, tmp_path, tasks)
    assert done.returncode == 1
    # The project's own; Spark writes errors of its own metastore.
    errors = [line for line in done.stderr.splitlines() if "  ERROR   " in line]
    assert len(errors) == 1, done.stderr
    assert "nope.candlecast.prices" in errors[0]
    assert "REQUIRES_SINGLE_PART_NAMESPACE" in errors[0]
    assert "Traceback" not in done.stderr
    assert [line for line in done.stdout.splitlines() if "Deleted 0 files" not in line] == []
    assert "train v0 (" in done.stderr
    assert "prices v1, quality v1" in done.stderr  # whatever the platform did to prices meanwhile
    assert "train v1 (2,454 rows), test v1 (622 rows)" in done.stderr
    assert f"report: {volume / 'reporting/report.html'}" in done.stderr
    client = MlflowClient(f"sqlite:///{volume}/mlflow/mlflow.db")
    champion = client.get_model_version_by_alias(MODEL, "champion")
    assert champion.tags["candidate"] == "second"
    assert champion.tags["version_train"] == "1"
    assert champion.tags["override_reason"] == "to try it out"
    assert f"track record: {volume / 'reporting/track_record.html'}" in done.stderr
    assert list((tmp_path / "empty").iterdir()) == []
    tables = {path.name for path in (tmp_path / "spark/warehouse/candlecast.db").iterdir()}
    assert tables == {
        *("prices", "quality", "windows", "train", "test", "test_scores", "forecasts"),
    }


# --- A platform that looks after its tables ------------------------------------------------------


@pytest.mark.parametrize("named", [False, True], ids=["folder", "name"])
def test_maintenance_is_no_new_version(named: bool, spark: SparkSession, tmp_path: Path) -> None:
    table = "spark_catalog.kept.prices" if named else f"{tmp_path}/prices"
    dataset = DeltaDataset(table=table, replace_by="ticker")
    dataset.stamp = {"candidate": "c-1", "sources": {"other": 7}}
    for ticker, close in {"AAPL": 1.5, "IBM": 2.5}.items():
        dataset.save(pd.DataFrame({"ticker": [ticker], "close": [close]}))
    spark.sql(f"ALTER TABLE {dataset._sql_name} SET TBLPROPERTIES ('looked.after' = 'yes')")
    keep(spark, dataset._sql_name)
    history = spark.sql(f"DESCRIBE HISTORY {dataset._sql_name}").select("operation").collect()
    assert [row[0] for row in history] == [
        *("VACUUM END", "VACUUM START", "OPTIMIZE", "SET TBLPROPERTIES", "WRITE"),
        "CREATE OR REPLACE TABLE AS SELECT" if named else "WRITE",
    ]
    loaded = dataset.load()
    assert dataset.commit == Commit(1, None, {"other": 7}, {"candidate": "c-1"})
    # What is read is what is there, in one file: those of older versions get removed.
    assert len(loaded.inputFiles()) == 1
    dataset.save(pd.DataFrame({"ticker": ["IBM"], "close": [3.5]}))
    assert dataset.commit.version == 6
    assert sorted(loaded.collect()) == [("AAPL", 1.5), ("IBM", 2.5)]
    spark.sql(f"DELETE FROM {dataset._sql_name} WHERE ticker = 'IBM'")
    dataset.load()
    assert dataset.commit == Commit(7, None, {}, {})  # by somebody else
    for pin, rows in {0: [("AAPL", 1.5)], 1: [("AAPL", 1.5), ("IBM", 2.5)]}.items():
        dataset.pin = pin
        assert sorted(dataset.load().collect()) == rows
        assert dataset.commit.version == pin
    dataset.pin = 8
    with pytest.raises(DatasetError, match="no longer has version 8"):
        dataset.load()


def test_what_spark_refuses_to_write_is_told(spark: SparkSession, tmp_path: Path) -> None:
    dataset = DeltaDataset(table=f"{tmp_path}/prices", schema="close DOUBLE")
    told = r"Table .*/prices can't be written: \[CAST_INVALID_INPUT\] The value 'dear' "
    with pytest.raises(DatasetError, match=told):
        dataset.save(pd.DataFrame({"close": ["dear"]}))


def test_a_change_older_than_the_log_reaches(spark: SparkSession, tmp_path: Path) -> None:
    dataset = DeltaDataset(table=f"{tmp_path}/prices")
    dataset.save(pd.DataFrame({"ticker": ["AAPL"], "close": [1.5]}))
    spark.sql(f"ALTER TABLE {dataset._sql_name} SET TBLPROPERTIES ('a' = 'b')")
    spark.sql(f"ALTER TABLE {dataset._sql_name} SET TBLPROPERTIES ('a' = 'c')")
    (tmp_path / "prices/_delta_log/00000000000000000000.json").unlink()
    assert TableVersion(table=f"{tmp_path}/prices").load() == 1


# --- Without Spark --------------------------------------------------------------------------------


def test_what_is_not_given_is_named() -> None:
    committed = loader("databricks")["parameters"]
    with pytest.raises(ParameterError, match=r"^Not given: catalog, schema, volume. Where tables"):
        check_parameters(committed)
    with pytest.raises(ParameterError, match=r"^Not given: volume. "):
        check_parameters({**committed, "catalog": "main", "schema": "candlecast"})


def test_a_volume_that_does_not_tell_its_size_is_not_full(tmp_path: Path) -> None:
    hooks = ProjectHooks()
    assert shutil.disk_usage("/proc").total == 0  # as of a file system that has no answer
    for folder in (Path("/proc"), tmp_path / "none"):
        hooks._data_root = folder
        assert hooks._free() == MIN_FREE_BYTES


def test_names_and_places_follow_from_what_is_given() -> None:
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
    assert tracking["tracking"]["experiment"]["create_experiment_kwargs"] == {
        "artifact_location": None
    }


NOT_ON_CONNECT = {
    *(
        "sparkContext",
        "_jvm",
        "_jsc",
        "_jdf",
        "rdd",
        "cache",
        "persist",
        "unpersist",
        "parallelize",
    ),
    *("SparkContext", "RDD"),
}


@pytest.mark.parametrize(
    "module",
    sorted((ROOT / "src").rglob("*.py")),
    ids=lambda file: f"{file.parent.name}.{file.stem}",
)
def test_nothing_that_serverless_compute_lacks(module: Path) -> None:
    tree = ast.parse(module.read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} | {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    if module.stem == "yahoo":
        used -= {"cache"}  # functools.cache
    assert used & NOT_ON_CONNECT == set()
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    settings = [call for call in calls if ast.unparse(call.func).endswith("conf.set")]
    assert [ast.unparse(call) for call in settings] == []
