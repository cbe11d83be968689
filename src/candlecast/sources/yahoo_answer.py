"""Read Yahoo's answer about prices, good or failed. Pure functions, no network."""

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from http import HTTPStatus
from typing import Any

import numpy as np
import pandas as pd

from candlecast.errors import Reason, SourceError

COLUMNS = {"open": "open", "high": "high", "low": "low", "close": "close"}
COLUMNS |= {"adjclose": "adj_close", "volume": "volume"}
"""Yahoo's names of the columns, and ours."""
ACTIONS = {"Dividends": "dividends", "Stock Splits": "stock_splits"}
"""yfinance's names of the columns, and ours."""

DELAY = timedelta(minutes=30)
"""How late Yahoo has the prices of some exchanges."""
LONGEST_CLOSURE = timedelta(days=10)
"""The longest time that an exchange stays closed (Tokyo in May 2019)."""
ROUND_THE_CLOCK = timedelta(hours=23)
"""A longer trading period is a whole day: it closes at midnight."""


def read_result(
    status: int, body: bytes, failure: Callable[[Reason, str], SourceError]
) -> dict[str, Any]:
    """Return the part of an answer that holds rows, at least one.

    Args:
        status: of HTTP.
        body: JSON, unless the request failed.
        failure: makes the error from its reason and cause.

    Raises:
        SourceError: the answer is an error, broken, or empty.
        ValueError: a column is missing or renamed.
    """
    http = f"HTTP {status}"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        raise failure("rate limited", http)
    try:
        chart = json.loads(body)["chart"]
        error = chart.get("error") or {}
    except (ValueError, KeyError, TypeError, AttributeError) as broken:
        html = body.lstrip().startswith(b"<")
        form = "HTML instead of JSON" if html else f"JSON cut off or broken after {len(body)} bytes"
        raise failure("unavailable", f"{http}, {form}") from broken
    if status == HTTPStatus.NOT_FOUND or error.get("code") == "Not Found":
        # Yahoo's own description, "may be delisted", is a guess.
        raise failure("unknown ticker", http)
    if status == HTTPStatus.BAD_REQUEST:
        raise failure("no sessions", f"{http}, {error.get('description', 'Bad Request')}")
    if status != HTTPStatus.OK:
        raise failure("unavailable", http)
    if error:
        raise failure("unexpected answer", f"{error.get('code')}, {error.get('description')}")
    result: dict[str, Any] = (chart.get("result") or [{}])[0]
    if not result.get("timestamp"):
        raise failure("no sessions", "an empty answer")
    found = [*_columns(result), *result.get("meta", [])]
    expected = [*COLUMNS, "exchangeTimezoneName"]
    if not set(expected) <= set(found):
        raise ValueError(f"expected {', '.join(expected)}, got {', '.join(found)}")
    return result


def read_rows(result: dict[str, Any], history: pd.DataFrame) -> pd.DataFrame:
    """Return Yahoo's rows, oldest first: ``session`` and our names of `COLUMNS` and `ACTIONS`.

    Yahoo sends the latest trade as one more row of the newest session: it replaces the row before.
    A dividend or split on a date without a session is a row without prices.

    Args:
        result: from `read_result`.
        history: what yfinance returned; only dividends and splits are used.
    """
    rows = _quotes(result)
    actions = history[list(ACTIONS)].rename(columns=ACTIONS)
    actions = actions.loc[(actions != 0).any(axis=1)]
    actions["session"] = pd.DatetimeIndex(actions.index).tz_localize(None).normalize()
    joined = rows.merge(actions, on="session", how="outer", sort=True)
    return joined.fillna({name: 0.0 for name in ACTIONS.values()})


def last_closed(meta: dict[str, Any], now: datetime) -> date:
    """Return the newest date, in the exchange's zone, whose session has closed if there was one.

    A session has closed when the exchange's regular trading period has ended, and the latest trade
    that Yahoo has is no older than that, or `DELAY` has passed. A market that trades round the
    clock closes at midnight of its zone, crypto in UTC.
    """
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
    if opens.date() > today:  # Yahoo already has the period of the next session
        return today
    over = closes <= moment and (closes <= traded or closes + DELAY <= moment)
    return today if over else yesterday


def find_gap(rows: pd.DataFrame, meta: dict[str, Any], start: date, end: date) -> str:
    """Describe which end of the range is missing, though Yahoo has it; empty when none is.

    Each answer states when the ticker was first and last traded. A difference of up to
    `LONGEST_CLOSURE` is no gap.
    """
    zone = meta["exchangeTimezoneName"]
    first, last = (
        None if meta.get(key) is None else pd.Timestamp(meta[key], unit="s", tz=zone).date()
        for key in ("firstTradeDate", "regularMarketTime")
    )
    begins, ends = rows["session"].min().date(), rows["session"].max().date()
    if first is not None and begins - max(start, first) > LONGEST_CLOSURE:
        return f"part of the range: it begins on {begins}, and Yahoo has it from {first}"
    if last is not None and min(end, last) - ends > LONGEST_CLOSURE:
        return f"part of the range: it ends on {ends}, and Yahoo has it up to {last}"
    return ""


def _columns(result: dict[str, Any]) -> dict[str, list[float | None]]:
    """Return Yahoo's columns by Yahoo's names."""
    columns: dict[str, list[float | None]] = {}
    for part in ("quote", "adjclose"):
        columns |= (result.get("indicators", {}).get(part) or [{}])[0]
    return columns


def _quotes(result: dict[str, Any]) -> pd.DataFrame:
    """Return Yahoo's rows, oldest first, each with its session, a date in the exchange's zone."""
    meta, columns = result["meta"], _columns(result)
    stamps = np.array(result["timestamp"], dtype="datetime64[s]")
    local = pd.DatetimeIndex(stamps, tz="UTC").tz_convert(meta["exchangeTimezoneName"])
    local = local.tz_localize(None).as_unit("ns")
    # Where summer time moves midnight, Yahoo stamps days at 22:00 or 23:00 of the day before.
    early = (local.hour >= 22) & (local.minute == 0)
    session = (local + early * np.timedelta64(2, "h")).normalize()
    prices = {ours: np.array(columns[theirs], dtype=float) for theirs, ours in COLUMNS.items()}
    rows = pd.DataFrame({**prices, "stamp": stamps.astype("int64"), "session": session})
    rows = rows.sort_values("stamp", kind="stable", ignore_index=True)
    before, newest = rows.iloc[-2:].iloc[0], rows.iloc[-1]
    live = before["session"] == newest["session"] and before["stamp"] < newest["stamp"]
    if live and newest["stamp"] == meta.get("regularMarketTime"):
        rows = rows.drop(index=rows.index[-2])
    return rows.drop(columns="stamp")
