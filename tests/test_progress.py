"""Signs of life: a bar on a terminal, log lines elsewhere, nothing for short work."""

import io
import logging
import sys
import time

import pytest

from candlecast import progress as module
from candlecast.progress import progress, track


class Terminal(io.StringIO):
    """A standard error that a person looks at."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def test_on_a_terminal_a_bar_names_the_step_and_the_log_stays_whole(monkeypatch):
    terminal, root = Terminal(), logging.getLogger()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    handler = logging.StreamHandler(terminal)
    monkeypatch.setattr(root, "handlers", [handler])
    with progress("validation", 3) as begin:
        begin("fold 1 of 2", weight=1)
        begin("fold 2 of 2", weight=2)
        with progress("fit of a forest") as inner:
            inner("tree 7")
            time.sleep(0.15)  # the bar moves ten times per second
        root.warning("a ticker is missing")
    assert "validation: fold 2 of 2, fit of a forest: tree 7 " in terminal.getvalue()
    assert "\na ticker is missing\n" in terminal.getvalue().replace("\x1b[2K", "\n")
    assert (sys.stderr, handler.stream) == (terminal, terminal)


def test_elsewhere_a_line_is_logged_per_interval(monkeypatch, caplog):
    monkeypatch.setattr(module, "EVERY", 0.05)
    caplog.set_level("INFO")
    for ticker in track(["AAPL", "IBM"], "fetch", str):
        time.sleep(0.08)
        assert f"fetch: {ticker}" in caplog.messages[-1]
    assert "s left" in caplog.messages[-1]
    assert len(caplog.messages) <= 4


def test_elsewhere_short_work_logs_nothing(caplog, capfd):
    caplog.set_level("INFO")
    assert list(track([1, 2], "a step")) == [1, 2]
    with pytest.raises(ValueError, match="broken"), progress("it"):
        raise ValueError("broken")
    with progress("the next one still works", 1) as begin:
        begin()
    assert caplog.messages == []
    assert capfd.readouterr() == ("", "")
