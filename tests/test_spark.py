"""The local Spark session: its settings by size, and its start in the background."""

import threading
from types import SimpleNamespace

import pytest

from candlecast.io.spark import sessions
from candlecast.runtime.hooks import FEW_TICKERS, SparkHooks
from candlecast.runtime.spark import start_early
from conftest import ROOT, loader


@pytest.mark.parametrize(
    ("tickers", "prices", "expected"),
    [
        (FEW_TICKERS, "yahoo", False),
        (FEW_TICKERS + 1, "yahoo", True),
        (0, "data/sample/prices.csv", False),
        (0, "data/sample", True),
        (0, "main.market.prices", True),
        (1, "main.market.prices", False),
    ],
)
def test_a_market_is_compiled_and_a_few_tickers_are_not(
    tickers, prices, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(sessions, "start", None)
    configuration = loader("base")
    names = [f"T{number}" for number in range(tickers)]
    given = {"tickers": names, "prices": prices, "data_root": str(tmp_path)}
    configuration.runtime_params = given
    context = SimpleNamespace(config_loader=configuration, project_path=ROOT)
    SparkHooks().after_context_created(context)
    settings = sessions.start.args[0]
    assert settings["spark.sql.codegen.wholeStage"] is expected
    assert ("TieredStopAtLevel=1" in settings["spark.driver.defaultJavaOptions"]) is not expected


def test_a_session_that_is_there_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "start", None)
    configuration = loader("databricks")
    configuration.runtime_params = {"tickers": [], "data_root": str(tmp_path), "catalog": "main"}
    SparkHooks().after_context_created(SimpleNamespace(config_loader=configuration))
    assert sessions.start is None


def test_a_start_in_the_background_returns_or_raises_to_whoever_waits():
    begun, allowed = threading.Event(), threading.Event()

    def start():
        begun.set()
        assert allowed.wait(10)
        return "session"

    wait = start_early(start)
    assert begun.wait(10)
    allowed.set()
    assert wait() == wait() == "session"

    def fail():
        raise OSError("no Java")

    with pytest.raises(OSError, match="no Java"):
        start_early(fail)()
