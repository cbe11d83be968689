"""Daily sessions from Yahoo. The only module that knows yfinance.

`yfinance.Ticker.history` asks, and dates the dividends and splits. The prices are read from the
very answer it got, because yfinance 1.7 keeps only the first of two rows of one date, turns a
missing volume into 0, and puts the close in place of a missing adjusted close. What went wrong is
told from that answer too: yfinance calls most failures "possibly delisted".
"""

from __future__ import annotations

import functools
from datetime import UTC, date, datetime, time, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yfinance
from curl_cffi import requests
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)
from yfinance.data import YfData

from candlecast.errors import (
    NoSessionsError,
    RateLimitedError,
    SourceUnavailableError,
    UnexpectedAnswerError,
    UnknownTickerError,
)

TRIES = 4
"""How often a ticker is asked for at most."""
PAUSE = 2.0
"""Seconds before the second try, doubled for each further one; up to as many again by chance."""
TIMEOUT = 20.0
"""Seconds a request may take."""

Asked = tuple[str, str, date, date, int]
"""The source, the ticker, the first and the last session asked for, and the how many-th try."""

COLUMNS = {
    "open": "open",
    "high": "high",
    "low": "low",
    "close": "close",
    "adjclose": "adj_close",
    "volume": "volume",
}
"""Yahoo's names of the columns, and ours."""
ACTIONS = {"Dividends": "dividends", "Stock Splits": "stock_splits"}
"""yfinance's names of the columns, and ours."""

SESSIONS = (
    "ticker",
    "session",
    *COLUMNS.values(),
    *ACTIONS.values(),
    "source",
    "ingested_at",
)
"""The columns of a sessions frame, in their order."""
CHART = "/v8/finance/chart/"
"""Where Yahoo answers about prices."""
DELAY = timedelta(minutes=30)
"""How late some exchanges' prices reach Yahoo."""
LONGEST_CLOSURE = timedelta(days=10)
"""How long an exchange stays closed at most (Tokyo in May 2019): a gap that says nothing."""
ROUND_THE_CLOCK = timedelta(hours=23)
"""A trading period longer than this is a whole day: it closes at midnight."""


def fetch_sessions(
    ticker: str, start: date, end: date, *, cache_dir: Path, now: datetime | None = None
) -> pd.DataFrame:
    """Fetch the daily sessions of one ticker, the whole range at once. Not for several threads.

    Rows are what Yahoo sent. A missing price or volume stays NaN, and two rows of one date both
    stay: the caller judges them. Only the live row is folded: Yahoo sends the latest trade as one
    more row of the newest session, and it replaces the row before it. Yahoo's prices are adjusted
    for splits; `adj_close` for dividends as well.

    Today's session is returned once the exchange's regular trading period has ended and Yahoo's
    latest trade is no older than that (or 30 minutes have passed: some exchanges reach Yahoo that
    late). A market that trades round the clock closes at midnight of its zone, crypto in UTC.

    429, HTTP 5xx, resets, time-outs, HTML and half answers (also those that begin or end more than
    `LONGEST_CLOSURE` away from what Yahoo itself says it has of the range) are asked for again,
    `TRIES` times in all, with growing random pauses. Within each try yfinance repeats a request
    answered with 400 or more once, with other cookies.

    Args:
        ticker: Yahoo's name, such as `AAPL`, `7203.T` or `BTC-USD`.
        start: the first session, a date of the exchange.
        end: the last session, included; a later date brings all up to the last closed session.
        cache_dir: where yfinance keeps its caches.
        now: the present, with a time zone; the real one by default.

    Returns:
        One row per session, oldest first: ticker, session (midnight, naive, the exchange's own
        date), open, high, low, close, adj_close, dividends (the quote's currency), volume,
        stock_splits (dividends and splits 0.0 if none), source ("yahoo"), ingested_at (UTC).

    Raises:
        UnknownTickerError: Yahoo does not know the ticker.
        NoSessionsError: no session of the range is over, or the answer is empty.
        RateLimitedError: 429 to the last try; the caller stops all tickers.
        SourceUnavailableError: no usable answer to the last try.
        UnexpectedAnswerError: columns are missing or renamed, or the answer is of another form.
    """
    now = now or datetime.now(UTC)
    _settle(cache_dir)
    tries = Retrying(
        stop=stop_after_attempt(TRIES),
        wait=wait_exponential(multiplier=PAUSE, max=60) + wait_random(0, PAUSE),
        retry=retry_if_exception_type((RateLimitedError, SourceUnavailableError)),
        reraise=True,
    )
    for attempt in tries:
        with attempt:
            asked = ("Yahoo", ticker, start, end, attempt.retry_state.attempt_number)
            answer, history, failure = _ask(ticker, start, end)
            result = _result(asked, answer, failure)
            try:
                rows = _join(_quotes(result), history)
                last = _last_closed(result["meta"], now)
                part = _part(rows, result["meta"], start, min(end, last))
            except (KeyError, TypeError, ValueError) as error:
                raise _unexpected(asked, _named(error)) from error
            if part:
                raise SourceUnavailableError(*asked, part)
    rows = rows[rows["session"].between(pd.Timestamp(start), pd.Timestamp(min(end, last)))]
    if rows.empty:
        raise NoSessionsError(*asked, f"{_none(asked)} (what is over by now ends with {last})")
    ingested_at = pd.Timestamp(now).tz_convert("UTC").as_unit("ns")
    rows = rows.assign(ticker=ticker, source="yahoo", ingested_at=ingested_at)
    return rows[list(SESSIONS)].reset_index(drop=True)


class _Listener(requests.Session[requests.Response]):
    """A session of yfinance's kind that keeps the latest answer about prices."""

    heard: requests.Response | None = None

    def request(self, method: Any, url: str, *args: Any, **kwargs: Any) -> requests.Response:
        if CHART not in url:
            return super().request(method, url, *args, **kwargs)
        self.heard = None
        self.heard = super().request(method, url, *args, **kwargs)
        return self.heard


@functools.cache
def _listener() -> _Listener:
    """One session for all tickers: its cookies are used again."""
    return _Listener(impersonate="chrome")


@functools.lru_cache(maxsize=1)
def _settle(cache_dir: Path) -> None:
    """Put yfinance's caches into the folder and let its errors through."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    yfinance.set_tz_cache_location(str(cache_dir))
    yfinance.config.debug.hide_exceptions = False


def _ask(
    ticker: str, start: date, end: date
) -> tuple[requests.Response | None, pd.DataFrame, Exception | None]:
    """Ask once, for a day more on either side: Yahoo's last answer, yfinance's frame and error."""
    listener = _listener()
    listener.heard = None
    # yfinance 1.7 keeps 64 answers about past ranges, failed ones too: without this a retry would
    # not ask again, and memory would grow.
    YfData.cache_get.cache_clear()
    history, failure = pd.DataFrame(), None
    try:
        handle = yfinance.Ticker(ticker, session=listener)
        # yfinance 1.7 would spend one more request on the zone, which the answer itself names.
        handle._tz = "UTC"
        history = handle.history(
            start=datetime.combine(start, time(), UTC) - timedelta(days=1),
            end=datetime.combine(end, time(), UTC) + timedelta(days=2),
            interval="1d",
            prepost=False,
            actions=True,
            auto_adjust=False,
            back_adjust=False,
            repair=False,
            keepna=True,
            rounding=False,
            timeout=TIMEOUT,
        )
    except Exception as error:  # judged in _result by the answer, which says more
        failure = error
    answer, listener.heard = listener.heard, None
    return answer, history, failure


def _result(
    asked: Asked,
    answer: requests.Response | None,
    failure: Exception | None,
) -> dict[str, Any]:
    """The part of Yahoo's answer that holds the rows, at least one, or the error it means."""
    if answer is None:
        if isinstance(failure, requests.exceptions.Timeout):
            words = f"timeout, no whole answer within {TIMEOUT:g} s"
            raise SourceUnavailableError(*asked, words) from failure
        if isinstance(failure, requests.exceptions.RequestException):
            raise SourceUnavailableError(*asked, _named(failure)) from failure
        raise _unexpected(asked, _named(failure)) from failure
    chart = _chart(asked, answer)
    result: dict[str, Any] = (chart.get("result") or [{}])[0]
    if not result.get("timestamp"):
        raise NoSessionsError(*asked, f"{_none(asked)} (an empty answer)")
    got = [*_columns(result), *result.get("meta", [])]
    for expected in (list(COLUMNS), ["exchangeTimezoneName"]):
        if not set(expected) <= set(got):
            words = f"expected {', '.join(expected)}, got {', '.join(got)}"
            raise _unexpected(asked, words) from failure
    if failure is not None:
        raise _unexpected(asked, _named(failure)) from failure
    return result


def _chart(asked: Asked, answer: requests.Response) -> dict[str, Any]:
    """The body of an answer that is neither an error nor broken."""
    status = answer.status_code
    said = f"HTTP {status}"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        raise RateLimitedError(*asked, f"{said}, too many requests")
    try:
        chart: dict[str, Any] = answer.json()["chart"]  # type: ignore[no-untyped-call]
        error = chart.get("error") or {}
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        text = answer.text.strip()
        form = f"JSON cut off or broken after {len(text)} characters"
        if text.startswith("<"):
            form = "HTML instead of JSON"
        raise SourceUnavailableError(*asked, f"{said}, {form}") from fault
    if status == HTTPStatus.NOT_FOUND or error.get("code") == "Not Found":
        # Yahoo's own description says "may be delisted", which it does not know.
        raise UnknownTickerError(*asked, f"{said}, no such ticker")
    if status == HTTPStatus.BAD_REQUEST:
        words = error.get("description", "Bad Request")
        raise NoSessionsError(*asked, f"{_none(asked)} ({said}, {words})")
    if status != HTTPStatus.OK:
        raise SourceUnavailableError(*asked, said)
    if error:
        raise _unexpected(asked, f"{error.get('code')}, {error.get('description')}")
    return chart


def _columns(result: dict[str, Any]) -> dict[str, list[float | None]]:
    """Yahoo's columns by Yahoo's names."""
    columns: dict[str, list[float | None]] = {}
    for part in ("quote", "adjclose"):
        columns |= (result.get("indicators", {}).get(part) or [{}])[0]
    return columns


def _quotes(result: dict[str, Any]) -> pd.DataFrame:
    """Yahoo's rows, oldest first, each with its session date in the exchange's zone."""
    meta, columns = result["meta"], _columns(result)
    stamps = np.array(result["timestamp"], dtype="datetime64[s]")
    local = pd.DatetimeIndex(stamps, tz="UTC").tz_convert(meta["exchangeTimezoneName"])
    local = local.tz_localize(None).as_unit("ns")
    # Where summer time moves midnight, Yahoo stamps days at 22:00 or 23:00 of the day before.
    early = (local.hour >= 22) & (local.minute == 0)
    rows = pd.DataFrame(
        {ours: np.array(columns[theirs], dtype=float) for theirs, ours in COLUMNS.items()}
        | {
            "stamp": stamps.astype("int64"),
            "session": (local + early * np.timedelta64(2, "h")).normalize(),
        }
    )
    rows = rows.sort_values("stamp", kind="stable", ignore_index=True)
    before, newest = rows.iloc[-2:].iloc[0], rows.iloc[-1]
    live = before["session"] == newest["session"] and before["stamp"] < newest["stamp"]
    if live and newest["stamp"] == meta.get("regularMarketTime"):
        rows = rows.drop(index=rows.index[-2])
    return rows.drop(columns="stamp")


def _join(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """The rows with dividends and splits; one on a date of its own is a row without prices."""
    actions = history[list(ACTIONS)].rename(columns=ACTIONS)
    actions = actions.loc[(actions != 0).any(axis=1)]
    actions["session"] = pd.DatetimeIndex(actions.index).tz_localize(None).normalize()
    joined = rows.merge(actions, on="session", how="outer", sort=True)
    return joined.fillna({name: 0.0 for name in ACTIONS.values()})


def _last_closed(meta: dict[str, Any], now: datetime) -> date:
    """The newest date whose session can be over, by the exchange's own trading period."""
    zone = meta["exchangeTimezoneName"]
    moment = pd.Timestamp(now).tz_convert(zone)
    today = moment.date()
    yesterday = today - timedelta(days=1)
    period = meta.get("currentTradingPeriod", {}).get("regular")
    if not period or meta.get("instrumentType") == "CRYPTOCURRENCY":
        return yesterday
    opens, closes, traded = (
        pd.Timestamp(seconds, unit="s", tz=zone)
        for seconds in (period["start"], period["end"], meta.get("regularMarketTime", 0))
    )
    if closes - opens > ROUND_THE_CLOCK or opens.date() < today:
        return yesterday
    if opens.date() > today:  # the exchange has turned to its next session
        return today
    over = closes <= moment and (closes <= traded or closes + DELAY <= moment)
    return today if over else yesterday


def _part(rows: pd.DataFrame, meta: dict[str, Any], start: date, end: date) -> str:
    """Say how an answer is only a part of what Yahoo has of the range; empty when it is whole.

    Yahoo tells of each ticker when it was first and last traded.
    """
    zone = meta["exchangeTimezoneName"]
    first, last = (
        None if meta.get(key) is None else pd.Timestamp(meta[key], unit="s", tz=zone).date()
        for key in ("firstTradeDate", "regularMarketTime")
    )
    got = rows["session"].min().date(), rows["session"].max().date()
    if first is not None and got[0] - max(start, first) > LONGEST_CLOSURE:
        return f"part of the range: it begins with {got[0]}, and Yahoo has it from {first} on"
    if last is not None and min(end, last) - got[1] > LONGEST_CLOSURE:
        return f"part of the range: it ends with {got[1]}, and Yahoo has it up to {last}"
    return ""


def _none(asked: Asked) -> str:
    return f"no sessions between {asked[2]} and {asked[3]}"


def _unexpected(asked: Asked, words: str) -> UnexpectedAnswerError:
    return UnexpectedAnswerError(*asked, f"{words} (yfinance {yfinance.__version__})")


def _named(error: Exception | None) -> str:
    """Someone else's error in words, with its kind."""
    words = str(error).partition(" See https://curl.se/")[0]
    return f"{type(error).__name__}: {words}".rstrip(". ")
