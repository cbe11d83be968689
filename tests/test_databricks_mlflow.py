"""Tracking, registration and forecast against a workspace, by MLflow's own Databricks clients.

The workspace is that of `databricks_workspace`; what it refuses is tested here too.
"""

import json
import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import mlflow
import pytest
from kedro.io import DatasetError
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from pyspark.sql import SparkSession

from candlecast.__main__ import main
from candlecast.errors import NoChampionError
from candlecast.registry.client import find_version
from candlecast.registry.datasets import DecisionDataset
from candlecast.registry.entities import Candidate, Promotion
from conftest import ROOT, SMALL, Run
from databricks_workspace import REFUSALS, UC, Call, Server, Workspace, serving
from yahoo_server import YahooServer, prices, redirected, walk

MODEL = "spark_catalog.candlecast.candlecast"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store; making one takes seconds."""
    database = tmp_path_factory.mktemp("empty") / "workspace.db"
    Workspace(database, database.parent)
    return database


@pytest.fixture
def workspace(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An empty workspace that this process is logged in to."""
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "login"))
    shutil.copy(empty, tmp_path)
    store = Workspace(tmp_path / empty.name, tmp_path / "workspace")
    with serving(store, tmp_path / "login") as server:
        yield server
    mlflow.set_tracking_uri("")


def post(server: Server, call: Call, login: str = "Bearer a-token") -> int:
    """Make a call without any client in between; return the status."""
    in_query = call.method == "GET"
    query = f"?{urlencode(call.arguments)}" if in_query else ""
    request = Request(
        f"{server.url}{call.path}{query}",
        None if in_query else json.dumps(call.arguments).encode(),
        {"Authorization": login, "Content-Type": "application/json"},
        method=call.method,
    )
    try:
        with urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    ("call", "what"),
    [(call, refusal.what) for refusal in REFUSALS for call in refusal.examples],
    ids=lambda value: value.path.rpartition("/")[2] if isinstance(value, Call) else "",
)
def test_fault_43_the_workspace_refuses_these_calls(
    workspace: Server, call: Call, what: str
) -> None:
    assert [refusal.what for refusal in REFUSALS if refusal.applies(call)] == [what]
    assert post(workspace, call) == 400


def test_fault_43_the_workspace_demands_a_login(workspace: Server) -> None:
    call = Call("POST", "/api/2.0/mlflow/experiments/create", {"name": "/Shared/candlecast"})
    assert post(workspace, call, login="Bearer another") == 401
    assert post(workspace, call) == 200


def test_fault_43_the_workspace_counts_tags_and_demands_a_signature(
    workspace: Server, tmp_path: Path
) -> None:
    model = {"name": "main.candles.model"}
    assert post(workspace, Call("POST", UC + "registered-models/create", model)) == 200
    version = {**model, "version": "1"}
    tags = [{"key": f"tag{number}", "value": ""} for number in range(50)]
    made = Call("POST", UC + "model-versions/create", {**model, "source": "x", "tags": tags})
    assert post(workspace, made) == 200
    for key, status in {"tag7": 200, "tag50": 400}.items():
        tag = Call("POST", UC + "model-versions/set-tag", {**version, "key": key, "value": "b"})
        assert post(workspace, tag) == status
    finalize = Call("POST", UC + "model-versions/finalize", version)
    model_file = tmp_path / "workspace/Models/main/candles/model/1/MLmodel"
    model_file.parent.mkdir(parents=True)
    for text, status in {
        "flavors: {}": 400,
        "signature: {inputs: '[]'}": 400,
        "signature: {inputs: '[]', outputs: '[]'}": 200,
    }.items():
        model_file.write_text(text)
        assert post(workspace, finalize) == status


@pytest.mark.parametrize(
    "code",
    ["RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "REGISTERED_MODEL_DOES_NOT_EXIST", "ALIAS_NOT_FOUND"],
)
def test_each_code_for_something_missing_means_that_there_is_no_champion(
    workspace: Server, code: str
) -> None:
    workspace.workspace.missing_code = code
    mlflow.set_tracking_uri("databricks")
    assert find_version(MODEL, "champion") is None
    MlflowClient().create_registered_model(MODEL)
    assert find_version(MODEL, "champion") is None


@pytest.mark.parametrize("code", ["INVALID_PARAMETER_VALUE", "ENDPOINT_NOT_FOUND", "BAD_REQUEST"])
def test_other_codes_do_not_mean_that_there_is_no_champion(workspace: Server, code: str) -> None:
    workspace.workspace.missing_code = code
    mlflow.set_tracking_uri("databricks")
    with pytest.raises(MlflowException, match=code):
        find_version(MODEL, "champion")


def test_fault_43_a_missing_permission_is_named_and_nothing_is_changed(
    workspace: Server,
) -> None:
    mlflow.set_tracking_uri("databricks")
    workspace.workspace.denied = {UC + "registered-models/get"}
    candidate = Candidate("c-1", "r-1", "FINISHED", {}, {}, None, None)
    with pytest.raises(DatasetError, match=r"PERMISSION_DENIED.*EXECUTE"):
        DecisionDataset(model_name=MODEL).save(Promotion(candidate, None, {"gate": "{}"}))
    assert [call for call in workspace.workspace.calls if call.method != "GET"] == []


def test_a_scheduled_forecast_before_the_first_champion_succeeds(
    workspace: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the bundle's options; a run that a person starts fails."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    places = f"catalog=spark_catalog,schema=none,volume={tmp_path}/volume"
    options = ["--env", "databricks", "--conf-source", str(ROOT / "conf")]
    forecast = [*options, "--pipelines", "forecast", "--params", places]
    main([*forecast, "--set", "trigger=periodic"])
    log = capsys.readouterr().err
    assert "spark_catalog.none.candlecast" in log
    assert "kedro run --pipelines registration" in log
    assert "ERROR" not in log
    for trigger in ("one_time", ""):
        with pytest.raises(NoChampionError):
            main([*forecast, "--set", f"trigger={trigger}"])
    assert not (tmp_path / "volume/fetched").exists()


@pytest.mark.slow
def test_the_life_of_a_model(
    workspace: Server,
    run: Run,
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Train, register twice, train again and register, roll back and forecast."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks")
    small = {
        **{"catalog": "spark_catalog", "schema": "candlecast", "volume": str(tmp_path / "volume")},
        **{"tickers": SMALL["tickers"], "start": "2019-01-01", "folds": 2},
        **{"estimators": ["forest_5", "forest_10"], "evaluation": SMALL["evaluation"]},
        "data_root": str(tmp_path / "volume"),
    }
    approval = {"approver": "Ada, of risk", "override_reason": "to try: it out, whole"}
    (tmp_path / "volume").mkdir()
    spark.sql("DROP DATABASE IF EXISTS spark_catalog.candlecast CASCADE")

    def aliases() -> dict[str, int]:
        found = MlflowClient(registry_uri="databricks-uc").get_registered_model(MODEL).aliases
        return {alias: int(version) for alias, version in found.items()}

    def go(**options: object) -> None:
        run(env="databricks", **{**small, **options})

    with YahooServer() as server, redirected(server.url, pace=0):
        for ticker in ("AAPL", "IBM"):
            server.script(ticker, prices(walk(date(2019, 1, 1), date(2021, 12, 31))))
        first = {"candidate": "first", "end": "2021-06-30"}
        go(**first, tags=["ingest", "preprocess", "train"])
        go(**first, tags=["evaluate"])
        for _ in range(2):
            go(candidate="first", pipeline_names=["registration"], **approval)
            assert aliases() == {"champion": 1}
        # The new model is not the one that was approved.
        go(**first, tags=["preprocess", "train", "evaluate"])
        go(candidate="first", pipeline_names=["registration"], **approval)
        assert aliases() == {"champion": 2, "previous": 1}
        go(pipeline_names=["rollback"], **approval)
        assert aliases() == {"champion": 1, "previous": 1}
        go(pipeline_names=["forecast"], end="2021-12-31")
    version = MlflowClient(registry_uri="databricks-uc").get_model_version(MODEL, "1")
    assert version.tags["candidate"] == "first"
    assert version.tags["override_reason"] == "to try: it out, whole"
    forecasts = spark.table("spark_catalog.candlecast.forecasts").collect()
    assert {(row["ticker"], row["model_version"]) for row in forecasts} == {("AAPL", 1), ("IBM", 1)}
    logged = [call for call in workspace.workspace.calls if call.path.endswith("runs/log-inputs")]
    names = [each["dataset"]["name"] for call in logged for each in call.arguments["datasets"]]
    assert {*names} >= {"train@v0", "test@v0", "train@v1", "test@v1"}
    searched = [call for call in workspace.workspace.calls if call.path.endswith("/search")]
    assert {call.path for call in searched} >= {UC + "model-versions/search"}
