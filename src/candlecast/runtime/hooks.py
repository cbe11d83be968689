"""The parameters and Spark before a run; the other hooks are beside this file, a class per duty.

`candlecast.settings` lists them in the order in which they are called. What hooks need to know
about a dataset stands in its catalog entry, under ``metadata: candlecast:``

- ``requires_champion: true``: a pipeline that reads it is refused while there is none;
- ``made_with: [window, …]``: parameters that shape the table; a run with other values refuses it;
- ``input: training``: the table is an input of the MLflow run, in this context;
- ``describes_run: true``: the text is the description of the MLflow run;
- ``kept: true``: a Spark frame that several nodes compute with; a local session keeps its rows;
- ``temporary: true``: files of one run, removed at its end;
- ``announce: report``: the log of a run that wrote it ends with its path, under this word.
"""

import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import click
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl

from candlecast.errors import ParameterError
from candlecast.frames import release_memory
from candlecast.io.spark import sessions
from candlecast.parameters import check_parameters
from candlecast.runtime.spark import keep_rows, require_java, start_early, start_session

WITHOUT_SPARK = {"registration", "rollback"}
"""Pipelines that need no session."""

FEW_TICKERS, SMALL_FILE = 50, 10_000_000
"""So many tickers, or bytes of a file of all, are few: Spark is set to start fast."""


def declared(conf_catalog: dict[str, Any], key: str) -> dict[str, Any]:
    """Return what the catalog's entries declare for hooks under `key`, by dataset name."""
    entries = {
        name: (entry.get("metadata") or {}).get("candlecast") or {}
        for name, entry in conf_catalog.items()
        if isinstance(entry, dict)
    }
    return {name: facts[key] for name, facts in entries.items() if key in facts}


class ParameterHooks:
    """Check the parameters, and pass the checked values to nodes and to all configuration.

    The configuration reads them as ``${runtime_params:…}``. There ``data_root`` is absolute,
    ``tables`` follows from it, and a ``candidate`` that was not given gets a name from the time;
    ``named_candidate`` is the given one or none.
    """

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Check them before other packages' hooks read the configuration."""
        loader = context.config_loader
        folder = Path(loader.conf_source)
        if folder.is_dir() and loader.env and not (folder / loader.env).is_dir():
            there = ", ".join(sorted(each.name for each in folder.iterdir() if each.is_dir()))
            raise ParameterError({"--env": f"there is no {loader.env} in {folder}, only {there}"})
        checked = check_parameters(loader["parameters"])
        data_root = Path(context.project_path, checked["data_root"]).resolve()
        loader.runtime_params = {
            **(loader.runtime_params or {}),
            **checked,
            "data_root": str(data_root),
            "tables": checked["tables"] or f"{data_root}/tables/",
            "candidate": checked["candidate"]
            or time.strftime("local-%Y%m%d-%H%M%S", time.gmtime()),
            "named_candidate": checked["candidate"],
            **mlflow_places(data_root),
            "project": str(context.project_path),
            # A volume holds no SQLite file.
            "scratch": f"{tempfile.gettempdir()}/candlecast-{os.getuid()}"
            if checked["tables"]
            else str(data_root),
        }
        if not os.access(Path.home(), os.W_OK):  # where matplotlib would keep its fonts
            os.environ.setdefault("MPLCONFIGDIR", str(data_root / "matplotlib"))


def is_market(parameters: dict[str, Any], project: Path) -> bool:
    """Return whether a run is of so many tickers that code pays which is compiled well."""
    if tickers := parameters["tickers"]:
        return len(tickers) > FEW_TICKERS
    source = project / parameters["prices"]
    return not (source.is_file() and source.stat().st_size < SMALL_FILE)


def mlflow_places(data_root: Path) -> dict[str, str | None]:
    """Return MLflow's server and artifacts for a configuration that leaves them to the machine.

    They are under the data root unless a variable names a server or Databricks has its own.
    """
    store = f"sqlite:///{data_root}/mlflow/mlflow.db"
    default = "databricks" if "DATABRICKS_RUNTIME_VERSION" in os.environ else store
    uri = os.environ.get("MLFLOW_TRACKING_URI") or default
    local = uri.startswith("sqlite:")
    return {
        "tracking_uri": uri,
        "artifact_location": f"{data_root}/mlflow/artifacts" if local else None,
    }


class MemoryHooks:
    """Give back what earlier nodes used, before a node loads its data."""

    @hook_impl
    def before_dataset_loaded(self) -> None:
        """Give it back."""
        release_memory()


class SparkHooks:
    """Tell the datasets how to start the local Spark session, if ``spark.yml`` has one."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Pass on its settings; where there are none, a session is already there.

        That of a command starts at once, while pipelines are imported and the store is opened.
        """
        loader = context.config_loader
        self._session = loader["spark"].get("session")
        if self._session and is_market(loader.runtime_params, context.project_path):
            self._session = {**self._session, **loader["spark"]["market"]}
        scratch = Path(loader.runtime_params["data_root"], "spark")
        sessions.start = partial(start_session, self._session, scratch) if self._session else None
        command = click.get_current_context(silent=True)
        if not sessions.start or not command or command.info_name != "run":
            return
        if not WITHOUT_SPARK & {*command.params["pipelines"], command.params["pipeline"]}:
            sessions.start = start_early(sessions.start)

    @hook_impl
    def after_catalog_created(self, conf_catalog: dict[str, Any]) -> None:
        """Note which frames to keep."""
        self._kept = declared(conf_catalog, "kept") if self._session else {}

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Keep the rows of a frame, once they are computed, until the session ends."""
        if dataset_name in self._kept:
            keep_rows(data)

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self) -> None:
        """Require Java before anything is read."""
        if self._session:
            require_java()
