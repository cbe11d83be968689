"""The contract of prices: what a ticker's sessions must fulfil before they are stored.

Nothing is filled or clipped. A row that is dropped is counted, and an impossible price is refused.
"""

import datetime as dt
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from candlecast.errors import ContractError, SourceError, describe_range
from candlecast.sources.calendars import calendar_of, last_closed, missing_sessions

PRICES = ["open", "high", "low", "close"]
COLUMNS = ["ticker", "session", *PRICES, "adj_close", "volume", "dividends", "stock_splits"]
COLUMNS += ["source", "ingested_at"]
"""The columns of prices, one row per ticker and session.

The session is a date of the exchange, without a time or a zone. Prices and ``dividends`` are in the
quote's currency, adjusted for splits; ``adj_close`` is the close adjusted for dividends as well;
``volume`` counts shares; ``stock_splits`` is new shares per old one. NaN where the source has none.
``source`` names where the row came from, ``ingested_at`` (UTC) is when.
"""
OUTCOME = "outcome"
"""A further column of checked prices: in one row per ticker what `check_ticker` made of it."""
TYPES = dict.fromkeys([*COLUMNS, OUTCOME], "DOUBLE")
TYPES |= {"ticker": "STRING", "session": "DATE", "source": "STRING", "ingested_at": "TIMESTAMP"}
TYPES[OUTCOME] = "STRING"
"""Spark's types of these columns."""
TOLERANCE = 1e-6
"""How far, relative to itself, a price may lie outside [low, high]: quotes are rounded floats."""


class Finding(NamedTuple):
    """What a rule found in the sessions of a ticker: one row of the table ``quality``.

    Attributes:
        rule: its name, unique per ticker.
        rows_in: rows before the rule.
        rows_kept: rows after the rule.
        found: rows or sessions that the rule is about.
        detail: what was done about them, or what they are.
    """

    ticker: str
    rule: str
    rows_in: int
    rows_kept: int
    found: int
    detail: str = ""


Outcome = dict[str, Any]
"""Of a ticker that arrived its ``findings``; of another one why it ``failed`` (a message) and the
error's ``reason``."""


def check_ticker(
    ticker: str,
    fetch: Callable[[], pd.DataFrame],
    max_missing_share: float,
    start: dt.date | None,
    end: dt.date | None,
    calendar: str | None,
    now: pd.Timestamp,
) -> tuple[pd.DataFrame | None, Outcome]:
    """Check what `fetch` returns, see `check_sessions`; return no rows where that raises."""
    try:
        prices, findings = check_sessions(
            ticker, fetch(), max_missing_share, start, end, calendar, now
        )
    except (SourceError, ContractError) as error:
        return None, {"failed": str(error), "reason": error.reason}
    return prices, {"findings": findings}


def with_outcome(ticker: str, prices: pd.DataFrame | None, outcome: Outcome) -> pd.DataFrame:
    """Return the rows with the column `OUTCOME`: JSON in the first one. No prices are one row."""
    if prices is None:
        prices = pd.DataFrame([[ticker]], columns=["ticker"], dtype=object)
        prices[COLUMNS[1:]] = None
    first = pd.Series([json.dumps(outcome)], index=prices.index[:1], dtype=object)
    return prices.assign(**{OUTCOME: first})


def check_sessions(
    ticker: str,
    sessions: pd.DataFrame,
    max_missing_share: float,
    start: dt.date | None = None,
    end: dt.date | None = None,
    calendar: str | None = None,
    now: pd.Timestamp | None = None,
) -> tuple[pd.DataFrame, list[Finding]]:
    """Check the sessions of one ticker.

    Args:
        ticker: the requested ticker.
        sessions: one row per session, in any order, with the columns of `COLUMNS` and maybe others.
        max_missing_share: share of the rows that may lack an open or a close.
        start: the first requested session; None: the first there is.
        end: the last requested session. Missing sessions are counted up to it, or to the day before
            the ingestion if that is earlier; None: up to the last session there is.
        calendar: of the exchange; None: by the ticker's ending.
        now: sessions that close later are left out; None: all have closed.

    Returns:
        The rows to store, one per session and sorted by it, with the columns of `COLUMNS`, and one
        finding per rule.

    Raises:
        ContractError: a column is missing, a price is impossible, a session has two different rows,
            or too many prices are missing.
        SourceError: there are no rows, or none of a session that has closed.
    """
    if lacking := [name for name in COLUMNS if name not in sessions]:
        rule = f"the columns are {', '.join(COLUMNS)}"
        remedy = f"let the source return the missing columns: {', '.join(lacking)}"
        raise ContractError(ticker, rule, sessions, len(sessions), remedy)
    if sessions.empty:
        raise SourceError("The source", ticker, start, end, 1, "no sessions", "an empty answer")
    ordered = once = sessions[COLUMNS].reset_index(drop=True)
    if not (ordered["session"].is_monotonic_increasing and ordered["session"].is_unique):
        ordered = ordered.sort_values(["session", "ingested_at"], ignore_index=True)
        once = ordered.drop_duplicates([name for name in COLUMNS if name != "ingested_at"])
    _refuse_impossible(ticker, once)
    closed = (
        once["session"].max() if now is None else last_closed(calendar or calendar_of(ticker), now)
    )
    running = ordered[ordered["session"] > closed]
    ordered, once = (rows[rows["session"] <= closed] for rows in (ordered, once))
    if once.empty:
        cause = f"the last closed session is that of {closed:%Y-%m-%d}"
        raise SourceError("The source", ticker, start, end, 1, "no sessions", cause)
    missing = once["open"].isna() | once["close"].isna()
    if missing.mean() > max_missing_share:
        rule = f"at most {max_missing_share:.1%} without an open or a close (max_missing_share)"
        remedy = "raise max_missing_share, or choose a range in which the source has prices"
        raise ContractError(ticker, rule, once[missing], len(once), remedy)
    findings = _findings(ticker, once, len(ordered), int(missing.sum()), start, end, calendar)
    if count := len(running):
        left_out = f"left out: the last that has closed is {closed:%Y-%m-%d}"
        findings.append(
            Finding(ticker, "not closed", len(once) + count, len(once), count, left_out)
        )
    return once.reset_index(drop=True), findings


def _refuse_impossible(ticker: str, rows: pd.DataFrame) -> None:
    """Raise a ContractError at the first rule that no session may break."""
    prices = rows[PRICES].to_numpy(dtype=float)
    look = "look at the rows at the source; remove the ticker, or move start or end past them"
    choose = "find out at the source which row is right, or remove the ticker"
    rules: list[tuple[str, Any, str]] = [
        ("a session is a date", _no_date(rows["session"]), look),
        ("one row per session", rows["session"].duplicated(keep=False), choose),
        ("prices are positive", (prices <= 0).any(axis=1), look),
        ("prices are finite", np.isinf(prices).any(axis=1), look),
        ("high >= low", rows["high"] < rows["low"], look),
        ("close within [low, high]", _outside(rows, "close"), look),
    ]
    for rule, broken, remedy in rules:
        if broken.any():
            raise ContractError(ticker, rule, rows[broken], len(rows), remedy)


def _findings(
    ticker: str,
    rows: pd.DataFrame,
    rows_in: int,
    unpriced: int,
    start: dt.date | None,
    end: dt.date | None,
    calendar: str | None,
) -> list[Finding]:
    """Count what is kept, and what is missing."""
    first, newest = rows["session"].min(), rows["session"].max()
    ingested, last = rows["ingested_at"].max().tz_localize(None).normalize(), newest
    requested = describe_range(start, end)
    if end is not None:
        last = max(newest, min(pd.Timestamp(end), ingested - pd.Timedelta(1, "D")))
        if newest < pd.Timestamp(end) and ingested <= pd.Timestamp(end):
            requested += f", capped at {newest:%Y-%m-%d}, the last session that has closed"
    missing, counted = missing_sessions(ticker, rows["session"], last, calendar)
    stale, kept = rows["open"] == rows["close"].shift(), len(rows)
    void = "kept; every window that touches it is void"

    def found(rule: str, count: int, detail: str, rows_in: int = kept) -> Finding:
        return Finding(ticker, rule, rows_in, kept, count, detail)

    return [
        found("requested", kept, requested),
        found("stored", kept, f"{first:%Y-%m-%d} to {newest:%Y-%m-%d}", rows_in),
        found("duplicate sessions", rows_in - kept, "same values, collapsed", rows_in),
        found("no open or close", unpriced, void),
        found("open outside [low, high]", int(_outside(rows, "open").sum()), "kept"),
        found("open equals previous close", int(stale.sum()), f"{stale.mean():.1%}, kept"),
        found("missing sessions", missing, counted),
    ]


def _outside(rows: pd.DataFrame, name: str) -> np.ndarray:
    price, low, high = (rows[column].to_numpy(dtype=float) for column in (name, "low", "high"))
    slack = TOLERANCE * price
    return (price > high + slack) | (price < low - slack)


def _no_date(sessions: "pd.Series[Any]") -> "pd.Series[bool]":
    """Find sessions that are no date: missing, with a time of day, or with a zone."""
    if not pd.api.types.is_datetime64_dtype(sessions):
        return pd.Series(True, index=sessions.index)
    times = sessions.to_numpy()
    # Also where it is missing: NaT equals nothing.
    return pd.Series(times != times.astype("datetime64[D]"), index=sessions.index)
