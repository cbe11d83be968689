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
"""Exchange calendars by the ending of Yahoo's tickers; no ending is New York."""


def calendar_of(ticker: str) -> str | None:
    """Return the exchange calendar of a Yahoo ticker, by its ending; None if it is not known.

    Indices, currencies and futures (``^N225``, ``EURUSD=X``, ``GC=F``) do not name their exchange.

    >>> calendar_of("AAPL"), calendar_of("BTC-USD"), calendar_of("7203.T"), calendar_of("XYZ.QQ")
    ('XNYS', '24/7', 'XTKS', None)
    """
    ending = next((end for end in CALENDARS if end and ticker.upper().endswith(end)), "")
    return None if not ending and set(ticker) & set(".^=") else CALENDARS[ending]


@lru_cache(maxsize=16)
def _trading_days(name: str) -> tuple[np.busdaycalendar, pd.Timestamp]:
    """Return the days on which an exchange trades, and the first one that its calendar knows.

    Only the rule for days is needed, so the calendar is made for a month: hours are the slow part.
    """
    import exchange_calendars

    calendar = exchange_calendars.get_calendar(name, start="2020-01-01", end="2020-01-31")
    return calendar.day.calendar, calendar.bound_min() or pd.Timestamp("1900-01-01")


def missing_sessions(
    ticker: str, sessions: "pd.Series[Any]", last: pd.Timestamp
) -> tuple[int, str]:
    """Count the sessions that the exchange held, from the first one given to `last`, but that miss.

    Returns:
        The count, and the calendar it is by; 0 and the reason when there is no calendar.
    """
    name = calendar_of(ticker)
    if name is None:
        return 0, "not counted: this ticker's calendar is not known"
    first = sessions.min()
    trading, earliest = (None, first) if name == "24/7" else _trading_days(name)
    days = pd.date_range(max(first, earliest), last).to_numpy().astype("datetime64[D]")
    held = days if trading is None else days[np.is_busday(days, busdaycal=trading)]
    missing = held[~np.isin(held, sessions.to_numpy().astype("datetime64[D]"))]
    detail = f"calendar {name}"
    return len(missing), f"{detail}; the first: {missing[0]}" if len(missing) else detail


def next_session(ticker: str, last: dt.date) -> dt.date:
    """Return the session that follows `last` in the calendar of the ticker's exchange.

    >>> next_session("AAPL", dt.date(2012, 7, 3)), next_session("BTC-USD", dt.date(2012, 7, 3))
    (datetime.date(2012, 7, 5), datetime.date(2012, 7, 4))

    Args:
        ticker: as Yahoo names it.
        last: a day, a session or not.

    Returns:
        The first day after it on which the exchange trades; the next weekday if no calendar is
        known for the ticker. A day on which the exchange closes unforeseen is not known here.
    """
    name = calendar_of(ticker)
    if name == "24/7":
        return last + dt.timedelta(days=1)
    trading = np.busdaycalendar() if name is None else _trading_days(name)[0]
    after = np.datetime64(last, "D") + 1
    day = np.busday_offset(after, 0, roll="forward", busdaycal=trading)
    return pd.Timestamp(day).date()
