"""The data root: one local run at a time, and no temporary files after it."""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, TextIO

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl

from candlecast.errors import LockedError
from candlecast.runtime.hooks import declared


class DataRootHooks:
    """Lock the data root during a local run, and remove the run's temporary files."""

    _lock: TextIO | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Note the data root. Where Spark is already there, jobs are queued: no lock is needed."""
        loader = context.config_loader
        self._root = Path(loader.runtime_params["data_root"])
        self._candidate = loader.runtime_params["candidate"]
        self._is_local = bool(loader["spark"].get("session"))

    @hook_impl
    def after_catalog_created(self, conf_catalog: dict[str, Any]) -> None:
        """Note the folders of temporary files: each run has its own, all in one parent."""
        names = declared(conf_catalog, "temporary")
        self._temporary = [Path(conf_catalog[name]["path"]) for name in names]

    @hook_impl(wrapper=True, tryfirst=True)
    def before_pipeline_run(self) -> Generator[None]:
        """Take the lock first, and release it if another hook refuses the run."""
        if self._is_local:
            self._take()
            for folder in self._temporary:  # left by killed runs: no other run is active
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
        """Lock a file in the data root until this process ends, however it ends."""
        self._root.mkdir(parents=True, exist_ok=True)
        lock = (self._root / "run.lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        if self._lock:
            self._lock.truncate(0)
            self._lock.close()
            self._lock = None
