"""The environment of Databricks on open-source Spark: tables by name, a session that is there.

Each run is a process of its own that finds a session and calls the wheel's entry point; sessions
are classic, or of Spark Connect as on serverless compute. Tables live in a persistent metastore.
"""

import ast
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from candlecast.parameters import ParameterError, check_parameters
from conftest import ROOT
from test_project import loader
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
        "candidate_trees": "5 10",
        "folds": "3",
        **parameters,
    }
    return [
        *("--env", "databricks", "--conf-source", str(ROOT / "conf"), *given),
        *("--params", ",".join(f"{key}={value}" for key, value in parameters.items())),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classic", "connect"])
def test_candidates_champion_and_forecast_on_tables_by_name(kind: str, tmp_path: Path) -> None:
    """Two candidates after each other, the second made champion, its forecast of the next session.

    The two sessions start at once, to the second candidate's own end of the range.
    """
    volume, empty = tmp_path / "volume", tmp_path / "empty"
    empty.mkdir()
    approval = {"approver": "Ada", "override_reason": "to try it out"}
    tasks = [
        options(volume, candidate="first", end="2021-06-30"),
        options(volume, candidate="second"),
        options(volume, "--pipelines", "registration", candidate="second", **approval),
        options(volume, "--pipelines", "forecast"),
    ]
    with YahooServer() as server:
        for ticker in ("AAPL", "IBM"):
            server.script(ticker, prices(FROM_2016))
        environment = server.environment(tmp_path / "hook", pace=0)
        for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN", "MLFLOW_TRACKING_URI", "SPARK_REMOTE"):
            environment.pop(name, None)
        done = subprocess.run(
            [
                *(sys.executable, str(ROOT / "tests/databricks_task.py"), kind),
                *(str(tmp_path / "spark"), *(word for task in tasks for word in ["--", *task])),
            ],
            cwd=empty,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "train v0 (" in done.stderr
    assert "train v1 (2,454 rows), test v1 (622 rows)" in done.stderr
    assert f"report: {volume / 'reporting/report.html'}" in done.stderr
    client = MlflowClient(f"sqlite:///{volume}/mlflow/mlflow.db")
    champion = client.get_model_version_by_alias(MODEL, "champion")
    assert champion.tags["candidate"] == "second"
    assert champion.tags["version_train"] == "1"
    assert champion.tags["override_reason"] == "to try it out"
    assert done.stderr.splitlines()[-1].endswith(
        f"track record: {volume / 'reporting/track_record.html'}"
    )
    assert list(empty.iterdir()) == []
    tables = {path.name for path in (tmp_path / "spark/warehouse/candlecast.db").iterdir()}
    assert tables == {
        *("prices", "quality", "windows", "train", "test", "test_scores", "forecasts"),
    }


# --- Without Spark --------------------------------------------------------------------------------


def test_what_is_not_given_is_named() -> None:
    committed = loader("databricks")["parameters"]
    with pytest.raises(ParameterError, match=r"^Not given: catalog, schema, volume. Where tables"):
        check_parameters(committed)
    with pytest.raises(ParameterError, match=r"^Not given: volume. "):
        check_parameters({**committed, "catalog": "main", "schema": "candlecast"})


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
    if module.parent.name == "candlecast" and module.stem in ("mlflow", "yahoo"):
        used -= {"cache"}  # functools.cache
    assert used & NOT_ON_CONNECT == set()
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    settings = [call for call in calls if ast.unparse(call.func).endswith("conf.set")]
    assert [ast.unparse(call) for call in settings] == []
