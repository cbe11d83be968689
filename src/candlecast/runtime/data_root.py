"""The data root: one local run at a time, a whole store in it, no temporary files after a run."""

import contextlib
import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, TextIO

import mlflow
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro_mlflow.config.kedro_mlflow_config import _validate_uri
from mlflow.entities import ExperimentTag, RunStatus
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient

from candlecast.errors import DamageError, LockedError
from candlecast.runtime.hooks import declared


class DataRootHooks:
    """Lock the data root during a local run, and leave nothing behind that is not whole."""

    _lock: TextIO | None = None

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Note the data root; require MLflow's store to be sound if it is a file, or make it.

        Where Spark is already there, jobs are queued: no lock is needed.
        """
        loader = context.config_loader
        self._root = Path(loader.runtime_params["data_root"])
        self._candidate = loader.runtime_params["candidate"]
        self._is_local = bool(loader["spark"].get("session"))
        configuration = loader["mlflow"]
        kind, _, path = configuration["server"]["mlflow_tracking_uri"].partition(":///")
        self._store = Path(path) if kind == "sqlite" else None
        if self._store and self._store.exists():
            require_sound(self._store)
        elif self._store:
            self._take()
            try:
                require_sound(self._store)
                if not self._store.exists():  # another process may just have made it
                    experiment = configuration["tracking"]["experiment"]
                    make_store(self._store, context.project_path, experiment)
            finally:
                self._unlock()

    @hook_impl
    def after_catalog_created(self, conf_catalog: dict[str, Any]) -> None:
        """Note the folders of temporary files: each run has its own, all in one parent."""
        names = declared(conf_catalog, "temporary")
        self._temporary = [Path(conf_catalog[name]["path"]) for name in names]

    @hook_impl(wrapper=True, tryfirst=True)
    def before_pipeline_run(self) -> Generator[None]:
        """Take the lock first, and release it if another hook refuses the run.

        Nothing else is active then: what killed runs have left is closed and removed.
        """
        if self._is_local:
            self._take()
            if self._store and self._store.is_relative_to(self._root):
                close_killed_runs()
            for folder in self._temporary:
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

        On a full disk, removing the temporary files makes room for that mark.
        """
        self._release()

    def _take(self) -> None:
        """Lock a file in the data root until this process ends, however it ends.

        Raises:
            DamageError: the data root can't be made, or no file in it.
            LockedError: another run has the lock.
        """
        self._unlock()  # a run that was interrupted in this process, as in a notebook
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            lock = (self._root / "run.lock").open("a+")
        except OSError as error:
            raise DamageError(
                self._root,
                f"can't be used as the data root ({error.strerror})",
                "Choose a folder that you may write: --params data_root=<folder>",
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (fcntl.LOCK_NB if self._is_local else 0))
        except BlockingIOError:
            with lock:
                lock.seek(0)
                raise LockedError(self._root, lock.read().strip()) from None
        self._lock = lock
        lock.truncate(0)
        now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        lock.write(f"candidate {self._candidate}, process {os.getpid()}, since {now}\n")
        lock.flush()

    def _release(self) -> None:
        for folder in self._temporary:
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # it holds another job's files, or does not exist
                folder.parent.rmdir()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock:
            self._lock.truncate(0)
            self._lock.close()
            self._lock = None


def require_sound(store: Path) -> None:
    """Require a sound SQLite file, or none where nothing has been tracked yet.

    Raises:
        DamageError: it is not sound, or gone while artifacts of its runs are there.
    """
    problem = None
    if store.exists():
        try:
            with contextlib.closing(sqlite3.connect(store)) as connection:
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


def make_store(store: Path, project: Path, experiment: Mapping[str, Any]) -> None:
    """Make MLflow's SQLite store, with the experiment, under another name; rename it when whole.

    MLflow's migrations are many transactions: a store that was killed between two of them can't be
    used any more. What a killed process has left of it is removed.

    Args:
        store: the file.
        project: the folder of a relative artifact location.
        experiment: its name and what it is created with, as in ``mlflow.yml``.
    """
    store.parent.mkdir(parents=True, exist_ok=True)
    unfinished = store.with_name("unfinished.db")
    for file in store.parent.glob(f"{unfinished.name}*"):  # and its journal
        file.unlink()
    given = experiment["create_experiment_kwargs"]
    place = given["artifact_location"] and _validate_uri(str(project), given["artifact_location"])
    tags = [ExperimentTag(*tag) for tag in (given.get("tags") or {}).items()]
    default = place or str(store.parent / "artifacts")
    made: Any = SqlAlchemyStore(f"sqlite:///{unfinished}", default)  # type: ignore[no-untyped-call]
    made.create_experiment(experiment["name"], place, tags)
    made.engine.dispose()
    unfinished.rename(store)


def close_killed_runs() -> None:
    """Mark the runs of the experiment as killed that are still marked as running.

    One that this process has begun itself, as in a notebook, is left alone.
    """
    active = mlflow.active_run()
    running = "attributes.status = 'RUNNING'"
    for run in mlflow.search_runs(filter_string=running, output_format="list"):
        if active is None or run.info.run_id != active.info.run_id:
            MlflowClient().set_terminated(run.info.run_id, RunStatus.to_string(RunStatus.KILLED))
