"""The local Spark session: its settings by size, and its start in the background."""

import threading
from types import SimpleNamespace

import pytest

from candlecast.io.spark import sessions
from candlecast.runtime.hooks import FEW, SparkHooks
from candlecast.runtime.spark import start_early
from conftest import loader

CODEGEN = "spark.sql.codegen.wholeStage"
JAVA = "spark.driver.defaultJavaOptions"


@pytest.mark.parametrize(
    ("env", "tickers", "is_market"),
    [("base", FEW, False), ("base", FEW + 1, True), ("table", 0, True), ("table", 1, False)],
)
def test_a_market_is_compiled_and_a_few_tickers_are_not(
    env, tickers, is_market, tmp_path, monkeypatch
):
    monkeypatch.setattr(sessions, "start", None)
    configuration = loader(env)
    names = [f"T{number}" for number in range(tickers)]
    configuration.runtime_params = {"tickers": names, "data_root": str(tmp_path)}
    SparkHooks().after_context_created(SimpleNamespace(config_loader=configuration))
    settings = sessions.start.args[0]
    assert settings[CODEGEN] is is_market
    assert ("TieredStopAtLevel=1" in settings[JAVA]) is not is_market


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
