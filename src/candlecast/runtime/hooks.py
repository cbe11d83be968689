"""The effects around a run, of which nodes know nothing.

Checked parameters, one MLflow run a candidate, a lock, the Spark session, lineage, a short log.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import logging
import logging.config
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import mlflow
import yaml
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog, DatasetError
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from kedro_mlflow.framework.hooks import mlflow_hook
from mlflow.entities.model_registry import ModelVersion

from candlecast import __version__
from candlecast.errors import CandlecastError, NoChampionError
from candlecast.io.delta import DeltaDataset
from candlecast.io.spark import sessions
from candlecast.io.tracking import find_run, table_versions
from candlecast.names import CHAMPION
from candlecast.parameters import check_parameters
from candlecast.registry.client import fail_fast, find_version
from candlecast.runtime.spark import java_version, start_session

logger = logging.getLogger("candlecast")

PACKAGES = ("mlflow", "numpy", "pandas", "pyspark", "delta-spark", "scikit-learn", "kedro")

MIN_FREE_BYTES = 1_000_000
"""A disk with fewer bytes free than this is full, for what a run writes."""

WINDOW_PARAMETERS = ("window", "body")
"""The parameters that shape a table's columns; one made with others is not what is asked for."""


class LockedError(CandlecastError):
    """Another run is at work in the same data root."""

    def __init__(self, data_root: Path, holder: str):
        super().__init__(
            f"Another run is at work in {data_root}: {holder}. Wait for its end, or choose another "
            "folder with --params data_root=…"
        )


class MixedTablesError(CandlecastError):
    """Tables that were made from different versions of a third: an earlier run ended half-way."""

    def __init__(self, table: str, source: str, made_from: int, others: int):
        super().__init__(
            f"Table {table} was made from {source} v{made_from}, the others here from v{others}: "
            "an earlier run ended half-way. To finish its job, type: kedro run (with the same "
            "--env and --params)"
        )


class UnnamedCandidateError(CandlecastError):
    """A candidate is to be registered, and nobody said which."""

    def __init__(self) -> None:
        super().__init__(
            "Which candidate is to be registered? Name the candidate, its report tells its id: "
            "--params candidate=<id>,approver=<who>"
        )


class IncompatibleRunError(CandlecastError):
    """What is asked for now does not fit what was done before."""


class ProjectHooks:
    """What happens around the nodes of a run."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._candidate = ""
        self._project_path = self._data_root = Path()
        self._parameters: dict[str, Any] = {}
        self._champion: ModelVersion | None = None
        self._spark: dict[str, Any] = {}
        self._lock: TextIO | None = None
        self._catalog: DataCatalog | None = None
        # Versions by table: known to this run (read, written, a source of one), and recorded by
        # this candidate's processes.
        self._versions: dict[str, int] = {}
        self._recorded: dict[str, int] = {}
        self._rows: dict[str, int] = {}
        self._node: Node | None = None
        self._since = 0.0

    @hook_impl(wrapper=True, tryfirst=True)
    def after_context_created(self, context: KedroContext) -> Generator[None]:
        """Check the parameters, make them known to all configuration, join the candidate's run.

        All but the last before the other packages' hooks, which read the configuration.
        """
        self._reset()
        loader = context.config_loader
        log_configuration = Path(loader.conf_source, "logging.yml")
        if log_configuration.is_file():
            logging.config.dictConfig(yaml.safe_load(log_configuration.read_text()))
        logging.captureWarnings(True)
        sys.excepthook = self._say
        parameters = check_parameters(loader["parameters"])
        self._project_path = context.project_path
        self._data_root = Path(context.project_path, parameters["data_root"]).resolve()
        made = f"local-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
        self._candidate = parameters["candidate"] or made
        # Nodes and the configuration see the checked values, not what was typed.
        checked = {name: value for name, value in parameters.items() if name != "tables"}
        loader.runtime_params = {
            **(loader.runtime_params or {}),
            **checked,
            "data_root": str(self._data_root),
            "candidate": self._candidate,
            "named_candidate": parameters["candidate"],
            **self._environment(),
        }
        self._parameters = parameters
        # Interpolated from data_root, so read again now that this is absolute.
        loader.runtime_params["tables"] = loader["parameters"]["tables"]
        if not os.access(Path.home(), os.W_OK):  # where matplotlib would keep its fonts
            os.environ.setdefault("MPLCONFIGDIR", str(self._data_root / "matplotlib"))
        self._spark = loader["spark"].get("session") or {}
        sessions.start = (
            partial(start_session, self._spark, self._data_root / "spark") if self._spark else None
        )
        if loader.runtime_params["artifact_location"]:
            (self._data_root / "mlflow").mkdir(parents=True, exist_ok=True)
        with fail_fast():
            yield
            mlflow_hook.run_id = None  # kedro-mlflow 2.0 would reopen the run of an earlier session
            tracking = context.mlflow.tracking  # type: ignore[attr-defined] # kedro-mlflow's
            tracking.run.name = self._candidate
            begun = find_run(self._candidate)
            self._champion = find_version(parameters["registered_model"], CHAMPION)
        if begun:
            tracking.run.id = begun.info.run_id

    def _environment(self) -> dict[str, str | None]:
        """Tell, for environments that leave it to what surrounds them, where MLflow's runs go.

        Where nothing says it and no platform does, into the data root, as on a laptop.
        """
        store = f"sqlite:///{self._data_root}/mlflow/mlflow.db"
        platform = "databricks" if "DATABRICKS_RUNTIME_VERSION" in os.environ else store
        uri = os.environ.get("MLFLOW_TRACKING_URI") or platform
        served = not uri.startswith("sqlite:")
        return {
            "tracking_uri": uri,
            "artifact_location": None if served else f"{self._data_root}/mlflow/artifacts",
            "scratch": str(Path(tempfile.gettempdir(), f"candlecast-{os.getuid()}")),
        }

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog) -> None:
        """Keep the catalog, to ask its tables for their versions."""
        self._catalog = catalog

    @hook_impl(wrapper=True, tryfirst=True)
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline
    ) -> Generator[None]:
        """Take the lock, let kedro-mlflow start the run, then tag it."""
        if "candidate_run" in pipeline.inputs() and self._parameters["candidate"] is None:
            raise UnnamedCandidateError
        if "champion" in pipeline.inputs() and self._champion is None:
            raise NoChampionError(self._parameters["registered_model"])
        if self._spark:
            java_version()
            self._take_lock()
            # Of runs that were killed: the lock says that no other one is at work.
            shutil.rmtree(self._data_root / "fetched", ignore_errors=True)
        yield
        active = mlflow.active_run()
        if active:
            self._recorded = table_versions(active.data.tags)
            try:
                self._check_parameters(active.data.params)
            except IncompatibleRunError:
                self._release()
                raise
            trains = any(node.name == "select_model" for node in pipeline.nodes)
            if trains or "candidate" not in active.data.tags:
                mlflow.set_tags({"candidate": self._candidate, **self._provenance()})
        named = active or self._parameters["candidate"]  # a rollback is of none
        candidate = f"candidate {self._candidate}, " if named else ""
        logger.info("%senvironment %s", candidate, run_params.get("env") or "base")

    def _check_parameters(self, before: dict[str, str]) -> None:
        """Demand the parameters that the candidate's run has had in other processes."""
        for name, value in self._parameters.items():
            if name in before and before[name] != str(value):
                raise IncompatibleRunError(
                    f"Candidate {self._candidate} was begun with {name}={before[name]}; now it is "
                    f"{value}. To go on, give it again, or leave candidate out or name another."
                )

    def _take_lock(self) -> None:
        """Hold a file of the data root until this process ends, however it ends."""
        self._lock = (self._data_root / "run.lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip()
            self._lock.close()
            raise LockedError(self._data_root, holder or "it has not said which") from None
        self._lock.truncate(0)
        now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self._lock.write(f"candidate {self._candidate}, process {os.getpid()}, since {now}\n")
        self._lock.flush()

    def _provenance(self) -> dict[str, str]:
        command = ["git", "-C", str(self._project_path), "rev-parse", "HEAD"]
        said: str = self._parameters["git_commit"] or ""
        if not said:
            with contextlib.suppress(OSError):  # there is no git
                said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        packages = {}
        for name in PACKAGES:
            try:
                packages[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:  # the platform brings its own
                continue
        return {
            "git_commit": said.strip() or "unknown",
            "candlecast": __version__,
            "packages": json.dumps(packages),
        }

    @hook_impl
    def before_dataset_loaded(self, dataset_name: str, node: Node) -> None:
        """Pin a table to the version that is known; a new node ends the last one's line.

        A table that this run knows already is read in the version that it knows, and one that each
        run writes a part of in the version that this candidate wrote: another job may have written
        it since.
        """
        if node is not self._node:
            self._end_line()
            self._node, self._since = node, time.monotonic()
        if (table := self._table(dataset_name)) and not table.optional:
            known = self._versions.get(table.name)
            table.pin = self._recorded.get(table.name, known) if table.is_shared else known

    @hook_impl
    def before_dataset_saved(self, dataset_name: str) -> None:
        """Stamp a commit with the candidate and the versions so far."""
        if table := self._table(dataset_name):
            table.stamp = {
                "candidate": self._candidate,
                "sources": self._versions,
                "parameters": {name: self._parameters[name] for name in WINDOW_PARAMETERS},
            }

    @hook_impl
    def after_dataset_loaded(self, dataset_name: str) -> None:
        """Remember which version of a table was read, and refuse one that does not fit."""
        self._check_sources(dataset_name)
        self._note(dataset_name)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        """Remember which version of a table was written."""
        self._note(dataset_name)

    @hook_impl(tryfirst=True)
    def after_pipeline_run(self, pipeline: Pipeline) -> None:
        """Say where the report is, and let the next run in."""
        self._end_line()
        if "report" in pipeline.all_outputs():
            logger.info("report: %s", self._data_root / "reporting" / "report.html")
        if "track_record_page" in pipeline.all_outputs():
            logger.info("track record: %s", self._data_root / "reporting" / "track_record.html")
        self._release()

    @hook_impl(tryfirst=True)
    def on_pipeline_error(self) -> None:
        """Let the next run in, before kedro-mlflow marks this one as failed.

        The files that this run fetched go first: on a full disk they make room for the mark.
        """
        self._release()

    def _say(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """End a run that the user can mend with one message; others keep their traceback."""
        if (free := self._free()) < MIN_FREE_BYTES:
            logger.error(
                "The disk of %s is full (%d KiB are free): %s. What earlier runs stored is whole. "
                "To go on, make room and type the same again.",
                self._data_root,
                free // 1024,
                kind.__name__,
            )
        elif isinstance(error, CandlecastError | DatasetError):
            logger.error("%s", error)
        else:
            sys.__excepthook__(kind, error, trace)

    def _free(self) -> int:
        """The bytes that are free for a run to write; of a volume that does not tell, enough."""
        try:
            usage = shutil.disk_usage(self._data_root)
        except OSError:  # it is not there, or not for this user
            return MIN_FREE_BYTES
        return usage.free if usage.total else MIN_FREE_BYTES

    def _release(self) -> None:
        """Remove the files that this run fetched, and let the next run in."""
        fetched = self._data_root / "fetched"
        shutil.rmtree(fetched / self._candidate, ignore_errors=True)
        with contextlib.suppress(OSError):  # it holds another job's files, or is not there
            fetched.rmdir()
        if self._lock:
            self._lock.truncate(0)
            self._lock.close()
            self._lock = None

    def _dataset(self, name: str) -> object:
        return self._catalog[name] if self._catalog is not None and name in self._catalog else None

    def _table(self, name: str) -> DeltaDataset | None:
        dataset = self._dataset(name)
        return dataset if isinstance(dataset, DeltaDataset) else None

    def _check_sources(self, dataset_name: str) -> None:
        """Demand that all tables read in this run come from the same versions of their sources."""
        table = self._table(dataset_name)
        if table is None or table.commit is None or table.optional:
            return
        commit = table.commit
        asked = {"candidate": self._candidate} if table.name == "test_scores" else {}
        if table.name in ("windows", "train", "test", "test_scores"):
            asked |= {key: self._parameters[key] for key in WINDOW_PARAMETERS}
        for key, value in asked.items():
            if commit.made_with.get(key, value) != value:
                raise IncompatibleRunError(
                    f"Table {table.name} was made with {key}={commit.made_with[key]}, and {value} "
                    "is asked for now. To go on, ask for the same, or make it again: kedro run"
                )
        for source, version in {**commit.sources, table.name: commit.version}.items():
            if self._versions.setdefault(source, version) != version:
                raise MixedTablesError(table.name, source, version, self._versions[source])

    def _note(self, dataset_name: str) -> None:
        table = self._table(dataset_name)
        if table is None or table.commit is None or table.optional:
            return
        if table.commit.rows is not None:
            self._rows[table.name] = table.commit.rows
        self._versions[table.name] = self._recorded[table.name] = table.commit.version
        if mlflow.active_run():
            mlflow.set_tag(f"version.{table.name}", table.commit.version)

    def _end_line(self) -> None:
        """Log one line per node: its seconds, and the tables that it read and wrote."""
        if self._node is None:
            return
        read, written = (
            ", ".join(
                name if table.optional else self._described(table.name)
                for name in names
                if (table := self._table(name))
            )
            for names in (self._node.inputs, self._node.outputs)
        )
        tables = " -> ".join(part for part in (read, written) if part)
        logger.info("%-18s %5.1f s  %s", self._node.name, time.monotonic() - self._since, tables)
        self._node = None

    def _described(self, name: str) -> str:
        if name not in self._versions:
            return name
        rows = f" ({self._rows[name]:,} rows)" if name in self._rows else ""
        return f"{name} v{self._versions[name]}{rows}"
