"""Exchange calendars by ticker: missing sessions, and the next session."""

import datetime as dt
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

CALENDARS = {
    "": "XNYS",
    "-USD": "24/7",
    "-EUR": "24/7",
    ".T": "XTKS",
    ".L": "XLON",
    ".DE": "XETR",
    ".PA": "XPAR",
}
"""Exchange calendars by the ending of Yahoo's tickers; without an ending it is New York."""


def calendar_of(ticker: str) -> str | None:
    """Return the exchange calendar of a Yahoo ticker; None if it is not known.

    Indices, currencies and futures (``^N225``, ``EURUSD=X``, ``GC=F``) do not name their exchange.

    >>> calendar_of("AAPL"), calendar_of("BTC-USD"), calendar_of("7203.T"), calendar_of("XYZ.QQ")
    ('XNYS', '24/7', 'XTKS', None)
    """
    ending = next((end for end in CALENDARS if end and ticker.upper().endswith(end)), "")
    return None if not ending and set(ticker) & set(".^=") else CALENDARS[ending]


@lru_cache(maxsize=16)
def _trading_days(name: str) -> tuple[np.busdaycalendar, pd.Timestamp]:
    """Return the days on which an exchange trades, and the first day that its calendar covers.

    The calendar is made for one month only, as the hours of each session take long: the rule for
    days covers all years.
    """
    import exchange_calendars

    calendar = exchange_calendars.get_calendar(name, start="2020-01-01", end="2020-01-31")
    return calendar.day.calendar, calendar.bound_min() or pd.Timestamp("1900-01-01")


def missing_sessions(
    ticker: str, sessions: "pd.Series[Any]", last: pd.Timestamp, calendar: str | None
) -> tuple[int, str]:
    """Count the sessions of the exchange from the first of `sessions` to `last` that are not there.

    Args:
        ticker: the ticker.
        sessions: those that are there.
        last: the last one that should be there.
        calendar: of the exchange; None: by the ticker's ending.

    Returns:
        The count and its calendar; 0 and the reason where no calendar is known.
    """
    name = calendar or calendar_of(ticker)
    if name is None:
        return 0, "not counted: this ticker's calendar is not known"
    first = sessions.min()
    trading, earliest = (None, first) if name == "24/7" else _trading_days(name)
    days = pd.date_range(max(first, earliest), last).to_numpy().astype("datetime64[D]")
    held = days if trading is None else days[np.is_busday(days, busdaycal=trading)]
    there = sessions.to_numpy().astype("datetime64[D]")
    missing = held[~np.isin(held, there, assume_unique=True)]
    detail = f"calendar {name}"
    return len(missing), f"{detail}; the first: {missing[0]}" if len(missing) else detail


def next_session(ticker: str, last: dt.date, calendar: str | None = None) -> dt.date:
    """Return the first day after `last` on which the ticker's exchange trades.

    The calendar is the given one, else that of the ticker's ending. Where none is known it is the
    next weekday. Unscheduled closures to come are not known.

    >>> next_session("AAPL", dt.date(2012, 7, 3)), next_session("BTC-USD", dt.date(2012, 7, 3))
    (datetime.date(2012, 7, 5), datetime.date(2012, 7, 4))
    """
    name = calendar or calendar_of(ticker)
    if name == "24/7":
        return last + dt.timedelta(days=1)
    trading = np.busdaycalendar() if name is None else _trading_days(name)[0]
    day = np.busday_offset(last, 1, roll="backward", busdaycal=trading)
    return pd.Timestamp(day).date()
