"""The committed sample as a source of prices."""

import datetime as dt

import pytest
from kedro.io import DatasetError

from candlecast.errors import SourceError
from candlecast.io.prices import PriceSource
from candlecast.sources.checks import COLUMNS
from candlecast.sources.table import SAMPLE, Source
from conftest import ROOT


@pytest.fixture(scope="module")
def source() -> Source:
    return PriceSource(prices=SAMPLE, tickers=(), project=str(ROOT)).load()


@pytest.mark.parametrize(
    ("start", "end", "rows", "first", "last"),
    [
        (None, None, 196, "2012-05-18", "2013-03-01"),
        (dt.date(2013, 2, 26), None, 4, "2013-02-26", "2013-03-01"),
        (None, dt.date(2012, 5, 20), 1, "2012-05-18", "2012-05-18"),
    ],
)
def test_sessions_of_a_range(source, start, end, rows, first, last):
    sessions = source.fetch("FB", start, end)
    assert set(COLUMNS) <= set(sessions)
    assert len(sessions) == rows
    days = sessions["session"].dt.strftime("%Y-%m-%d")
    assert [days.iloc[0], days.iloc[-1]] == [first, last]
    assert sessions["ingested_at"].unique().tolist() == [dt.datetime(2026, 11, 24, tzinfo=dt.UTC)]


def test_fault_01_unknown_ticker_is_named_with_its_near_match(source):
    with pytest.raises(SourceError, match=r"Did you mean AAPL\?") as caught:
        source.fetch("APPL", None, None)
    assert (caught.value.ticker, caught.value.reason) == ("APPL", "unknown ticker")


def test_fault_04_no_sessions_in_the_range(source):
    with pytest.raises(SourceError, match="2012-05-18 to 2013-03-01") as caught:
        source.fetch("FB", dt.date(2020, 1, 1), None)
    assert caught.value.reason == "no sessions"


def test_it_is_read_only():
    with pytest.raises(DatasetError):
        PriceSource(prices=SAMPLE, tickers=()).save(None)
