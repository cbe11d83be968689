"""Faults of the source, driven through the real yfinance client against a loopback Yahoo.

Each test has the number of the fault that it covers (docs/faults.md). Where retries matter, the
requests that the server saw are counted. yfinance 1.7 repeats a request answered with 400 or more
once, at once, with other cookies: such an attempt is two requests.
"""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
import tenacity.nap

from candlecast.errors import SourceError
from candlecast.sources import yahoo
from yahoo_server import (
    BROKEN,
    CRYPTO,
    EMPTY,
    HTML,
    NEW_YORK,
    OUT_OF_RANGE,
    RESET,
    TOKYO,
    TOO_MANY,
    UNKNOWN,
    Reply,
    YahooServer,
    cut,
    prices,
    redirected,
    walk,
)

MONDAY, THURSDAY = date(2022, 1, 3), date(2022, 1, 6)
WEEK = [
    ("2022-01-03", 10.0, 12.0, 9.0, 11.0, 100, 10.5),
    ("2022-01-04", 11.0, 12.0, 10.0, 10.5, 200, 10.0),
    ("2022-01-05", 10.5, 11.0, 10.0, 10.75, 300, 10.25),
    ("2022-01-06", 10.75, 13.0, 10.5, 12.5, 400, 12.0),
]
GOOD = prices(WEEK)
LATER = datetime(2022, 6, 1, tzinfo=UTC)

Fetch = Callable[..., pd.DataFrame]


@pytest.fixture
def server() -> Iterator[YahooServer]:
    """A loopback Yahoo in place of the real one, and no pauses."""
    with YahooServer() as running, redirected(running.url, pace=0):
        yield running


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    """fetch_sessions with its caches in a temporary folder, for the week of WEEK by default."""

    def of(
        ticker: str = "AAPL",
        start: date | None = MONDAY,
        end: date | None = THURSDAY,
        now: datetime = LATER,
        known: Sequence[str] = (),
    ) -> pd.DataFrame:
        return yahoo.fetch_sessions(ticker, start, end, cache_dir=tmp_path, known=known, now=now)

    return of


def failed(fetch: Fetch, reason: str, **arguments: Any) -> SourceError:
    """The error that fetching ends with, of this reason."""
    with pytest.raises(SourceError) as caught:
        fetch(**arguments)
    assert caught.value.reason == reason
    return caught.value


def days(frame: pd.DataFrame) -> list[str]:
    return frame["session"].dt.strftime("%Y-%m-%d").tolist()


def test_tidy_sessions_of_the_whole_range_end_included(server: YahooServer, fetch: Fetch) -> None:
    good = prices(WEEK, dividends={"2022-01-04": 0.25}, splits={"2022-01-06": (4, 1)})
    server.script("AAPL", good)
    expected = pd.DataFrame(
        {
            "ticker": "AAPL",
            "session": pd.to_datetime(["2022-01-03", "2022-01-04", "2022-01-05", "2022-01-06"]),
            "open": [10.0, 11.0, 10.5, 10.75],
            "high": [12.0, 12.0, 11.0, 13.0],
            "low": [9.0, 10.0, 10.0, 10.5],
            "close": [11.0, 10.5, 10.75, 12.5],
            "adj_close": [10.5, 10.0, 10.25, 12.0],
            "volume": [100.0, 200.0, 300.0, 400.0],
            "dividends": [0.0, 0.25, 0.0, 0.0],
            "stock_splits": [0.0, 0.0, 0.0, 4.0],
            "source": "yahoo",
            "ingested_at": pd.Timestamp("2022-06-01", tz="UTC").as_unit("ns"),
        }
    )
    pd.testing.assert_frame_equal(fetch(), expected)
    assert server.requests["AAPL"] == 1
    pd.testing.assert_frame_equal(
        fetch(start=date(2022, 1, 4), end=date(2022, 1, 5)),
        expected.iloc[1:3].reset_index(drop=True),
    )


def test_fault_01_unknown_ticker_is_final_and_the_next_ticker_arrives(
    server: YahooServer, fetch: Fetch
) -> None:
    server.script("APPL", UNKNOWN)
    server.script("AAPL", GOOD)
    error = failed(fetch, "unknown ticker", ticker="APPL", known=["AMZN", "AAPL"])
    assert (error.ticker, error.attempts, error.cause) == ("APPL", 1, "HTTP 404")
    assert "Did you mean AAPL?" in str(error)
    assert server.requests["APPL"] == 2
    assert len(fetch("AAPL")) == 4


def test_fault_03_end_in_the_future_is_capped_at_the_last_closed_session(
    server: YahooServer, fetch: Fetch
) -> None:
    at_noon = datetime(2022, 1, 5, 12, tzinfo=ZoneInfo(NEW_YORK))
    server.script("AAPL", GOOD)
    assert days(fetch(end=date(2030, 1, 1), now=at_noon)) == ["2022-01-03", "2022-01-04"]


def test_fault_03_start_after_the_last_closed_session_brings_none(
    server: YahooServer, fetch: Fetch
) -> None:
    at_noon = datetime(2022, 1, 5, 12, tzinfo=ZoneInfo(NEW_YORK))
    server.script("AAPL", GOOD)
    error = failed(fetch, "no sessions", start=date(2022, 1, 5), now=at_noon)
    assert "2022-01-04" in error.cause


def test_full_history_is_what_there_is(server: YahooServer, fetch: Fetch) -> None:
    server.script("AAPL", prices([("1962-01-02", 1.0, 1.0, 1.0, 1.0, 1), *WEEK[1:]]))
    assert days(fetch(start=None, end=None)) == [
        "1962-01-02",
        "2022-01-04",
        "2022-01-05",
        "2022-01-06",
    ]


@pytest.mark.parametrize(
    ("reply", "requests"),
    [(GOOD, 1), (EMPTY, 1), (OUT_OF_RANGE, 2)],
    ids=["weekend", "empty", "out of range"],
)
def test_fault_04_no_sessions_in_the_range_is_final(
    server: YahooServer, fetch: Fetch, reply: Reply, requests: int
) -> None:
    server.script("AAPL", reply)
    weekend = {"start": date(2022, 1, 1), "end": date(2022, 1, 2)}
    error = failed(fetch, "no sessions", **weekend)
    assert "2022-01-01 to 2022-01-02" in str(error)
    assert error.attempts == 1
    assert server.requests["AAPL"] == requests


def at(clock: str, zone: str, day: str = "2022-01-06") -> datetime:
    return datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=ZoneInfo(zone))


@pytest.mark.parametrize(
    ("zone", "times", "last"),
    [
        (NEW_YORK, ("09:30-16:00", "12:00", "11:59"), "2022-01-05"),
        (NEW_YORK, ("09:30-16:00", "16:05", "16:00"), "2022-01-06"),
        (NEW_YORK, ("09:30-13:00", "13:05", "13:01"), "2022-01-06"),
        (TOKYO, ("09:00-15:00", "15:10", "14:50"), "2022-01-05"),
        (TOKYO, ("09:00-15:00", "15:30", "14:50"), "2022-01-06"),
        ("Europe/London", ("00:00-23:59", "23:59", "23:59"), "2022-01-05"),
    ],
    ids=["at noon", "closed", "half day", "delayed", "delay over", "currency"],
)
def test_fault_05_session_still_open_is_not_returned(
    server: YahooServer, fetch: Fetch, zone: str, times: tuple[str, str, str], last: str
) -> None:
    period, now, traded = times
    opens, closes = (at(clock, zone) for clock in period.split("-"))
    server.script("T", prices(WEEK, zone=zone, period=(opens, closes), traded=at(traded, zone)))
    assert days(fetch("T", now=at(now, zone)))[-1] == last


def test_fault_05_after_the_exchange_turned_to_its_next_session_today_is_over(
    server: YahooServer, fetch: Fetch
) -> None:
    tomorrow = (at("09:30", NEW_YORK, "2022-01-07"), at("16:00", NEW_YORK, "2022-01-07"))
    server.script("AAPL", prices(WEEK, period=tomorrow))
    assert days(fetch(now=at("22:00", NEW_YORK)))[-1] == "2022-01-06"


@pytest.mark.parametrize(
    ("now", "last"),
    [("2022-01-06T23:59:59", "2022-01-05"), ("2022-01-07T00:00:00", "2022-01-06")],
)
def test_fault_05_crypto_closes_at_utc_midnight(
    server: YahooServer, fetch: Fetch, now: str, last: str
) -> None:
    day = (at("00:00", CRYPTO), at("23:59", CRYPTO))
    coin = prices(WEEK, zone=CRYPTO, opens="00:00", kind="CRYPTOCURRENCY", period=day)
    server.script("BTC-USD", coin)
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    assert days(fetch("BTC-USD", now=moment))[-1] == last


@pytest.mark.parametrize("close", [10.5, 11.5], ids=["same values", "different values"])
def test_fault_06_both_rows_of_a_duplicate_date_arrive(
    server: YahooServer, fetch: Fetch, close: float
) -> None:
    again = ("2022-01-04", 11.0, 12.0, 10.0, close, 200, 10.0)
    dividends = {"2022-01-04": 0.25}
    server.script("AAPL", prices([*WEEK, again], dividends=dividends))
    got = fetch()
    assert days(got) == ["2022-01-03", "2022-01-04", "2022-01-04", "2022-01-05", "2022-01-06"]
    assert got["close"].tolist() == [11.0, 10.5, close, 10.75, 12.5]
    assert got["dividends"].tolist() == [0.0, 0.25, 0.25, 0.0, 0.0]


def test_fault_06_the_live_row_of_the_newest_session_replaces_the_row_before_it(
    server: YahooServer, fetch: Fetch
) -> None:
    trade = at("16:00:01", NEW_YORK)
    live = (trade, 10.75, 13.0, 10.5, 12.5, 450, 12.0)
    period = (at("09:30", NEW_YORK), at("16:00", NEW_YORK))
    server.script("AAPL", prices([*WEEK, live], period=period, traded=trade))
    got = fetch(now=at("16:30", NEW_YORK))
    assert days(got) == ["2022-01-03", "2022-01-04", "2022-01-05", "2022-01-06"]
    assert got["volume"].tolist() == [100.0, 200.0, 300.0, 450.0]


def test_fault_07_missing_values_stay_missing(server: YahooServer, fetch: Fetch) -> None:
    nothing = ("2022-01-04", None, None, None, None, None, None)
    no_volume = ("2022-01-05", 10.5, 11.0, 10.0, 10.75, None, 10.25)
    server.script("AAPL", prices([WEEK[0], nothing, no_volume, WEEK[3]]))
    got = fetch()
    assert days(got) == ["2022-01-03", "2022-01-04", "2022-01-05", "2022-01-06"]
    assert got["open"].isna().tolist() == [False, True, False, False]
    assert got["adj_close"].isna().tolist() == [False, True, False, False]
    assert got["volume"].isna().tolist() == [False, True, True, False]


def test_fault_08_wrong_prices_arrive_as_sent(server: YahooServer, fetch: Fetch) -> None:
    negative = ("2022-01-04", -1.0, 12.0, 13.0, 10.5, 200)
    absurd = ("2022-01-05", 10.5, 1e12, 0.0, 1e12, 300)
    server.script("AAPL", prices([WEEK[0], negative, absurd]))
    got = fetch().set_index("session")[["open", "high", "low", "close"]]
    assert got.loc["2022-01-04"].tolist() == [-1.0, 12.0, 13.0, 10.5]
    assert got.loc["2022-01-05"].tolist() == [10.5, 1e12, 0.0, 1e12]


def renamed(result: dict[str, Any]) -> None:
    quote = result["indicators"]["quote"][0]
    quote["begin"] = quote.pop("open")


def without_adjusted(result: dict[str, Any]) -> None:
    del result["indicators"]["adjclose"]


def without_zone(result: dict[str, Any]) -> None:
    del result["meta"]["exchangeTimezoneName"]


def of_other_length(result: dict[str, Any]) -> None:
    result["indicators"]["quote"][0]["open"].pop()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            renamed,
            "expected open, high, low, close, adjclose, volume, exchangeTimezoneName, "
            "got high, low, close, volume, begin, adjclose, currency",
        ),
        (
            without_adjusted,
            "expected open, high, low, close, adjclose, volume, exchangeTimezoneName, "
            "got open, high, low, close, volume, currency",
        ),
        (without_zone, "exchangeTimezoneName, got open, high"),
        (of_other_length, "ValueError: All arrays must be of the same length"),
    ],
)
def test_fault_09_missing_or_renamed_column_is_refused_with_the_version(
    server: YahooServer, fetch: Fetch, edit: Callable[[dict[str, Any]], None], words: str
) -> None:
    server.script("AAPL", prices(WEEK, edit=edit))
    error = failed(fetch, "unexpected answer")
    assert words in error.cause
    assert f"(yfinance {yahoo.yfinance.__version__})" in error.cause
    assert server.requests["AAPL"] == 1


def test_fault_10_unsorted_rows_give_the_same_sessions(server: YahooServer, fetch: Fetch) -> None:
    server.script("AAPL", GOOD)
    expected = fetch()
    for order in itertools.islice(itertools.permutations(WEEK), 1, 24, 5):
        server.script("AAPL", prices(list(order)))
        pd.testing.assert_frame_equal(fetch(), expected)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "stamps", "sessions"),
    [
        (TOKYO, ["2022-03-11T00:00", "2022-03-14T00:00"], ["2022-03-11", "2022-03-14"]),
        (NEW_YORK, ["2022-03-11T14:30", "2022-03-14T13:30"], ["2022-03-11", "2022-03-14"]),
        (CRYPTO, ["2022-03-12T00:00", "2022-03-13T00:00"], ["2022-03-12", "2022-03-13"]),
        # British summer time begins on the 27th: midnight of the 28th is 23:00 UTC.
        ("Europe/London", ["2022-03-25T00:00", "2022-03-27T23:00"], ["2022-03-25", "2022-03-28"]),
        # Brazil had no midnight on 2018-11-04, and Yahoo stamped the next one at 23:00.
        (
            "America/Sao_Paulo",
            ["2018-11-02T02:00", "2018-11-04T03:00", "2018-11-05T01:00"],
            ["2018-11-02", "2018-11-04", "2018-11-05"],
        ),
        # Auckland is 13 hours ahead of UTC, Honolulu 10 behind.
        (
            "Pacific/Auckland",
            ["2022-01-02T21:00", "2022-01-03T21:00"],
            ["2022-01-03", "2022-01-04"],
        ),
        (
            "Pacific/Honolulu",
            ["2022-01-03T19:30", "2022-01-04T19:30"],
            ["2022-01-03", "2022-01-04"],
        ),
    ],
    ids=["Tokyo", "New York", "BTC", "London", "Sao Paulo", "Auckland", "Honolulu"],
)
def test_fault_11_session_is_the_date_in_the_exchange_s_zone(
    server: YahooServer, fetch: Fetch, zone: str, stamps: list[str], sessions: list[str]
) -> None:
    server.script("T", prices([(utc(stamp), 1.0, 1.0, 1.0, 1.0, 1) for stamp in stamps], zone=zone))
    first, last = date.fromisoformat(sessions[0]), date.fromisoformat(sessions[-1])
    assert days(fetch("T", first, last)) == sessions


@pytest.mark.parametrize(
    ("refusals", "requests"), [(1, 2), (2, 3), (3, 4), (7, 8)], ids=["once", "2", "3", "7"]
)
def test_fault_13_too_many_requests_for_a_while_is_outlasted(
    server: YahooServer, fetch: Fetch, refusals: int, requests: int
) -> None:
    server.script("AAPL", *[TOO_MANY] * refusals, GOOD)
    assert len(fetch()) == 4
    assert server.requests["AAPL"] == requests


def test_fault_13_too_many_requests_for_ever_ends_with_an_error(
    server: YahooServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(tenacity.nap, "time", SimpleNamespace(sleep=pauses.append))
    server.script("AAPL", TOO_MANY)
    error = failed(fetch, "rate limited")
    assert (error.ticker, error.attempts, error.cause) == ("AAPL", 4, "HTTP 429")
    assert "Wait an hour" in str(error)
    assert server.requests["AAPL"] == 8
    first, second, third = pauses
    assert 2 <= first < 4
    assert 4 <= second < 6
    assert 8 <= third < 10


FAILURES = {
    "500": (BROKEN, 8, "HTTP 500"),
    "reset": (RESET, 4, "reset by peer"),
    "timeout": (replace(GOOD, delay=0.4), 4, "time-out, no whole answer within 0.15 s"),
    "HTML": (HTML, 4, "HTTP 200, HTML instead of JSON"),
    "maintenance": (replace(HTML, status=503), 8, "HTTP 503, HTML instead of JSON"),
    "cut-off JSON": (cut(GOOD), 4, "JSON cut off or broken after"),
    "cut-off transfer": (replace(GOOD, sent=0.5), 4, "IncompleteRead"),
    "no body": (Reply(), 4, "JSON cut off or broken after 0 bytes"),
}


@pytest.mark.parametrize("fault", FAILURES)
def test_fault_14_source_unavailable_is_requested_again_and_the_cause_is_named(
    server: YahooServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    reply, requests, words = FAILURES[fault]
    if fault == "timeout":
        monkeypatch.setattr(yahoo, "TIMEOUT", 0.15)
    server.script("AAPL", reply)
    error = failed(fetch, "unavailable")
    assert words in error.cause
    assert "delisted" not in str(error)
    assert error.attempts == 4
    assert server.requests["AAPL"] == requests


@pytest.mark.parametrize("fault", [name for name in FAILURES if name != "timeout"])
def test_fault_14_source_that_recovers_brings_the_sessions(
    server: YahooServer, fetch: Fetch, fault: str
) -> None:
    reply, requests, _ = FAILURES[fault]
    server.script("AAPL", *[reply] * (requests // 4), GOOD)
    assert days(fetch()) == ["2022-01-03", "2022-01-04", "2022-01-05", "2022-01-06"]
    assert server.requests["AAPL"] == requests // 4 + 1


QUARTER = walk(date(2022, 1, 3), date(2022, 3, 31))
TRADED = datetime(2022, 5, 31, 16, tzinfo=UTC)
SINCE = datetime(2010, 1, 4, 15, tzinfo=UTC)
PARTS = {
    "first half": (QUARTER[:30], "it ends on 2022-02-11, and Yahoo has it up to 2022-05-31"),
    "second half": (QUARTER[30:], "it begins on 2022-02-14, and Yahoo has it from 2010-01-04"),
}


@pytest.mark.parametrize("part", PARTS)
def test_fault_12_half_a_range_is_requested_again_and_no_answer(
    server: YahooServer, fetch: Fetch, part: str
) -> None:
    rows, words = PARTS[part]
    half = prices(rows, traded=TRADED, since=SINCE)
    server.script("AAPL", half)
    error = failed(fetch, "unavailable", end=date(2022, 3, 31))
    assert error.cause == f"part of the range: {words}"
    assert server.requests["AAPL"] == 4
    server.script("AAPL", half, prices(QUARTER, traded=TRADED, since=SINCE))
    assert len(fetch(end=date(2022, 3, 31))) == len(QUARTER)
    assert server.requests["AAPL"] == 2


def test_ticker_that_was_listed_and_delisted_inside_the_range_is_whole(
    server: YahooServer, fetch: Fetch
) -> None:
    first, last = (datetime(2022, 2, day, 15, tzinfo=UTC) for day in (1, 11))
    server.script("AAPL", prices(QUARTER[21:30], traded=last, since=first))
    assert days(fetch(end=date(2022, 3, 31)))[:: len(QUARTER[21:30]) - 1] == [
        "2022-02-01",
        "2022-02-11",
    ]
    assert server.requests["AAPL"] == 1


def test_fault_14_the_last_request_names_the_cause(
    server: YahooServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yahoo, "ATTEMPTS", 1)
    server.script("AAPL", TOO_MANY, RESET)
    assert "reset by peer" in failed(fetch, "unavailable").cause
    assert server.requests["AAPL"] == 2


def test_fault_14_unknown_host_is_named(fetch: Fetch) -> None:
    with redirected("http://yahoo.invalid", pace=0):
        assert "DNSError" in failed(fetch, "unavailable").cause


def test_fault_15_split_between_two_fetches_is_seen_in_the_second(
    server: YahooServer, fetch: Fetch
) -> None:
    halved = [(day, *(value / 2 for value in row[:4]), row[4] * 2) for day, *row in WEEK]
    server.script("AAPL", prices(WEEK[:3]), prices(halved, splits={"2022-01-06": (2, 1)}))
    before, after = fetch(), fetch()
    assert server.requests["AAPL"] == 2
    assert before["close"].tolist() == [11.0, 10.5, 10.75]
    assert after["close"].tolist() == [5.5, 5.25, 5.375, 6.25]
    assert after["stock_splits"].tolist() == [0.0, 0.0, 0.0, 2.0]


def test_fault_27_a_command_of_another_process_leaves_the_home_alone(
    server: YahooServer, tmp_path: Path
) -> None:
    home, caches = tmp_path / "home", tmp_path / "caches"
    home.mkdir()
    source = str(Path(yahoo.__file__).parents[1])
    script = f"""
import sys; sys.path.insert(0, {source!r})
from datetime import date
from pathlib import Path
from candlecast.sources.yahoo import fetch_sessions
got = fetch_sessions("AAPL", date(2022, 1, 3), date(2022, 1, 6), cache_dir=Path({str(caches)!r}))
print(len(got))
"""
    server.script("AAPL", TOO_MANY, TOO_MANY, GOOD)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**server.environment(tmp_path / "hook"), "HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("4\n", "")
    assert server.requests["AAPL"] == 3
    assert list(home.iterdir()) == []
    assert (caches / "cookies.db").exists()


def test_answers_of_former_tickers_are_not_kept(server: YahooServer, fetch: Fetch) -> None:
    for ticker in ("AAPL", "IBM", "MSFT"):
        server.script(ticker, GOOD)
        fetch(ticker)
    assert yahoo.YfData.cache_get.cache_info().currsize == 1
    assert yahoo._session().latest is None


def test_long_ranges_come_in_one_request(server: YahooServer, fetch: Fetch) -> None:
    start, end = date(2000, 1, 3), date(2022, 1, 6)
    rows = [
        ((start + timedelta(days=n)).isoformat(), 1.0, 1.0, 1.0, 1.0, 1)
        for n in range((end - start).days + 1)
    ]
    server.script("BTC-USD", prices(rows, zone=CRYPTO, opens="00:00", kind="CRYPTOCURRENCY"))
    assert len(fetch("BTC-USD", start, end)) == 8040
    assert server.requests["BTC-USD"] == 1
