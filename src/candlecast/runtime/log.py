"""What a run logs: a line per node, the paths of its pages, and one line for an expected error."""

import logging
import logging.config
import os
import shutil
import sys
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import mlflow
import yaml
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog, DatasetError
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from candlecast.errors import CandlecastError
from candlecast.io.delta import DeltaDataset, damage_behind
from candlecast.runtime.hooks import declared

logger = logging.getLogger("candlecast")

MIN_FREE_BYTES = 1_000_000
"""With less than this, a run can't write."""

OPTIONS_READ_IN = ("kedro.pipeline.pipeline", "kedro.framework.session.session")
"""Where Kedro finds that an option of ``kedro run`` selects nothing."""

TRACEBACK = "CANDLECAST_TRACEBACK"
"""If this variable is set, an expected error shows its traceback as well."""


class LogHooks:
    """The project's log."""

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Set up the log before anything can fail, and after mlflow's import has changed it."""
        self._loader = context.config_loader
        own = Path(self._loader.conf_source, "logging.yml")
        # Kedro's variable; candlecast.__main__ sets it, also for a file inside an archive.
        configuration = Path(os.environ.get("KEDRO_LOGGING_CONFIG", own))
        if configuration.is_file():
            logging.config.dictConfig(yaml.safe_load(configuration.read_text()))
        logging.captureWarnings(True)
        sys.excepthook = self._log_error
        self._node: Node | None = None
        self._since = 0.0

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog, conf_catalog: dict[str, Any]) -> None:
        """Keep the catalog, and note which files are announced."""
        self._catalog = catalog
        self._announced = {
            name: (word, conf_catalog[name].get("dataset", conf_catalog[name])["filepath"])
            for name, word in declared(conf_catalog, "announce").items()
        }

    @hook_impl(trylast=True)
    def before_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Log the environment, and the candidate if this run has one (a rollback has none)."""
        given = self._loader.runtime_params
        named = mlflow.active_run() or given["named_candidate"]
        candidate = f"candidate {given['candidate']}, " if named else ""
        logger.info("%senvironment %s", candidate, run_params.get("env") or "base")

    @hook_impl(tryfirst=True)
    def before_dataset_loaded(self, node: Node) -> None:
        """Notice the next node by its first input."""
        if node is not self._node:
            self._end_line()
            self._node, self._since = node, time.monotonic()

    @hook_impl(tryfirst=True)
    def after_pipeline_run(self, pipeline: Pipeline) -> None:
        """Log the paths of the pages that were written."""
        self._end_line()
        for name in sorted(pipeline.all_outputs() & self._announced.keys()):
            logger.info("%s: %s", *self._announced[name])

    def _end_line(self) -> None:
        """Log the line of a node: its seconds, and the tables that it read and wrote."""
        if self._node is None:
            return
        sides = (
            ", ".join(filter(None, map(self._described, names)))
            for names in (self._node.inputs, self._node.outputs)
        )
        seconds = time.monotonic() - self._since
        logger.info(
            "%-21s %5.1f s  %s", self._node.short_name, seconds, " -> ".join(filter(None, sides))
        )
        self._node = None

    def _described(self, name: str) -> str:
        """Describe a table by its version and rows; other data by nothing."""
        table = self._catalog.get(name)
        if not isinstance(table, DeltaDataset):
            return ""
        if table.optional or table.commit is None:
            return name
        rows = f" ({table.commit.rows:,} rows)" if table.commit.rows is not None else ""
        return f"{table.name} v{table.commit.version}{rows}"

    def _log_error(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """Log an expected error as one line. A bug keeps its traceback, even inside a dataset."""
        message = expected_message(error)
        given = self._loader.runtime_params or {}
        root, tables = given.get("data_root"), str(given.get("tables"))
        if message is None and (damage := damage_behind(error, tables)):
            message = str(damage)
        if root and is_out_of_memory(error, Path(root, "spark/spark.log")):
            message = (
                "Java ran out of memory in Spark. Raise spark.driver.memory in conf/base/spark.yml "
                "(under market, for more than 50 tickers), or request fewer tickers, and run again."
            )
        free = free_bytes(Path(root)) if root else None
        if free is not None and free < MIN_FREE_BYTES:
            message = (
                f"The disk of {root} is full ({free // 1024} KiB are free): {kind.__name__}. What "
                "earlier runs stored is whole. Make room, then run again."
            )
        if message is None or os.environ.get(TRACEBACK):
            sys.__excepthook__(kind, error, trace)
        if message is not None:
            logger.error("%s", message)


def is_out_of_memory(error: BaseException | None, log: Path) -> bool:
    """Return whether an error is Spark's, and Spark's log has that Java ran out of memory.

    The error itself often has no message: Java can no longer answer.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    while error is not None and not isinstance(error, PySparkException | Py4JError):
        error = error.__cause__
    if error is None or not log.is_file():
        return False
    return "java.lang.OutOfMemoryError" in log.read_text(errors="replace")


def free_bytes(folder: Path) -> int | None:
    """Return the free bytes of a folder's disk; None where that is not known."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:  # it is not there, or not for this user
        return None
    return usage.free if usage.total else None  # a volume may not know its size


def expected_message(error: BaseException | None) -> str | None:
    """Return the message of an error that a user can fix; None for a bug.

    Kedro wraps what a dataset raises in a DatasetError, sometimes twice. The first error of ours
    in that chain is for users: a CandlecastError, or a DatasetError raised by this package. So is
    Kedro's own for a node, tag or pipeline that does not exist.
    """
    while isinstance(error, CandlecastError | DatasetError | ValueError):
        frames = list(traceback.walk_tb(error.__traceback__))
        raised_in = frames[-1][0].f_globals["__name__"] if frames else ""
        if type(error) is ValueError and raised_in in OPTIONS_READ_IN:
            return str(error)
        if isinstance(error, CandlecastError) or raised_in.startswith("candlecast."):
            return str(error)
        error = error.__cause__
    return None
