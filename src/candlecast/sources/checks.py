"""What is asked of the sessions of one ticker before they are stored, and what is counted.

Nothing is filled, clipped or dropped silently: a row that is dropped is counted, a price that can't
be is refused.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from candlecast.errors import CandlecastError, SourceError
from candlecast.sources.calendars import missing_sessions

Source = Callable[[str, pd.Timestamp | None, pd.Timestamp | None], pd.DataFrame]
"""Where sessions come from: ticker, first and last session in (None: all there is), one row a
session out, or a SourceError."""

PRICES = ["open", "high", "low", "close"]
COLUMNS = [
    *("ticker", "session", *PRICES, "adj_close", "volume", "dividends", "stock_splits"),
    *("source", "ingested_at"),
]
TOLERANCE = 1e-6
"""How far, relative to itself, a price may lie outside [low, high]: quotes are rounded floats."""


class ContractError(CandlecastError):
    """Sessions that may not be stored.

    Names the ticker, the rule and how many rows break it, and shows the first.
    """

    def __init__(self, ticker: str, rule: str, rows: pd.DataFrame, of: int, remedy: str):
        self.ticker, self.rule, self.rows = ticker, rule, rows
        shown = rows.drop(columns=["ticker", "source", "ingested_at"]).head(3)
        super().__init__(
            f"{ticker}: {len(rows)} of {of} rows of prices break the rule '{rule}', so they are "
            f"not stored. To go on, {remedy}. The first:\n{shown.to_string(index=False)}"
        )


@dataclass(frozen=True)
class Finding:
    """One row of the quality table: what a rule found in the sessions of a ticker."""

    ticker: str
    rule: str
    rows_in: int
    rows_kept: int
    found: int
    detail: str = ""


def check_sessions(
    ticker: str,
    sessions: pd.DataFrame,
    max_missing_share: float,
    end: pd.Timestamp | None = None,
) -> tuple[pd.DataFrame, list[Finding]]:
    """Check the sessions of one ticker.

    Args:
        ticker: as it was asked for.
        sessions: one row per session, in any order, with the columns of `COLUMNS` and maybe others:
            prices in the quote's currency, NaN where the source had none.
        max_missing_share: share of the rows that may lack an open or a close.
        end: the last session asked for; absent sessions are counted up to it, or to the day before
            the ingestion if that is earlier. None: up to the last session that came.

    Returns:
        The rows to store, one a session and sorted by it, with the columns of `COLUMNS`; and the
        findings, one a rule.

    Raises:
        ContractError: a price that can't be, two values for one session, or too many missing.
        SourceError: there are no rows.
        CandlecastError: a column is missing.
    """
    if absent_columns := [name for name in COLUMNS if name not in sessions]:
        raise CandlecastError(
            f"{ticker}: expected the columns {', '.join(COLUMNS)}; got "
            f"{', '.join(map(str, sessions.columns))}. Missing: {', '.join(absent_columns)}. To go "
            "on, give the source these columns."
        )
    if sessions.empty:
        raise SourceError(f"{ticker}: the source answered without a session. Ask for other dates.")
    ordered = once = sessions[COLUMNS].reset_index(drop=True)
    if not (ordered["session"].is_monotonic_increasing and ordered["session"].is_unique):
        ordered = ordered.sort_values(["session", "ingested_at"], ignore_index=True)
        once = ordered.drop_duplicates([name for name in COLUMNS if name != "ingested_at"])
    kept = len(once)

    def refuse(rule: str, broken: "pd.Series[bool]", remedy: str) -> None:
        if broken.any():
            raise ContractError(ticker, rule, once[broken], kept, remedy)

    def outside(name: str) -> "pd.Series[bool]":
        price = once[name]
        slack = TOLERANCE * price
        return (price > once["high"] + slack) | (price < once["low"] - slack)

    look = "look at the rows at the source; leave the ticker out, or move start or end past them"
    refuse("a session is a date", _no_date(once["session"]), look)
    refuse(
        "one row per session",
        once.duplicated("session", keep=False),
        "ask the source which row is right, or leave the ticker out",
    )
    prices = once[PRICES].to_numpy(dtype=np.float64)
    for rule, odd in (("positive", prices <= 0), ("finite", np.isinf(prices))):
        rows: pd.Series[bool] = pd.Series(np.any(odd, axis=1), index=once.index, dtype=bool)
        refuse(f"prices are {rule}", rows, look)
    refuse("high >= low", once["high"] < once["low"], look)
    refuse("close within [low, high]", outside("close"), look)
    missing = once[["open", "close"]].isna().any(axis=1)
    if missing.mean() > max_missing_share:
        refuse(
            f"at most {max_missing_share:.1%} without an open or a close (max_missing_share)",
            missing,
            "raise max_missing_share, or choose a range in which the source has prices",
        )
    stale = once["open"] == once["close"].shift()
    last = once["session"].max()
    if end is not None:
        ingested = once["ingested_at"].max().tz_localize(None).normalize()
        last = max(last, min(end, ingested - pd.Timedelta(days=1)))
    absent, calendar = missing_sessions(ticker, once["session"], last)
    span = f"{once['session'].min():%Y-%m-%d} to {once['session'].max():%Y-%m-%d}"

    def found(rule: str, rows: int, detail: str, rows_in: int = kept) -> Finding:
        return Finding(ticker, rule, rows_in, kept, rows, detail)

    doubles, voids = len(ordered) - kept, "kept; every window that touches it is void"
    return once.reset_index(drop=True), [
        found("stored", kept, span, rows_in=len(ordered)),
        found("duplicate sessions", doubles, "same values, collapsed", rows_in=len(ordered)),
        found("no open or close", int(missing.sum()), voids),
        found("open outside [low, high]", int(outside("open").sum()), "kept"),
        found("open equals previous close", int(stale.sum()), f"{stale.mean():.1%}, kept"),
        found("sessions absent", absent, calendar),
    ]


def _no_date(sessions: "pd.Series[Any]") -> "pd.Series[bool]":
    """Find sessions that are no date: missing, with a time of day, or with a zone."""
    if not pd.api.types.is_datetime64_dtype(sessions):
        return pd.Series(True, index=sessions.index)
    midnight: pd.Series[Any] = sessions.dt.normalize()
    return sessions.ne(midnight)  # also where it is missing: NaT equals nothing


def as_date(value: str | None) -> pd.Timestamp | None:
    """Read an ISO date as a session, midnight without a zone; None stays None."""
    return None if value is None else pd.Timestamp(dt.date.fromisoformat(value))
