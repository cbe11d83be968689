"""The state of a local data root: sound before a run, without old table files after it."""

import logging
import sqlite3
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import mlflow
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from candlecast.errors import DamageError
from candlecast.io.delta import DeltaDataset
from candlecast.io.delta_log import remove_old_files
from candlecast.io.tracking import table_versions

logger = logging.getLogger(__name__)

DAY = 86_400


class UpkeepHooks:
    """Refuse a data root that can't be used; remove what its tables no longer need."""

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Check MLflow's store, if it is a file, before anything opens it."""
        loader = context.config_loader
        self._root = Path(loader.runtime_params["data_root"])
        self._model_name = loader.runtime_params["registered_model"]
        self._keep_days = loader.runtime_params["keep_versions_days"]
        self._is_local = bool(loader["spark"].get("session"))
        kind, _, path = loader["mlflow"]["server"]["mlflow_tracking_uri"].partition(":///")
        if kind == "sqlite":
            if not Path(path).exists():  # it will be made
                require_writable(self._root)
            require_store(Path(path))

    @hook_impl
    def after_catalog_created(self, catalog: DataCatalog) -> None:
        """Keep the catalog."""
        self._catalog = catalog

    @hook_impl(wrapper=True, tryfirst=True)
    def before_pipeline_run(self) -> Generator[None]:
        """Require a folder that can be written, before the lock is taken in it."""
        if self._is_local:
            require_writable(self._root)
        yield

    @hook_impl(tryfirst=True)
    def after_pipeline_run(self, pipeline: Pipeline) -> None:
        """Remove old files of the tables that this run wrote, while it holds the lock."""
        written = {
            table.address: table.name
            for table in map(self._catalog.get, pipeline.all_outputs())
            if isinstance(table, DeltaDataset) and table.is_folder
        }
        if not written:
            return
        since = time.time() - self._keep_days * DAY
        try:
            kept = kept_versions(self._model_name, since)
            for address, name in written.items():
                remove_old_files(Path(address), since, kept[name])
        except (MlflowException, OSError, DamageError) as error:
            logger.warning("Old versions of tables were not removed: %s", error)


def kept_versions(model_name: str, since: float) -> defaultdict[str, set[int]]:
    """Return the versions of each table that stay readable, however old.

    They are those of every registered version of the model, and of every candidate whose run ended
    after a time (Unix seconds): a decision on it may still be due.
    """
    client, kept = MlflowClient(), defaultdict[str, set[int]](set)
    for found in client.search_model_versions(f"name='{model_name}'"):
        # In Unity Catalog those that a search finds have no tags.
        version = client.get_model_version(model_name, found.version)
        for name, value in version.tags.items():
            if name.startswith("version_"):
                kept[name.removeprefix("version_")].add(int(value))
    recent = f"tags.candidate LIKE '%' AND attributes.end_time >= {int(since * 1000)}"
    for run in mlflow.search_runs(filter_string=recent, output_format="list"):
        for name, number in table_versions(run.data.tags).items():
            kept[name].add(number)
    return kept


def require_writable(root: Path) -> None:
    """Make the data root if it is not there, and require that files can be made in it.

    Raises:
        DamageError: they can't.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / "run.lock").open("a").close()
    except OSError as error:
        raise DamageError(
            root,
            f"can't be used as the data root ({error.strerror})",
            "Choose a folder that you may write: --params data_root=<folder>",
        ) from error


def require_store(store: Path) -> None:
    """Require a sound SQLite file, or none where nothing has been tracked yet.

    Raises:
        DamageError: it is not sound, or gone while artifacts of its runs are there.
    """
    problem = None
    if store.exists():
        try:
            with closing(sqlite3.connect(store)) as connection:
                [[answer]] = connection.execute("PRAGMA quick_check(1)")
                connection.execute("SELECT version_num FROM alembic_version")
            problem = None if answer == "ok" else answer
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY:
                problem = str(error)
    elif any(store.parent.glob("artifacts/*")):
        problem = "it is missing, and artifacts of its runs are there"
    if problem:
        raise DamageError(
            store,
            f"can't be used as MLflow's store ({problem})",
            f"Put back a copy of it. Without one, move the folder {store.parent} away, then train "
            "and register again: candidates, champion and approvals are lost, tables are not.",
        )
