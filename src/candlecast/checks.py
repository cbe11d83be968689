"""What is asked of the sessions of one ticker before they are stored, and what is counted.

Nothing is filled, clipped or dropped silently: a row that is dropped is counted, a price that can't
be is refused.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from candlecast.errors import CandlecastError

if TYPE_CHECKING:
    from exchange_calendars import ExchangeCalendar

Source = Callable[[str, pd.Timestamp | None, pd.Timestamp | None], pd.DataFrame]
"""Where sessions come from: ticker, first and last session in (None: all there is), one row a
session out, or a SourceError."""

PRICES = ["open", "high", "low", "close"]
COLUMNS = [
    *("ticker", "session", *PRICES, "adj_close", "volume", "dividends", "stock_splits"),
    *("source", "ingested_at"),
]
TOLERANCE = 1e-6
"""How far, relative to the price, a close may lie outside [low, high]: quotes come as rounded
floats."""

CALENDARS = {
    "": "XNYS",
    "-USD": "24/7",
    "-EUR": "24/7",
    ".T": "XTKS",
    ".L": "XLON",
    ".DE": "XETR",
    ".PA": "XPAR",
}
"""Exchange calendars by the ending of Yahoo's tickers; no ending is New York."""


class ContractError(CandlecastError):
    """Sessions that may not be stored.

    Names the ticker, the rule and how many rows break it, and shows the first.
    """

    def __init__(self, ticker: str, rule: str, rows: pd.DataFrame, of: int, remedy: str):
        self.ticker, self.rule, self.rows = ticker, rule, rows
        shown = rows[[name for name in ("session", *PRICES) if name in rows]].head(3)
        super().__init__(
            f"{ticker}: {len(rows)} of {of} rows of prices break the rule '{rule}', so nothing of this run is stored. "
            f"To go on, {remedy}. The first:\n{shown.to_string(index=False)}"
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
    ticker: str, sessions: pd.DataFrame, max_missing_share: float
) -> tuple[pd.DataFrame, list[Finding]]:
    """Check the sessions of one ticker.

    Args:
        ticker: as it was asked for.
        sessions: one row a session, in any order.
        max_missing_share: share of the rows that may lack an open or a close.

    Returns:
        The rows to store, one a session and in order, with the columns of `COLUMNS`; and the findings, one a rule.

    Raises:
        ContractError: a price that can't be, two values for one session, or too many missing.
        ValueError: a column is missing.
    """
    if absent := [name for name in COLUMNS if name not in sessions]:
        raise ValueError(
            f"{ticker}: expected the columns {', '.join(COLUMNS)}; got {', '.join(map(str, sessions.columns))}. "
            f"Missing: {', '.join(absent)}."
        )
    ordered = sessions[COLUMNS].sort_values("session", kind="stable", ignore_index=True)
    once = ordered.drop_duplicates([name for name in COLUMNS if name != "ingested_at"])
    kept = len(once)

    def refuse(rule: str, broken: "pd.Series[bool]", remedy: str) -> None:
        if broken.any():
            raise ContractError(ticker, rule, once[broken], kept, remedy)

    refuse(
        "one row a session",
        once.duplicated("session", keep=False),
        "ask the source which row is right, or leave the ticker out",
    )
    look = "look at the rows at the source; leave the ticker out, or move start or end past them"
    refuse("prices are positive", (once[PRICES] <= 0).any(axis=1), look)
    refuse("prices are finite", np.isinf(once[PRICES]).any(axis=1), look)
    refuse("high >= low", once["high"] < once["low"], look)
    slack = TOLERANCE * once["close"]
    outside = (once["close"] > once["high"] + slack) | (once["close"] < once["low"] - slack)
    refuse("close within [low, high]", outside, look)
    missing = once[["open", "close"]].isna().any(axis=1)
    if missing.mean() > max_missing_share:
        refuse(
            f"at most {max_missing_share:.1%} without an open or a close (max_missing_share)",
            missing,
            "raise max_missing_share, or choose a range in which the source has prices",
        )
    odd_open = (once["open"] > once["high"] + slack) | (once["open"] < once["low"] - slack)
    stale = once["open"] == once["close"].shift()
    absent, calendar = _absent_sessions(ticker, once["session"])
    span = f"{once['session'].min():%Y-%m-%d} to {once['session'].max():%Y-%m-%d}"
    findings = [
        Finding(ticker, "stored", len(ordered), kept, kept, span),
        Finding(
            ticker,
            "duplicate sessions",
            len(ordered),
            kept,
            len(ordered) - kept,
            "same values, collapsed",
        ),
        Finding(
            ticker,
            "no open or close",
            kept,
            kept,
            int(missing.sum()),
            "kept; every window that touches it is void",
        ),
        Finding(ticker, "open outside [low, high]", kept, kept, int(odd_open.sum()), "kept"),
        Finding(
            ticker,
            "open equals previous close",
            kept,
            kept,
            int(stale.sum()),
            f"{stale.mean():.1%}, kept",
        ),
        Finding(ticker, "sessions absent", kept, kept, absent, calendar),
    ]
    return once.reset_index(drop=True), findings


@lru_cache(maxsize=16)
def _calendar(name: str) -> "ExchangeCalendar":
    import exchange_calendars

    first = max(
        pd.Timestamp("1962-01-01"),
        exchange_calendars.get_calendar(name).bound_min() or pd.Timestamp(0),
    )
    return exchange_calendars.get_calendar(name, start=first)


def calendar_of(ticker: str) -> str | None:
    """The exchange calendar of a Yahoo ticker, by its ending; None where it is not known.

    >>> calendar_of("AAPL"), calendar_of("BTC-USD"), calendar_of("7203.T"), calendar_of("XYZ.QQ")
    ('XNYS', '24/7', 'XTKS', None)
    """
    ending = next((end for end in CALENDARS if end and ticker.upper().endswith(end)), "")
    return None if not ending and "." in ticker else CALENDARS[ending]


def _absent_sessions(ticker: str, sessions: "pd.Series[Any]") -> tuple[int, str]:
    """How many sessions the exchange held between the first and the last one here that are not
    here.
    """
    name = calendar_of(ticker)
    if name is None:
        return 0, "not counted: no calendar known for this ticker's exchange"
    first, last = sessions.min(), sessions.max()
    if name == "24/7":
        held = pd.date_range(first, last, freq="D")
    else:
        calendar = _calendar(name)
        held = calendar.sessions
        held = held[(held >= first) & (held <= last)]
    absent = held.difference(pd.DatetimeIndex(sessions))
    return len(absent), f"calendar {name}" + (
        f"; the first: {absent[0]:%Y-%m-%d}" if len(absent) else ""
    )


def as_date(value: str | None) -> pd.Timestamp | None:
    """An ISO date as a session, midnight without a zone."""
    return None if value is None else pd.Timestamp(dt.date.fromisoformat(value))
