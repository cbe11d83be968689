"""Whole runs of registration and rollback, also killed at each step and without a server.

Models are trained once. Each test works on a copy of the store's database (the artifacts stay in
place): directly, or behind a workspace that refuses what Databricks refuses.
"""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from kedro.io import DatasetError
from mlflow.tracking import MlflowClient

from candlecast.errors import ParameterError, RegistrationError, TrackingUnavailableError
from candlecast.registry.datasets import CandidateDataset, ChampionDataset, DecisionDataset
from candlecast.registry.entities import Promotion, Rollback
from conftest import ROOT, SMALL, copy_root, kedro, run_session
from databricks_workspace import Workspace, serving
from servers import free_port, mlflow_serving

MODEL = "main.candles.candlecast"
WHY = "the first champion"
TAGS = {
    *("candidate", "git_commit", "candlecast", "approver", "override_reason", "gate"),
    *("version_prices", "version_train", "version_test", "window", "body", "promoted_at"),
}


def go(data_root, *pipelines, **given):
    """Run pipelines in this process, under a data root, with the configuration in it if any."""
    if (data_root / "conf").exists():
        given = {"conf_source": data_root / "conf", **given}
    names = list(pipelines) or None
    return run_session(data_root, pipeline_names=names, **{"registered_model": MODEL, **given})


@pytest.fixture(scope="module")
def candidates(trained, tmp_path_factory) -> Path:
    """A data root: two complete candidates, the second on newer tables, and three others."""
    data_root = copy_root(trained, tmp_path_factory.mktemp("candidates") / "data")
    (data_root / "mlflow/unregistered.db").replace(data_root / "mlflow/mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "excepthook", sys.excepthook)
        go(data_root, **SMALL, candidate="reportless", tags=["train"])
        go(data_root, **SMALL, candidate="modelless", node_names=["data_engineering.fetch_prices"])
        go(data_root, **SMALL, candidate="retrained", tags=["train", "evaluate"])
        go(data_root, **SMALL, candidate="retrained", tags=["train"])
    return data_root


def copy_store(source: Path, data_root: Path) -> Path:
    (data_root / "mlflow").mkdir(parents=True)
    shutil.copy(source / "mlflow/mlflow.db", data_root / "mlflow")
    return data_root


@pytest.fixture
def open_source(candidates, tmp_path) -> Path:
    """A data root for one test, with a copy of the store."""
    return copy_store(candidates, tmp_path / "data")


@pytest.fixture(params=["open-source", "databricks"])
def store(request, open_source, tmp_path, monkeypatch) -> Iterator[Path]:
    """The same, directly or behind a workspace."""
    if request.param == "open-source":
        yield open_source
        return
    database = open_source / "mlflow/mlflow.db"
    with closing(sqlite3.connect(database)) as opened, opened:
        opened.execute("UPDATE experiments SET name = '/Shared/candlecast' WHERE experiment_id = 1")
    folder = configuration(open_source / "conf", "databricks")
    (folder / "local/parameters.yml").write_text("experiment: /Shared/candlecast")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "login"))
    with serving(Workspace(database, tmp_path / "workspace"), tmp_path / "login"):
        yield open_source


def configuration(folder: Path, server: str) -> Path:
    """Copy the configuration, with this tracking server."""
    shutil.copytree(ROOT / "conf/base", folder / "base")
    shutil.copy(ROOT / "conf/logging.yml", folder)
    (folder / "local").mkdir()
    (folder / "local/mlflow.yml").write_text(f"server:\n  mlflow_tracking_uri: {server}\n")
    return folder


def client_of(data_root):
    return MlflowClient(f"sqlite:///{data_root}/mlflow/mlflow.db")


def run_of(data_root, candidate):
    [run] = client_of(data_root).search_runs(["1"], f"tags.candidate = '{candidate}'")
    return run


def aliases_of(data_root, name=MODEL):
    """Which version each alias points to, and how many versions there are."""
    client = client_of(data_root)
    versions = client.search_model_versions(f"name = '{name}'")
    if not versions:
        return {}, 0
    aliases = client.get_registered_model(name).aliases
    return {alias: int(version) for alias, version in aliases.items()}, len(versions)


def tags_of(data_root, version):
    return client_of(data_root).get_model_version(MODEL, str(version)).tags


def register(data_root, candidate, approver="Ada", override_reason=WHY, **parameters):
    return go(
        data_root,
        "registration",
        candidate=candidate,
        approver=approver,
        override_reason=override_reason,
        **parameters,
    )


def logged(capsys):
    """The lines of the log about the registered model."""
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if MODEL in line or "champion" in line]


# --- Registration ---------------------------------------------------------------------------------


def test_a_candidate_becomes_champion_with_what_is_known_of_it(store, capsys):
    register(store, "first", git_commit=run_of(store, "first").data.tags["git_commit"])
    registered, champion = logged(capsys)
    assert all(word in registered for word in (MODEL, "v1", "first", "Ada", WHY))
    assert "v1" in champion
    assert aliases_of(store) == ({"champion": 1}, 1)
    version = client_of(store).get_model_version(MODEL, "1")
    run = run_of(store, "first")
    [model] = client_of(store).search_logged_models(
        [run.info.experiment_id], f"source_run_id='{run.info.run_id}'"
    )
    assert (version.run_id, version.source) == (run.info.run_id, f"models:/{model.model_id}")
    assert set(version.tags) == TAGS
    assert {key: version.tags[key] for key in TAGS - {"gate", "promoted_at", "candlecast"}} == {
        "candidate": "first",
        "git_commit": run.data.tags["git_commit"],
        "approver": "Ada",
        "override_reason": WHY,
        "version_prices": "0",
        "version_train": "0",
        "version_test": "0",
        "window": "14",
        "body": "return",
    }
    gate = json.loads(version.tags["gate"])
    assert (gate["passed"], gate["metric"], gate["threshold"]) == (False, "accuracy", 0.0)
    assert gate["reasons"][0] == {"code": "too_few_sessions", "sessions": 157, "required": 250}
    card = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/model_card.md")
    assert version.description == card
    # The candidate's run names its version, and is left alone otherwise.
    assert run_of(store, "first").data.tags["registered version"] == "1"
    assert run.info.status == "FINISHED"
    assert "registration" not in run.data.tags.get("kedro_command", "")
    assert ChampionDataset(model_name=MODEL).load().candidate == "first"


def test_the_former_champion_is_the_previous_one(store):
    register(store, "first")
    register(store, "second", approver="Bob")
    assert aliases_of(store) == ({"champion": 2, "previous": 1}, 2)
    assert tags_of(store, 2)["approver"] == "Bob"
    assert json.loads(tags_of(store, 2)["gate"])["reasons"][-1]["champion_version"] == 1


def test_a_candidate_that_passed_needs_no_reason(store):
    uri = run_of(store, "first").info.artifact_uri.removeprefix("file://")
    metrics = Path(uri, "metrics.json")
    before = metrics.read_text()
    better = {**json.loads(before), "accuracy_minus_best_baseline.low": 0.01}
    metrics.write_text(json.dumps(better))
    try:
        register(store, "first", override_reason=None, **{"gate": {"min_sessions": 100}})
    finally:
        metrics.write_text(before)  # shared by all copies of the store
    assert set(tags_of(store, 1)) == TAGS - {"override_reason"}
    assert json.loads(tags_of(store, 1)["gate"])["passed"] is True


def test_fault_25_approving_twice_is_harmless(store, capsys):
    register(store, "first")
    before = tags_of(store, 1)
    capsys.readouterr()
    register(store, "first", approver="Bob", override_reason=None)
    [line] = logged(capsys)
    assert "v1, candidate first" in line
    assert aliases_of(store) == ({"champion": 1}, 1)
    assert tags_of(store, 1) == before


@pytest.mark.parametrize(
    ("given", "error", "named"),
    [
        ({"candidate": "frist"}, DatasetError, ["frist", "first"]),
        ({"candidate": "x' OR 'a"}, ParameterError, ["candidate"]),
        ({"candidate": None}, DatasetError, ["candidate=<id>"]),
        ({"candidate": "reportless"}, RegistrationError, ["--tags evaluate", "=reportless"]),
        ({"candidate": "modelless"}, RegistrationError, ["run --params candidate=modelless"]),
        ({"candidate": "retrained"}, RegistrationError, ["--tags evaluate", "=retrained"]),
        ({"git_commit": "decade"}, RegistrationError, ["decade"]),
        ({"override_reason": ""}, RegistrationError, ["157", "250", "override_reason="]),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_fault_25_an_approval_that_is_not_allowed_is_refused(store, given, error, named):
    with pytest.raises(error) as refused:
        register(store, **{"candidate": "second", **given})
    assert [word for word in named if word not in str(refused.value)] == []
    assert aliases_of(store) == ({}, 0)


def test_fault_25_a_candidate_that_did_not_finish_is_refused(store):
    client_of(store).update_run(run_of(store, "second").info.run_id, status="KILLED")
    with pytest.raises(RegistrationError, match="KILLED"):
        register(store, "second")
    assert aliases_of(store) == ({}, 0)


def test_fault_25_a_stale_candidate_is_refused(store):
    register(store, "second")
    with pytest.raises(RegistrationError) as error:
        register(store, "first")
    assert all(fact in error.value.cause for fact in ("prices v0", "v1", "version 1"))
    assert aliases_of(store) == ({"champion": 1}, 1)


def test_fault_25_without_a_candidate_or_a_store_the_message_says_so(tmp_path):
    with pytest.raises(DatasetError, match="candidate=<id>"):
        go(tmp_path, "registration", approver="Ada")
    with pytest.raises(DatasetError, match="kedro run --params candidate="):
        register(tmp_path, "first")


def test_a_registration_does_not_replace_a_champion_that_it_did_not_know(store):
    """The lock keeps runs of one data root apart, not those that share a server."""
    register(store, "first")
    second = CandidateDataset(candidate="second", model_name=MODEL).load()
    decisions = DecisionDataset(model_name=MODEL)
    with pytest.raises(DatasetError, match=r"none to v1\b") as error:
        decisions.save(Promotion(second, None, {"gate": "{}", "approver": "Bob"}))
    assert isinstance(error.value.__cause__, RegistrationError)
    with pytest.raises(DatasetError, match=r"\bv3 to v1\b"):
        decisions.save(Rollback(2, 3, {"rolled_back_by": "Bob"}))
    assert aliases_of(store) == ({"champion": 1}, 2)


def test_a_candidate_trained_again_after_its_registration_gets_another_version(
    open_source, candidates, tmp_path
):
    """Its new model is not the one that was approved. On Databricks: test_databricks_mlflow."""
    register(open_source, "second")
    shutil.copytree(candidates / "training", open_source / "training")
    again = {"tables": f"{candidates}/tables/", "candidate": "second"}
    artifacts = Path(run_of(open_source, "second").info.artifact_uri.removeprefix("file://"))
    shutil.copytree(artifacts, tmp_path / "before")
    try:
        go(open_source, **SMALL, **again, tags=["train", "evaluate"])
        register(open_source, "second", override_reason="trained again")
    finally:
        shutil.copytree(tmp_path / "before", artifacts, dirs_exist_ok=True)  # shared, see above
    assert aliases_of(open_source) == ({"champion": 2, "previous": 1}, 2)


def test_fault_29_a_wrong_or_missing_column_is_refused_by_its_name(store):
    register(store, "first")
    model = mlflow.pyfunc.load_model(f"models:/{MODEL}@champion")
    lags = [f"lag_{number:02}" for number in range(1, 15)]
    rows = pd.DataFrame(0.01, index=range(2), columns=lags, dtype=np.float32)
    assert model.predict(rows).shape == (2, 2)
    for frame, message in (
        (rows.drop(columns="lag_07"), r"missing inputs \['lag_07'\]"),
        (rows.rename(columns={"lag_07": "lag_7"}), r"missing inputs \['lag_07'\].*\['lag_7'\]"),
        (rows.assign(lag_07="up"), r"Incompatible input types for column lag_07"),
    ):
        with pytest.raises(mlflow.MlflowException, match=rf"(?s){message}"):
            model.predict(frame)


# --- Rollback -------------------------------------------------------------------------------------


def test_a_rollback_puts_the_previous_champion_back(store, capsys):
    register(store, "first")
    register(store, "second")
    before = tags_of(store, 1)
    capsys.readouterr()
    go(store, "rollback", approver="Bob", override_reason="worse live")
    rolled_back, champion = logged(capsys)
    assert all(word in rolled_back for word in (MODEL, "Bob", "worse live"))
    assert champion.index("v1") < champion.index("v2")
    assert aliases_of(store) == ({"champion": 1, "previous": 1}, 2)
    taken_down = tags_of(store, 2)
    assert (taken_down["rolled_back_by"], taken_down["rolled_back_reason"]) == ("Bob", "worse live")
    assert taken_down["rolled_back_at"] >= taken_down["promoted_at"]
    assert tags_of(store, 1) == before

    go(store, "rollback", approver="Eve")
    [line] = logged(capsys)
    assert "v1" in line
    assert aliases_of(store) == ({"champion": 1, "previous": 1}, 2)
    assert tags_of(store, 2) == taken_down

    register(store, "second", override_reason="better after all")
    assert aliases_of(store) == ({"champion": 2, "previous": 1}, 2)
    assert tags_of(store, 2)["override_reason"] == "better after all"


def test_a_rollback_without_anything_to_go_back_to_is_refused(store):
    with pytest.raises(RegistrationError):
        go(store, "rollback", approver="Ada")
    register(store, "first")
    with pytest.raises(RegistrationError):
        go(store, "rollback", approver="Ada")
    register(store, "second")
    with pytest.raises(RegistrationError):
        go(store, "rollback")
    assert aliases_of(store) == ({"champion": 2, "previous": 1}, 2)


# --- Killed ---------------------------------------------------------------------------------------


def killed_at_each_step(store, tmp_path, pipeline, **parameters):
    """Return what tests/killed_registration.py prints."""
    command = [sys.executable, str(Path(__file__).with_name("killed_registration.py"))]
    parameters["registered_model"] = MODEL
    arguments = [store / "mlflow/mlflow.db", tmp_path / "killed", pipeline, json.dumps(parameters)]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_fault_23_a_killed_registration_leaves_the_old_or_the_new_champion(open_source, tmp_path):
    register(open_source, "first")
    found = killed_at_each_step(
        open_source,
        tmp_path,
        "registration",
        candidate="second",
        approver="Bob",
        override_reason=WHY,
    )
    made, alias = "create_model_version", "set_registered_model_alias"
    old, half, new = {"champion": 1}, {"champion": 1, "previous": 1}, {"champion": 2, "previous": 1}
    assert [
        (item["step"], item["killed"]["versions"], item["killed"]["aliases"]) for item in found
    ] == [
        (f"before {made}", [1], old),
        (f"after {made}", [1, 2], old),
        (f"before {alias}", [1, 2], old),
        (f"after {alias}", [1, 2], half),
        (f"before {alias}", [1, 2], half),
        (f"after {alias}", [1, 2], new),
        ("", [1, 2], new),
    ]
    for item in found:
        assert (item["finished"]["versions"], item["finished"]["aliases"]) == ([1, 2], new)
        assert set(item["finished"]["tags"]["2"]) == TAGS


@pytest.mark.slow
def test_fault_23_a_killed_rollback_leaves_the_old_or_the_new_champion(open_source, tmp_path):
    register(open_source, "first")
    register(open_source, "second")
    found = killed_at_each_step(open_source, tmp_path, "rollback", approver="Bob")
    assert [item["killed"]["aliases"]["champion"] for item in found] == [2] * 5 + [1] * 2
    for item in found:
        assert item["finished"]["aliases"] == {"champion": 1, "previous": 1}
        assert set(item["finished"]["tags"]["2"]) == TAGS | {"rolled_back_by", "rolled_back_at"}


# --- A server that is not there -------------------------------------------------------------------


class Proxy(ThreadingHTTPServer):
    """Forwards requests to a server until the n-th write to the registry.

    Attributes:
        fails_at: which write, counted from 1; 0: none.
        loses: ``request`` (the server never sees it) or ``answer`` (the server carries it out).
        stays_dead: whether no request is answered from then on.
    """

    daemon_threads = True

    def __init__(self, port: int):
        super().__init__(("127.0.0.1", 0), Handler)
        self.port = port
        self.set()

    def set(self, fails_at: int = 0, loses: str = "request", stays_dead: bool = True) -> None:
        """Answer again, and count writes from 1."""
        self.fails_at, self.loses, self.stays_dead = fails_at, loses, stays_dead
        self.writes, self.dead = 0, False


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Proxy
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        """Forward it, or lose it."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        registry = re.search("/(registered-models|model-versions)/(?!search)", self.path)
        is_write = bool(registry) and self.command != "GET"
        self.server.writes += is_write
        failing = is_write and self.server.writes == self.server.fails_at
        if self.server.dead or (failing and self.server.loses == "request"):
            self.server.dead = self.server.dead or self.server.stays_dead
            self.close_connection = True
            return
        upstream = HTTPConnection("127.0.0.1", self.server.port)
        with closing(upstream):
            headers = {**self.headers, "Host": f"127.0.0.1:{self.server.port}"}
            upstream.request(self.command, self.path, body, headers)
            response = upstream.getresponse()
            content = response.read()
        if failing:
            self.server.dead = self.server.stays_dead
            self.close_connection = True
            return
        self.send_response(response.status)
        self.send_header("Content-Type", response.headers["Content-Type"])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = answer

    def log_message(self, *_arguments: object) -> None:
        """Log nothing."""


@pytest.fixture
def _no_pauses(monkeypatch):
    """MLflow's own settings: it repeats a request at once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")


LOST = [("request", 1), ("answer", 1), ("answer", 2), ("answer", 3)]


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pauses")
def test_fault_23_a_server_that_dies_leaves_the_old_or_the_new_champion(
    open_source, tmp_path, monkeypatch
):
    """At each write to the registry: before it arrives, or before it is answered."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    names = [f"{loses}_{n}" for loses, n in LOST]
    for name in [*names, "alive"]:
        register(open_source, "first", registered_model=name)
    left = {}
    server = ["server", "--backend-store-uri", f"sqlite:///{open_source}/mlflow/mlflow.db"]
    with (
        mlflow_serving(*server, health="/health", log=tmp_path / "server.log") as port,
        Proxy(port) as proxy,
    ):
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        conf = configuration(tmp_path / "conf", f"http://127.0.0.1:{proxy.server_port}")
        for name, (loses, n) in zip(names, LOST, strict=True):
            proxy.set(fails_at=n, loses=loses)
            with pytest.raises(DatasetError) as error:
                register(open_source, "second", registered_model=name, conf_source=conf)
            assert f"http://127.0.0.1:{proxy.server_port}" in str(error.value)
            assert isinstance(error.value.__cause__.__cause__, TrackingUnavailableError)
            left[name] = aliases_of(open_source, name)
            proxy.set()
            register(open_source, "second", registered_model=name, conf_source=conf)
            assert aliases_of(open_source, name) == ({"champion": 2, "previous": 1}, 2)
        proxy.set(fails_at=1, loses="answer", stays_dead=False)
        register(open_source, "second", registered_model="alive", conf_source=conf)
        proxy.shutdown()
    assert left == {
        "request_1": ({"champion": 1}, 1),
        "answer_1": ({"champion": 1}, 2),
        "answer_2": ({"champion": 1, "previous": 1}, 2),
        "answer_3": ({"champion": 2, "previous": 1}, 2),
    }
    # MLflow's client alone would have repeated the request, and made a second version.
    assert aliases_of(open_source, "alive") == ({"champion": 2, "previous": 1}, 2)


@pytest.mark.usefixtures("_no_pauses")
def test_fault_23_an_unreachable_registry_promotes_nothing(open_source, tmp_path):
    conf = configuration(tmp_path / "conf", f"http://127.0.0.1:{free_port()}")
    before = (open_source / "mlflow/mlflow.db").read_bytes()
    for pipeline in ("registration", "rollback"):
        with pytest.raises(TrackingUnavailableError, match="Connection refused"):
            go(open_source, pipeline, candidate="first", approver="Ada", conf_source=conf)
    assert (open_source / "mlflow/mlflow.db").read_bytes() == before


def test_fault_23_training_without_a_tracking_server_is_refused_at_start(project):
    port = free_port()
    (project / "conf/local").mkdir(exist_ok=True)
    (project / "conf/local/mlflow.yml").write_text(
        f"server:\n  mlflow_tracking_uri: http://somebody:secret@127.0.0.1:{port}\n"
    )
    began = time.monotonic()
    done = kedro(project, "run")
    assert time.monotonic() - began < 60
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "  ERROR   " in line
    assert f"http://127.0.0.1:{port} " in line
    assert "Connection refused" in line
    assert "secret" not in line
    assert not (project / "data/tables").exists()
    assert not (project / "data/fetched").exists()
