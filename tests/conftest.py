"""Fixtures: one Spark session, runs in this process, a copy of the project for real commands.

Nothing is written into the checkout: every run has a data root of its own in a temporary folder.
"""

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import candlecast

candlecast.quiet()  # before the packages that it quiets are imported

import mlflow  # noqa: E402
import pytest  # noqa: E402
import yaml  # noqa: E402
from kedro.framework.session import KedroSession  # noqa: E402
from kedro.framework.startup import bootstrap_project  # noqa: E402
from pyspark.sql import SparkSession  # noqa: E402

from candlecast.spark import start_session  # noqa: E402

ROOT = Path(__file__).parents[1]
SMALL = {
    "tickers": ["AAPL", "IBM"],
    "start": "2010-01-01",
    "candidate_trees": [5, 10, 20],
    "folds": 3,
}
"""Parameters of a run that takes seconds: two tickers, three years, few trees."""


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """The project's own local session, started once."""
    configuration = yaml.safe_load((ROOT / "conf/base/spark.yml").read_text())["session"]
    session = start_session(configuration, tmp_path_factory.mktemp("spark"))
    yield session
    session.stop()


@pytest.fixture(autouse=True)
def _spark_in_doctests(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]) -> None:
    if isinstance(request.node, pytest.DoctestItem) and "spark" in request.node.dtest.docstring:
        doctest_namespace["spark"] = request.getfixturevalue("spark")


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run pipelines in this process, as ``kedro run`` would, under the data root ``tmp_path/data``.

    ``run(env="yahoo", pipeline_names=[...], tags=[...], window=10)``: what is not an option of the
    session's run is a parameter.
    """
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # restored afterwards: the hook sets it
    bootstrap_project(ROOT)

    def go(
        *,
        env: str | None = None,
        pipeline_names: list[str] | None = None,
        tags: list[str] | None = None,
        **parameters: Any,
    ) -> dict[str, Any]:
        runtime = {"data_root": str(tmp_path / "data"), **parameters}
        with KedroSession.create(project_path=ROOT, env=env, runtime_params=runtime) as session:
            try:
                return session.run(pipeline_names=pipeline_names, tags=tags)
            finally:
                while mlflow.active_run():
                    mlflow.end_run()

    yield go
    logging.captureWarnings(False)


def copy_project(folder: Path) -> Path:
    """Copy the project as a newcomer would have it, for tests that type the real command."""
    folder.mkdir()
    for name in ("conf", "data/sample", "src", "pyproject.toml", ".telemetry"):
        source = ROOT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, folder / name, ignore=ignore)
        else:
            shutil.copy(source, folder / name)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project in the test's own folder."""
    return copy_project(tmp_path / "candlecast")


def kedro(
    folder: Path, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Type ``kedro …`` in `folder`, in this environment."""
    command = [str(Path(sys.executable).with_name("kedro")), *arguments]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300
    )
