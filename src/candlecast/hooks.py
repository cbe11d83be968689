"""The effects around a run: checked parameters, one MLflow run a candidate, the Spark session,
lineage, a short log.
"""

import importlib.metadata
import json
import logging
import logging.config
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Any

import mlflow
import yaml
from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, DatasetError
from kedro.pipeline.node import Node
from kedro_datasets.spark import SparkDatasetV2
from mlflow.tracking import MlflowClient

from candlecast import __version__
from candlecast.datasets import DeltaDataset
from candlecast.errors import CandlecastError
from candlecast.parameters import check_parameters
from candlecast.spark import start_session

logger = logging.getLogger("candlecast")

PACKAGES = ("mlflow", "numpy", "pandas", "pyspark", "delta-spark", "scikit-learn", "kedro")


class ProjectHooks:
    """What happens around nodes.

    Nodes know nothing of it.
    """

    def __init__(self) -> None:
        self._candidate = ""
        self._data_root = Path()
        self._project_path = Path()
        self._session: dict[str, Any] = {}
        self._catalog: CatalogProtocol | None = None
        self._versions: dict[str, int] = {}
        self._rows: dict[str, int] = {}
        self._node: Node | None = None
        self._node_started = 0.0

    @hook_impl(wrapper=True, tryfirst=True)
    def after_context_created(self, context: KedroContext) -> Generator[None, None, None]:
        """Before the other hooks: check the parameters and make them known to all configuration
        files.

        After them: join the candidate's MLflow run, if there is one.
        """
        loader = context.config_loader
        logging.config.dictConfig(
            yaml.safe_load(Path(loader.conf_source, "logging.yml").read_text())
        )
        logging.captureWarnings(True)
        sys.excepthook = _say
        parameters = check_parameters(loader["parameters"])
        self._project_path = context.project_path
        self._data_root = Path(context.project_path, parameters["data_root"]).resolve()
        self._candidate = (
            parameters["candidate"] or f"local-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
        )
        loader.runtime_params = {
            **(loader.runtime_params or {}),
            "data_root": str(self._data_root),
            "candidate": self._candidate,
            "tickers": parameters["tickers"],
        }
        # Interpolated from data_root, so read again now that this is absolute.
        loader.runtime_params["tables"] = loader["parameters"]["tables"]
        try:
            self._session = loader["spark"].get("session") or {}
        except MissingConfigException:
            self._session = {}
        (self._data_root / "mlflow").mkdir(parents=True, exist_ok=True)
        yield
        tracking = context.mlflow.tracking  # type: ignore[attr-defined] # set by kedro-mlflow's hook
        tracking.run.name = self._candidate
        found = MlflowClient().search_runs(
            [tracking.experiment._experiment.experiment_id],
            filter_string=f"tags.candidate = '{self._candidate}'",
            max_results=1,
        )
        if found:
            tracking.run.id = found[0].info.run_id

    @hook_impl
    def after_catalog_created(self, catalog: CatalogProtocol) -> None:
        """Keep the catalog, to ask its tables for their versions."""
        self._catalog = catalog

    @hook_impl(trylast=True)
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Say what runs, and tag the MLflow run, which is active by now."""
        mlflow.set_tags({"candidate": self._candidate, **self._provenance()})
        logger.info(
            "candidate %s, environment %s", self._candidate, run_params.get("env") or "local"
        )

    def _provenance(self) -> dict[str, str]:
        git = subprocess.run(
            ["git", "-C", str(self._project_path), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
        packages = {}
        for name in PACKAGES:
            try:
                packages[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:  # the platform's own pyspark
                continue
        return {
            "git_commit": git.stdout.strip() or "unknown",
            "candlecast": __version__,
            "packages": json.dumps(packages),
        }

    def _table(self, name: str) -> DeltaDataset | None:
        dataset = self._catalog[name] if self._catalog and name in self._catalog else None
        return dataset if isinstance(dataset, DeltaDataset) else None

    @hook_impl
    def before_dataset_loaded(self, dataset_name: str, node: Node) -> None:
        """Start Spark when the first dataset needs it; a node that begins to load ends the line of
        the one before.
        """
        if node is not self._node:
            self._end_line()
            self._node, self._node_started = node, time.monotonic()
        self._ensure_spark(dataset_name)

    @hook_impl
    def before_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Start Spark when the first dataset needs it; stamp a table with the candidate and its
        sources' versions.
        """
        self._ensure_spark(dataset_name)
        if table := self._table(dataset_name):
            inputs = [_plain(name) for name in node.inputs]
            sources = {name: self._versions[name] for name in inputs if name in self._versions}
            table.stamp = json.dumps({"candidate": self._candidate, "sources": sources})

    def _ensure_spark(self, dataset_name: str) -> None:
        dataset = (
            self._catalog[dataset_name] if self._catalog and dataset_name in self._catalog else None
        )
        if self._session and isinstance(dataset, DeltaDataset | SparkDatasetV2):
            start_session(self._session, self._data_root / "spark")
            self._session = {}

    @hook_impl
    def after_dataset_loaded(self, dataset_name: str) -> None:
        """Remember which version of a table was read."""
        self._note(dataset_name)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        """Remember which version of a table was written."""
        self._note(dataset_name)

    def _note(self, dataset_name: str) -> None:
        if (table := self._table(dataset_name)) and table.version is not None:
            name = _plain(dataset_name)
            if self._versions.get(name) != table.version:
                self._versions[name] = table.version
                mlflow.set_tag(f"version.{name}", table.version)
            if table.rows is not None:
                self._rows[name] = table.rows

    def _end_line(self) -> None:
        """One line a node: its name, its seconds, and the versions and rows of the tables that it
        read and wrote.
        """
        if self._node is None:
            return
        read, written = (
            ", ".join(self._described(_plain(name)) for name in names if self._table(name))
            for names in (self._node.inputs, self._node.outputs)
        )
        tables = " -> ".join(part for part in (read, written) if part) if written else read
        logger.info(
            "%-18s %6.1f s  %s", self._node.name, time.monotonic() - self._node_started, tables
        )
        self._node = None

    def _described(self, name: str) -> str:
        rows = f" ({self._rows[name]:,} rows)" if name in self._rows else ""
        return f"{name} v{self._versions[name]}{rows}" if name in self._versions else name

    @hook_impl(tryfirst=True)
    def after_pipeline_run(self) -> None:
        """Say where the report is."""
        self._end_line()
        report = self._data_root / "reporting" / "report.html"
        logger.info("report: %s", report)


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End a run that the user can mend with its message alone; anything else keeps its traceback."""
    if isinstance(error, CandlecastError | DatasetError):
        logger.error("%s", error)
    else:
        sys.__excepthook__(kind, error, trace)


def _plain(dataset_name: str) -> str:
    """A dataset's name without its transcoding: ``train`` of ``train@pandas``."""
    return dataset_name.split("@", 1)[0]
