"""The effects around a run, of which nodes know nothing: a class per duty.

`candlecast.settings` lists them, with the order in which they are called. What they must know of a
dataset stands beside it in the catalog, under ``metadata: candlecast:``

- ``requires: candidate`` or ``champion``: a pipeline that reads it must be given one;
- ``made_with: [window, …]``: parameters that shape the table; with other values it is refused;
- ``temporary: true``: files of one run, which go with it;
- ``announce: report``: the log of a run that wrote it ends with its path, under this word.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import mlflow
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro_mlflow.framework.hooks import mlflow_hook
from kedro_mlflow.io.models import MlflowModelTrackingDataset
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH
from pydantic import BaseModel

from candlecast import __version__
from candlecast.errors import IncompatibleRunError, LockedError, NoChampionError, ParameterError
from candlecast.io.delta import DeltaDataset
from candlecast.io.spark import sessions
from candlecast.io.tracking import find_run, table_versions
from candlecast.names import CHAMPION
from candlecast.parameters import check_parameters
from candlecast.registry.client import fail_fast, find_version
from candlecast.runtime.spark import java_version, start_session

PACKAGES = ("mlflow", "numpy", "pandas", "pyspark", "delta-spark", "scikit-learn", "kedro")


def declared(conf_catalog: dict[str, Any], key: str) -> dict[str, Any]:
    """Return what the catalog's entries declare for hooks under `key`, by dataset name."""
    entries = {
        name: (entry.get("metadata") or {}).get("candlecast") or {}
        for name, entry in conf_catalog.items()
        if isinstance(entry, dict)
    }
    return {name: facts[key] for name, facts in entries.items() if key in facts}


class ParameterHooks:
    """Check the parameters, and let nodes and all configuration see the checked values.

    The configuration reads them by ``${runtime_params:…}``. Of those that are left open,
    ``data_root`` is absolute there, ``tables`` follows from it and ``candidate`` is made up;
    ``named_candidate`` is the one that was given.
    """

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Check them before other packages' hooks read the configuration."""
        loader = context.config_loader
        checked = check_parameters(loader["parameters"])
        data_root = Path(context.project_path, checked["data_root"]).resolve()
        made_up = f"local-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
        loader.runtime_params = {
            **(loader.runtime_params or {}),
            **checked,
            "data_root": str(data_root),
            "tables": checked["tables"] or f"{data_root}/tables/",
            "candidate": checked["candidate"] or made_up,
            "named_candidate": checked["candidate"],
            **surroundings(data_root),
        }
        store = loader["mlflow"]["server"]["mlflow_tracking_uri"]
        if store.startswith("sqlite:///"):
            Path(store.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        if not os.access(Path.home(), os.W_OK):  # where matplotlib would keep its fonts
            os.environ.setdefault("MPLCONFIGDIR", str(data_root / "matplotlib"))


def surroundings(data_root: Path) -> dict[str, str | None]:
    """Return where MLflow's runs go in an environment that leaves it to what surrounds it.

    Where no variable names a server and no platform has one, that is the data root, as on a laptop.
    """
    store = f"sqlite:///{data_root}/mlflow/mlflow.db"
    platform = "databricks" if "DATABRICKS_RUNTIME_VERSION" in os.environ else store
    uri = os.environ.get("MLFLOW_TRACKING_URI") or platform
    own = uri.startswith("sqlite:")
    return {
        "tracking_uri": uri,
        "artifact_location": f"{data_root}/mlflow/artifacts" if own else None,
        "scratch": str(Path(tempfile.gettempdir(), f"candlecast-{os.getuid()}")),
    }


class SparkHooks:
    """Tell the datasets how to start the local Spark session, if ``spark.yml`` has one."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Pass the session's settings on; none where a session is already there."""
        loader = context.config_loader
        self._session = loader["spark"].get("session")
        scratch = Path(loader.runtime_params["data_root"], "spark")
        sessions.start = partial(start_session, self._session, scratch) if self._session else None

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self) -> None:
        """Demand a Java before anything is read."""
        if self._session:
            java_version()


class DataRootHooks:
    """Keep the data root to one local run at a time, and remove a run's temporary files."""

    _lock: TextIO | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Note the data root. Where Spark is already there, jobs are queued, and none is locked."""
        loader = context.config_loader
        self._root = Path(loader.runtime_params["data_root"])
        self._candidate = loader.runtime_params["candidate"]
        self._is_local = bool(loader["spark"].get("session"))

    @hook_impl
    def after_catalog_created(self, conf_catalog: dict[str, Any]) -> None:
        """Note the folders of temporary files: one per run, in one that holds those of all."""
        names = declared(conf_catalog, "temporary")
        self._temporary = [Path(conf_catalog[name]["path"]) for name in names]

    @hook_impl(wrapper=True, tryfirst=True)
    def before_pipeline_run(self) -> Generator[None]:
        """Take the lock first, and give it back if another hook refuses the run."""
        if self._is_local:
            self._take()
            for folder in self._temporary:  # of runs that were killed: no other one is active
                shutil.rmtree(folder.parent, ignore_errors=True)
        try:
            yield
        except BaseException:
            self._release()
            raise

    @hook_impl(tryfirst=True)
    def after_pipeline_run(self) -> None:
        """Let the next run in."""
        self._release()

    @hook_impl(tryfirst=True)
    def on_pipeline_error(self) -> None:
        """Let the next run in, before kedro-mlflow marks this one as failed.

        On a full disk the temporary files make room for the mark.
        """
        self._release()

    def _take(self) -> None:
        """Lock a file of the data root until this process ends, however it ends."""
        self._root.mkdir(parents=True, exist_ok=True)
        self._lock = (self._root / "run.lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip()
            self._lock.close()
            self._lock = None
            raise LockedError(self._root, holder) from None
        self._lock.truncate(0)
        now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        self._lock.write(f"candidate {self._candidate}, process {os.getpid()}, since {now}\n")
        self._lock.flush()

    def _release(self) -> None:
        for folder in self._temporary:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # another job's files are in it, or it is not there
                folder.parent.rmdir()
        if self._lock:
            self._lock.truncate(0)
            self._lock.close()
            self._lock = None


class RunHooks:
    """One MLflow run per candidate, whatever the number of processes: found by its tag, resumed."""

    @hook_impl(wrapper=True)
    def after_context_created(self, context: KedroContext) -> Generator[None]:
        """Find the candidate's run once kedro-mlflow has set up the store; resume it."""
        with fail_fast():
            yield
            mlflow_hook.run_id = None  # kedro-mlflow 2.0 would reopen the run of an earlier session
            self._project = context.project_path
            self._parameters: dict[str, Any] = context.config_loader.runtime_params
            self._begun: Run | None = find_run(self._parameters["candidate"])
            self._champion: ModelVersion | None = find_version(
                self._parameters["registered_model"], CHAMPION
            )
        run = context.mlflow.tracking.run  # type: ignore[attr-defined] # kedro-mlflow's
        run.name = self._parameters["candidate"]
        if self._begun:
            run.id = self._begun.info.run_id

    @hook_impl
    def after_catalog_created(self, conf_catalog: dict[str, Any]) -> None:
        """Note which datasets need a candidate or a champion."""
        self._required = declared(conf_catalog, "requires")

    @hook_impl(trylast=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Refuse a run that can't succeed; tag the one that kedro-mlflow has started."""
        required = {self._required.get(name) for name in pipeline.inputs()}
        if "candidate" in required and self._parameters["named_candidate"] is None:
            raise ParameterError(
                {
                    "candidate": "is missing. Name the candidate to register; its report shows the "
                    "id: --params candidate=<id>,approver=<who>"
                }
            )
        if "champion" in required and self._champion is None:
            raise NoChampionError(self._parameters["registered_model"])
        active = mlflow.active_run()
        self._run_id = active.info.run_id if active else None
        if active is None:
            return
        if self._begun:
            self._require_same_parameters(self._begun)
        trains = any(
            isinstance(catalog.get(name), MlflowModelTrackingDataset)
            for name in pipeline.all_outputs()
        )
        if trains or not self._begun:
            tags = provenance(self._project, self._parameters["git_commit"])
            mlflow.set_tags({"candidate": self._parameters["candidate"], **tags})

    @hook_impl(tryfirst=True)
    def before_node_run(self, inputs: dict[str, Any]) -> None:
        """Log a node's parameters in one request, and leave none of them to kedro-mlflow.

        It flattens mappings but no models, cuts what is long, and sends one request per name
        (2.0). Kedro gives hooks a copy of the inputs.
        """
        names = [name for name in inputs if name.startswith("params:")]
        given = {name.removeprefix("params:"): inputs.pop(name) for name in names}
        if self._run_id:
            mlflow.log_params(recorded(given), run_id=self._run_id)

    def _require_same_parameters(self, begun: Run) -> None:
        """Demand the parameters that the candidate was given in its other processes."""
        before, now = begun.data.params, recorded(self._parameters)
        differences = {
            name: (before[name], now[name])
            for name in sorted(before.keys() & now.keys())
            if before[name] != now[name]
        }
        if differences:
            mlflow.end_run(begun.info.status)  # as it was
            same = ",".join(f"{name}={before[name]}" for name in differences)
            raise IncompatibleRunError(
                f"Candidate {self._parameters['candidate']}",
                differences,
                f'Run again with the same (--params "{same}"), or name another candidate.',
            )


def recorded(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return what MLflow's run holds of parameters: texts as they can be given on a command line.

    A group's have names like ``gate.threshold``. Of a list that is too long for MLflow (some 1,000
    tickers) it is the length and the digest.
    """
    texts: dict[str, str] = {}
    for name, value in parameters.items():
        group = value.model_dump() if isinstance(value, BaseModel) else value
        if isinstance(group, dict):
            texts |= recorded(group, f"{prefix}{name}.")
            continue
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        if len(text) > MAX_PARAM_VAL_LENGTH:
            text = f"{len(value)} values, SHA-256 {hashlib.sha256(text.encode()).hexdigest()}"
        texts[prefix + name] = text
    return texts


def provenance(project: Path, git_commit: str | None) -> dict[str, str]:
    """Return tags for what makes a candidate: the code and the packages.

    ``git_dirty`` says whether tracked files of the project differ from the commit.

    Args:
        project: the project's folder.
        git_commit: the commit of the code, where no git can be asked.
    """
    commit, dirty = git_commit, "unknown"
    if commit is None and (commit := _git(project, "rev-parse", "HEAD")):
        changes = _git(project, "status", "--porcelain", "--untracked-files=no", "--", ".")
        dirty = str(changes != "").lower()
    packages = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # the platform's own
            packages[name] = importlib.metadata.version(name)
    return {
        "git_commit": commit or "unknown",
        "git_dirty": dirty,
        "candlecast": __version__,
        "packages": json.dumps(packages),
    }


def _git(project: Path, *words: str) -> str | None:
    """Return what git prints; None without git or a repository."""
    with contextlib.suppress(OSError):
        command = ["git", "-C", str(project), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    return None


class LineageHooks:
    """Which versions of which tables belong together: pins, stamps, checks and MLflow tags."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Begin with no version known."""
        self._values = context.config_loader.runtime_params
        # Versions by table: known to this run (read, written, a source of one), and recorded by
        # this candidate's processes.
        self._versions: dict[str, int] = {}
        self._recorded: dict[str, int] = {}

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog, conf_catalog: dict[str, Any]) -> None:
        """Keep the catalog, and note the values that shape each table."""
        self._catalog = catalog
        self._made_with = {
            dataset: {name: self._values[name] for name in names}
            for dataset, names in declared(conf_catalog, "made_with").items()
        }

    @hook_impl(trylast=True)
    def before_pipeline_run(self) -> None:
        """Read what the candidate's other processes recorded."""
        if active := mlflow.active_run():
            self._recorded = table_versions(active.data.tags)

    @hook_impl
    def before_dataset_loaded(self, dataset_name: str) -> None:
        """Pin a table to the version that this run knows already.

        One that each run writes a part of is read in the version that this candidate wrote: another
        job may have written it since.
        """
        if (table := self._table(dataset_name)) and not table.optional:
            known = self._versions.get(table.name)
            table.pin = self._recorded.get(table.name, known) if table.is_shared else known

    @hook_impl
    def before_dataset_saved(self, dataset_name: str) -> None:
        """Stamp a commit with the candidate, the versions so far and what shapes the table."""
        if table := self._table(dataset_name):
            table.stamp = {
                "candidate": self._values["candidate"],
                "sources": self._versions,
                "parameters": self._made_with.get(dataset_name, {}),
            }

    @hook_impl
    def after_dataset_loaded(self, dataset_name: str) -> None:
        """Remember which version was read; refuse one that does not fit this run."""
        if (table := self._table(dataset_name)) and not table.optional:
            self._check(table, self._made_with.get(dataset_name, {}))
            self._note(table)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        """Remember which version was written."""
        if table := self._table(dataset_name):
            self._note(table)

    def _table(self, name: str) -> DeltaDataset | None:
        dataset = self._catalog.get(name)
        return dataset if isinstance(dataset, DeltaDataset) else None

    def _check(self, table: DeltaDataset, required: dict[str, Any]) -> None:
        """Demand a table made with this run's values, from the versions that it knows already."""
        if table.commit is None:
            return
        sources = {**table.commit.sources, table.name: table.commit.version}
        known = {name: self._versions.setdefault(name, sources[name]) for name in sources}
        before = {**required, **table.commit.made_with, **sources}
        differences = {
            name: (before[name], now)
            for name, now in {**required, **known}.items()
            if before[name] != now
        }
        if differences:
            raise IncompatibleRunError(
                f"Table {table.name}",
                differences,
                "Run again with the same, or make the tables again: kedro run (same --env and "
                "--params)",
            )

    def _note(self, table: DeltaDataset) -> None:
        if table.commit is None:
            return
        self._versions[table.name] = self._recorded[table.name] = table.commit.version
        if mlflow.active_run():
            mlflow.set_tag(f"version.{table.name}", table.commit.version)
