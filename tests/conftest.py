"""Fixtures: one Spark session per worker, runs in this process, one trained data root for all.

Nothing is written into the checkout: every run has a data root of its own in a temporary folder.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:  # of several workers each has one core; numpy reads this on import
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import candlecast  # noqa: E402

candlecast.silence_third_party()  # before the packages that it silences are imported

import mlflow.store.db.utils  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402
import yaml  # noqa: E402
from kedro.config import OmegaConfigLoader  # noqa: E402
from kedro.framework import project as kedro_project  # noqa: E402
from kedro.framework.session import KedroSession  # noqa: E402
from kedro.framework.startup import bootstrap_project  # noqa: E402
from kedro.pipeline import Pipeline  # noqa: E402
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache  # noqa: E402
from playwright.sync_api import Browser, sync_playwright  # noqa: E402
from pyspark.sql import SparkSession  # noqa: E402
from sqlalchemy import Engine  # noqa: E402

from candlecast import settings  # noqa: E402
from candlecast.runtime.spark import start_session  # noqa: E402

ROOT = Path(__file__).parents[1]
SMALL = {
    "tickers": ["AAPL", "IBM"],
    "start": "2010-01-01",
    "estimators": ["forest_5", "forest_10", "forest_20"],
    "folds": 3,
    "evaluation": {"repetitions": 1000},
}
"""Parameters of a run that takes seconds: two tickers, three years, few trees and repetitions."""


def start_spark(scratch: Path) -> SparkSession:
    """Start the project's own local session; of several workers each has one core."""
    configuration = yaml.safe_load((ROOT / "conf/base/spark.yml").read_text())["session"]
    if WORKERS > 1:
        configuration["spark.master"] = "local[1]"
        configuration["spark.sql.shuffle.partitions"] = 1
        configuration["spark.default.parallelism"] = 1
    return start_session(configuration, scratch)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """One session for all tests of this worker."""
    session = start_spark(tmp_path_factory.mktemp("spark"))
    yield session
    session.stop()


@pytest.fixture(autouse=True)
def _spark_in_doctests(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]) -> None:
    if isinstance(request.node, pytest.DoctestItem) and "spark" in request.node.dtest.docstring:
        doctest_namespace["spark"] = request.getfixturevalue("spark")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the machine's environment out of a test, and a test's changes out of the next one."""
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the project's hook sets it
    # A copy of a data root has the same runs elsewhere, and MLflow remembers where each one's
    # artifacts are.
    _artifact_repos_cache.clear()
    yield
    logging.captureWarnings(False)  # the project's hook sets it, too


@pytest.fixture(scope="session", autouse=True)
def _copied_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Copy the first store instead of letting MLflow take a second to make each new one.

    Other processes make their stores by MLflow itself.
    """
    first, upgrade = (
        tmp_path_factory.mktemp("store") / "mlflow.db",
        mlflow.store.db.utils._upgrade_db,
    )

    def copy(engine: Engine) -> None:
        if not first.exists():
            upgrade(engine)
            shutil.copy(engine.url.database, first)
        with (
            closing(sqlite3.connect(first)) as source,
            closing(sqlite3.connect(engine.url.database)) as target,
        ):
            source.backup(target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow.store.db.utils, "_upgrade_db", copy)
        yield


def run_session(
    data_root: Path,
    *,
    env: str | None = None,
    conf_source: Path | None = None,
    pipeline_names: list[str] | None = None,
    tags: list[str] | None = None,
    node_names: list[str] | None = None,
    from_nodes: list[str] | None = None,
    to_nodes: list[str] | None = None,
    only_missing_outputs: bool = False,
    **parameters: Any,
) -> dict[str, Any]:
    """Run pipelines in this process, as ``kedro run`` would.

    What is not an option of the session's run is a parameter. kedro-viz writes into the project
    around the working folder: here there is none.
    """
    bootstrap_project(ROOT)
    with (
        contextlib.chdir(data_root.parent),
        KedroSession.create(
            project_path=ROOT,
            env=env,
            conf_source=conf_source and str(conf_source),
            runtime_params={"data_root": str(data_root), **parameters},
        ) as session,
    ):
        try:
            return session.run(
                pipeline_names=pipeline_names,
                tags=tags,
                node_names=node_names,
                from_nodes=from_nodes,
                to_nodes=to_nodes,
                only_missing_outputs=only_missing_outputs,
            )
        finally:
            while mlflow.active_run():
                mlflow.end_run()


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(spark: SparkSession, tmp_path: Path) -> Run:
    """Run pipelines in this process, under the data root ``tmp_path/data`` by default.

    ``run(env="yahoo", pipeline_names=[...], tags=[...], window=10)``
    """

    def go(*, data_root: Path | str = tmp_path / "data", **given: Any) -> dict[str, Any]:
        return run_session(Path(data_root), **given)

    return go


@pytest.fixture
def sample(tmp_path: Path) -> Callable[[Callable[[pd.DataFrame], pd.DataFrame]], str]:
    """Return a function that changes the sample, and returns the changed file's path."""

    def change(make: Callable[[pd.DataFrame], pd.DataFrame]) -> str:
        file = tmp_path / "prices.csv"
        make(pd.read_csv(ROOT / "data/sample/prices.csv")).to_csv(file, index=False)
        return str(file)

    return change


@pytest.fixture(scope="session")
def trained(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A read-only data root: candidates first and second (`SMALL`); first is champion.

    The first worker makes it for all. ``mlflow/unregistered.db`` is its store before the
    registration. To write, take a copy: `copy_root`, or the fixture `stored`.
    """
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if WORKERS > 1 else base) / "trained"
    with root.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.with_suffix(".whole").exists():
            shutil.rmtree(root, ignore_errors=True)  # another worker failed
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "excepthook", sys.excepthook)
                for candidate in ("first", "second"):
                    run_session(root, **SMALL, candidate=candidate)
                shutil.copy(root / "mlflow/mlflow.db", root / "mlflow/unregistered.db")
                register(partial(run_session, root), "first")
            root.with_suffix(".whole").touch()
    return root


def register(run: Run, candidate: str, **parameters: Any) -> None:
    """Make a candidate the champion, whatever its gate decided."""
    approval = {"approver": "Ada", "override_reason": "to have a champion"}
    run(pipeline_names=["registration"], candidate=candidate, **{**approval, **parameters})


ADDRESSES = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
"""The column of each table of MLflow's store that holds an artifact's absolute address."""


def copy_root(source: Path, target: Path) -> Path:
    """Copy a data root, and correct its artifacts' addresses in MLflow's store."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("spark"))
    _artifact_repos_cache.clear()  # by run: it would write into the source
    for file in (target / "mlflow").glob("*.db"):
        with closing(sqlite3.connect(file)) as store, store:
            for table, column in ADDRESSES.items():
                store.execute(
                    f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                    (str(source), str(target)),
                )
    for model in target.rglob("MLmodel"):
        model.write_text(model.read_text().replace(str(source), str(target)))
    return target


@pytest.fixture
def stored(trained: Path, tmp_path: Path) -> Path:
    """The data root of `run`, as a copy of the trained one."""
    return copy_root(trained, tmp_path / "data")


@pytest.fixture
def pipelines() -> dict[str, Pipeline]:
    """The project's pipelines by name."""
    kedro_project.configure_project("candlecast")
    return dict(kedro_project.pipelines)


def loader(env: str) -> OmegaConfigLoader:
    """The committed configuration of an environment, read as the project reads it."""
    return OmegaConfigLoader(str(ROOT / "conf"), env=env, **settings.CONFIG_LOADER_ARGS)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real browser. Without one its tests are skipped; in CI they fail."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        reason = f"there is no browser ({', '.join(names)})"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=found, args=flags)


def copy_project(folder: Path) -> Path:
    """Copy the project as a newcomer has it, for tests of the real command."""
    folder.mkdir()
    for name in ("conf", "data/sample", "src", "pyproject.toml", ".telemetry"):
        source = ROOT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, folder / name, ignore=ignore)
        else:
            shutil.copy(source, folder / name)
    return folder


def copy_used_project(trained: Path, folder: Path) -> Path:
    """Copy the project with the data root of `trained`, beside the sample."""
    project = copy_project(folder)
    sample = shutil.move(project / "data/sample", project / "sample")
    (project / "data").rmdir()
    copy_root(trained, project / "data")
    shutil.move(sample, project / "data/sample")
    return project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project in the test's own folder."""
    return copy_project(tmp_path / "candlecast")


def kedro(
    folder: Path, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``kedro …`` in `folder`, in this environment."""
    command = [str(Path(sys.executable).with_name("kedro")), *arguments]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300
    )
