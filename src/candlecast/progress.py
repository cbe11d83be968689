"""Signs of life from work that takes long: a moving bar on a terminal, else a log line per 30 s."""

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

EVERY = 30.0
"""Seconds between two lines of the log, and before the first one: short work logs none."""

Item = TypeVar("Item")

_bars: list[Progress] = []  # the one that is shown, if any


class Begin(Protocol):
    """Begins the next step."""

    def __call__(self, step: str = "", weight: float = 1) -> None:
        """Show the step's name; `weight` is its share of the total."""


@contextmanager
def progress(what: str, total: float | None = None) -> Iterator[Begin]:
    """Show how far some work is, until the block ends.

    Inside another such block it is a detail of that one's step, without a bar of its own.

    Args:
        what: the work, in a few words.
        total: the sum of the steps' weights; None: unknown.

    Yields:
        A function to call at the start of each step.
    """
    if _bars:
        yield _show_detail(what)
        _show_detail("")()
        return
    on_terminal = sys.stderr.isatty()
    text = TextColumn("{task.description}{task.fields[detail]}", markup=False)
    bar = Progress(
        *(SpinnerColumn(), text, BarColumn(), TimeRemainingColumn()),
        console=Console(stderr=True),
        transient=True,
        disable=not on_terminal,
        speed_estimate_period=86_400,  # steps may take minutes
    )
    task = bar.add_task(what, total=total, detail="")
    before = 1e-9  # not 0: rich measures the speed from the first advance on

    def begin(step: str = "", weight: float = 1) -> None:
        nonlocal before
        bar.update(task, description=_join(what, step), advance=before, detail="")
        before = weight

    _bars.append(bar)
    try:
        with bar, _log_above_bar() if on_terminal else _log_lines(bar.tasks[0]):
            yield begin
    finally:
        _bars.remove(bar)


def track(
    items: Sequence[Item], what: str, name: Callable[[Item], str] = lambda _: ""
) -> Iterator[Item]:
    """Iterate over steps of equal weight, each shown by its name; see `progress`."""
    with progress(what, len(items)) as begin:
        for item in items:
            begin(name(item))
            yield item


def _join(what: str, step: str) -> str:
    return f"{what}: {step}" if step else what


def _show_detail(what: str) -> Begin:
    """Show it behind the step of the bar, and return a function for its own steps."""

    def begin(step: str = "", weight: float = 1) -> None:  # it has no total
        for bar in _bars:
            bar.update(bar.task_ids[0], detail=f", {_join(what, step)}" if what else "")

    begin()
    return begin


@contextmanager
def _log_above_bar() -> Iterator[None]:
    """Send the log through rich, which has replaced the standard error, so that the bar stays."""
    with ExitStack() as restored:
        for handler in logging.getLogger().handlers:
            if type(handler) is logging.StreamHandler:
                restored.callback(handler.setStream, handler.stream)
                handler.setStream(sys.stderr)
        yield


@contextmanager
def _log_lines(task: Task) -> Iterator[None]:
    """Log how far a task is, from a thread: a step may be one long call."""
    ended = threading.Event()

    def log() -> None:
        while not ended.wait(EVERY):
            left = task.time_remaining
            about = "" if left is None else f", about {left:.0f} s left"
            text = f"{task.description}{task.fields['detail']}"
            logger.info("  %s, %.0f s so far%s", text, task.elapsed or 0.0, about)

    thread = threading.Thread(target=log, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
