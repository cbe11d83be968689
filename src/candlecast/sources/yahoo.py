"""Daily sessions from Yahoo. The only module that knows yfinance.

`yfinance.Ticker.history` makes the request, and dates the dividends and splits. Prices and failures
are read from the answer itself (`candlecast.sources.yahoo_answer`): yfinance 1.7 keeps only the
first of two rows of one date, turns a missing volume into 0, puts the close in place of a missing
adjusted close, and calls most failures "possibly delisted".
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import yfinance
from curl_cffi import requests
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random
from yfinance.data import YfData

from candlecast.errors import SourceError
from candlecast.sources.checks import COLUMNS
from candlecast.sources.yahoo_answer import find_gap, last_closed, read_result, read_rows

ATTEMPTS = 4
"""How often a ticker is requested at most."""
PAUSE = 2.0
"""Seconds before the second attempt, doubled for each further one; a random share is added."""
TIMEOUT = 20.0
"""Seconds a request may take."""
FIRST_SESSION = date(1962, 1, 2)
"""Before Yahoo's oldest prices: the start of a request for the full history."""
CHART = "/v8/finance/chart/"
"""The path under which Yahoo answers about prices."""


def fetch_sessions(
    ticker: str,
    start: date | None,
    end: date | None,
    *,
    cache_dir: Path,
    known: Collection[str] = (),
    now: datetime | None = None,
) -> pd.DataFrame:
    """Fetch the daily sessions of one ticker, the whole range at once. Not thread-safe.

    Rows are as Yahoo sent them: a missing price or volume is NaN, and two rows of one date are both
    returned. The newest session is the last that has closed, see `last_closed`.

    A request that is rate limited or unavailable, or returned only a part of the range (see
    `find_gap`), is sent again after growing random pauses, `ATTEMPTS` times in all. Within each
    attempt yfinance repeats a request answered with 400 or more once, with other cookies.

    Args:
        ticker: Yahoo's name, such as `AAPL`, `7203.T` or `BTC-USD`.
        start: the first session, a date of the exchange; None: the first there is.
        end: the last session, inclusive; None or a later date: the last that has closed.
        cache_dir: where yfinance keeps its caches.
        known: tickers among which a near match of an unknown one is looked up.
        now: the present, with a time zone; the real one by default.

    Returns:
        One row per session, oldest first, with the columns of `candlecast.sources.checks.COLUMNS`;
        dividends and splits are 0.0 if there are none.

    Raises:
        SourceError: after the last attempt, or at once when another attempt can't help.
    """
    now = now or datetime.now(UTC)
    first, last = start or FIRST_SESSION, end or now.date()
    _configure(cache_dir)
    attempts = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=PAUSE, max=60) + wait_random(0, PAUSE),
        retry=retry_if_exception(_is_transient),
        reraise=True,
    )
    for attempt in attempts:
        with attempt:
            number = attempt.retry_state.attempt_number
            failure = functools.partial(
                SourceError, "Yahoo", ticker, start, end, number, known=known
            )
            response, history, error = _request(ticker, first, last)
            if response is None and isinstance(error, requests.exceptions.RequestException):
                raise failure("unavailable", _describe(error)) from error
            if response is not None:
                try:
                    result = read_result(response.status_code, response.content, failure)
                    rows = read_rows(result, history) if error is None else history
                    closed = last_closed(result["meta"], now)
                except (KeyError, TypeError, ValueError) as broken:
                    error = broken
            if response is None or error is not None:
                version = f"yfinance {yfinance.__version__}"
                raise failure("unexpected answer", f"{_describe(error)} ({version})") from error
            gap = find_gap(rows, result["meta"], first, min(last, closed))
            if gap:
                raise failure("unavailable", gap)
    rows = rows[rows["session"].between(pd.Timestamp(first), pd.Timestamp(min(last, closed)))]
    if rows.empty:
        raise failure("no sessions", f"the last closed session is that of {closed}")
    ingested_at = pd.Timestamp(now).tz_convert("UTC").as_unit("ns")
    rows = rows.assign(ticker=ticker, source="yahoo", ingested_at=ingested_at)
    return rows[COLUMNS].reset_index(drop=True)


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, SourceError) and error.reason in ("rate limited", "unavailable")


class _Session(requests.Session[requests.Response]):
    """The HTTP session that yfinance uses; it keeps the latest answer about prices."""

    latest: requests.Response | None = None

    def request(self, method: Any, url: str, *args: Any, **kwargs: Any) -> requests.Response:
        if CHART not in url:
            return super().request(method, url, *args, **kwargs)
        self.latest = None
        self.latest = super().request(method, url, *args, **kwargs)
        return self.latest


@functools.cache
def _session() -> _Session:
    """Return the one session of all tickers, so that its cookies are used again."""
    return _Session(impersonate="chrome")


@functools.lru_cache(maxsize=1)
def _configure(cache_dir: Path) -> None:
    """Let yfinance keep its caches in the folder, and raise its errors."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    yfinance.set_tz_cache_location(str(cache_dir))
    yfinance.config.debug.hide_exceptions = False


def _request(
    ticker: str, start: date, end: date
) -> tuple[requests.Response | None, pd.DataFrame, Exception | None]:
    """Request a range and one more day on either side.

    Returns:
        Yahoo's latest answer, yfinance's frame, and yfinance's error.
    """
    session = _session()
    session.latest = None
    # yfinance 1.7 caches 64 answers about past ranges, failed ones too: another attempt would make
    # no request, and memory would grow.
    YfData.cache_get.cache_clear()
    history, error = pd.DataFrame(), None
    try:
        handle = yfinance.Ticker(ticker, session=session)
        # yfinance 1.7 would request the zone as well, which the answer itself names.
        handle._tz = "UTC"
        history = handle.history(
            start=datetime.combine(start, time(), UTC) - timedelta(days=1),
            end=datetime.combine(end, time(), UTC) + timedelta(days=2),
            auto_adjust=False,
            keepna=True,
            timeout=TIMEOUT,
        )
    except Exception as caught:  # the answer says more, see read_result
        error = caught
    response, session.latest = session.latest, None
    return response, history, error


def _describe(error: Exception | None) -> str:
    """Word an error of a package, with its class."""
    if isinstance(error, requests.exceptions.Timeout):
        return f"time-out, no whole answer within {TIMEOUT:g} s"
    text = str(error).partition(" See https://curl.se/")[0]
    return f"{type(error).__name__}: {text}".rstrip(". ")
