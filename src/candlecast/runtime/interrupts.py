"""Ctrl-C or SIGTERM ends a command with one line, the usual exit code and a killed MLflow run."""

import atexit
import contextlib
import logging
import signal
import sys
import threading
from types import FrameType
from typing import Any

import click
import mlflow
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from mlflow.entities import RunStatus

from candlecast.runtime.spark import stop_java

logger = logging.getLogger("candlecast")


class InterruptHooks:
    """Handle the signals of a local command.

    Notebooks keep Python's KeyboardInterrupt, and jobs those of their platform.
    """

    _exit: SystemExit | None = None

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Replace the handlers of a command; only the main thread can."""
        is_local = bool(context.config_loader["spark"].get("session"))
        is_main = threading.current_thread() is threading.main_thread()
        if is_local and is_main and click.get_current_context(silent=True):
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) != signal.SIG_IGN:  # as by nohup
                    signal.signal(number, self._end)

    @hook_impl(tryfirst=True)
    def on_pipeline_error(self) -> None:
        """End the command as well if its end made something else fail, such as a Spark job."""
        self._leave()

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self) -> None:
        """End the command if Python has swallowed the exception, as in a finalizer."""
        self._leave()

    @hook_impl(tryfirst=True)
    def before_node_run(self) -> None:
        """End the command if Python has swallowed the exception, as in a finalizer."""
        self._leave()

    def _end(self, number: int, _frame: FrameType | None) -> None:
        """End this process as soon as the call that was interrupted has cleaned up.

        A SystemExit is neither caught as an error nor by click. A second signal ends it at once.
        """
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, signal.SIG_DFL)
        logging.disable()  # what fails from now on is a consequence
        self._exit = SystemExit(128 + number)
        sys.excepthook = self._leave
        atexit.register(self._finish, signal.Signals(number).name)  # before MLflow's own function
        stop_java()
        raise self._exit

    def _leave(self, *_error: Any) -> None:
        if self._exit:
            raise self._exit

    def _finish(self, name: str) -> None:
        mlflow.set_registry_uri(mlflow.get_tracking_uri())  # or MLflow asks Spark, which has ended
        with contextlib.suppress(Exception):  # if it can't be marked now, the next command will
            while mlflow.active_run():
                mlflow.end_run(RunStatus.to_string(RunStatus.KILLED))
        logging.disable(logging.NOTSET)
        logger.error("Ended by %s. What is stored is whole. Run again to finish.", name)
