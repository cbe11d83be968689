"""Exchange calendars by ticker: missing sessions, the next session, when sessions open and close.

A date that no calendar holds, or whose calendar is not known, begins where it begins first on earth
(UTC+14) and is over where it ends last (UTC-12): no forecast in time is ever claimed of it.
"""

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

FIRST_MORNING, LAST_MIDNIGHT = pd.Timedelta(-14, "h"), pd.Timedelta(36, "h")
"""From 00:00 UTC of a date to where it begins first and ends last on earth."""

LONGEST_BREAK = pd.Timedelta(15, "D")
"""Longer than any exchange stays closed."""


def calendar_of(ticker: str) -> str | None:
    """Return the exchange calendar of a Yahoo ticker; None if it is not known.

    Indices, currencies and futures (``^N225``, ``EURUSD=X``, ``GC=F``) do not name their exchange.

    >>> calendar_of("AAPL"), calendar_of("BTC-USD"), calendar_of("7203.T"), calendar_of("XYZ.QQ")
    ('XNYS', '24/7', 'XTKS', None)
    """
    ending = next((end for end in CALENDARS if end and ticker.upper().endswith(end)), "")
    return None if not ending and set(ticker) & set(".^=") else CALENDARS[ending]


@lru_cache(maxsize=16)
def _trading_days(name: str) -> tuple[np.busdaycalendar, pd.Timestamp, pd.Timestamp]:
    """Return the days on which an exchange trades; the first and last day its calendar covers.

    The calendar is made for one month only, as the hours of each session take long: the rule for
    days covers all years.
    """
    import exchange_calendars

    calendar = exchange_calendars.get_calendar(name, start="2020-01-01", end="2020-01-31")
    bounds = zip(
        (calendar.bound_min(), calendar.bound_max()), ("1900-01-01", "2200-01-01"), strict=True
    )
    first, last = (bound or pd.Timestamp(day) for bound, day in bounds)
    return calendar.day.calendar, first, last


@lru_cache(maxsize=64)
def _hours(name: str, first: pd.Timestamp, last: pd.Timestamp) -> pd.DataFrame:
    """Return the hours of the sessions from `first` to `last`, and of some before.

    Returns:
        By session: ``opens`` and ``closes`` (UTC), and ``rested``: whether the session before had
        closed by then. A market that never closes opens at the moment of its last close.
    """
    import exchange_calendars

    _, earliest, latest = _trading_days(name)
    first, last = max(first - LONGEST_BREAK, earliest), min(last, latest)
    if first >= last:
        empty = {"opens": pd.to_datetime([], utc=True), "closes": pd.to_datetime([], utc=True)}
        return pd.DataFrame(empty, index=pd.DatetimeIndex([])).assign(rested=True)
    calendar = exchange_calendars.get_calendar(name, start=first, end=last)
    hours = pd.DataFrame({"opens": calendar.opens, "closes": calendar.closes})
    return hours.assign(rested=~(hours["closes"].shift() >= hours["opens"]))


def read_clock(now: str | None) -> pd.Timestamp:
    """Return the time that the parameter ``now`` stands for, in UTC to the second."""
    return pd.Timestamp(now or dt.datetime.now(dt.UTC)).floor("s")


@lru_cache(maxsize=64)
def last_closed(name: str | None, now: pd.Timestamp) -> pd.Timestamp:
    """Return the newest session of a calendar (None: not known) that has closed at `now` (UTC).

    >>> last_closed("XNYS", pd.Timestamp("2024-11-29 17:59Z"))  # the day after Thanksgiving
    Timestamp('2024-11-27 00:00:00')
    >>> last_closed("XNYS", pd.Timestamp("2024-11-29 18:00Z"))  # closes at 13:00 New York time
    Timestamp('2024-11-29 00:00:00')
    """
    present = now.tz_convert("UTC").tz_localize(None)
    if name is not None:
        hours = _hours(name, present.normalize(), present.normalize())
        for session in hours.index[hours["closes"] <= now][-1:]:
            return pd.Timestamp(session)
    return (present - LAST_MIDNIGHT).floor("D")


def opening_times(forecasts: pd.DataFrame, calendar: str | None) -> pd.DataFrame:
    """Return when the session of each row opens.

    Args:
        forecasts: ``ticker`` and ``session``.
        calendar: of the exchange; None: by each ticker's ending.

    Returns:
        In the same order: ``opens_at`` (UTC), and ``rested``, see `_hours`.
    """
    sessions = forecasts["session"]
    earliest = (sessions + FIRST_MORNING).dt.tz_localize("UTC").astype("datetime64[us, UTC]")
    found = pd.DataFrame({"opens_at": earliest, "rested": True})
    names = {ticker: calendar or calendar_of(ticker) for ticker in forecasts["ticker"].unique()}
    for name, own in sessions.groupby(forecasts["ticker"].map(names)):
        hours = _hours(str(name), own.min(), own.max())
        known = own[own.isin(hours.index)]
        for column, values in (("opens_at", hours["opens"]), ("rested", hours["rested"])):
            found.loc[known.index, column] = values.reindex(known).to_numpy()
    return found


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
    trading, earliest, _ = _trading_days(name)
    days = pd.date_range(max(sessions.min(), earliest), last).to_numpy().astype("datetime64[D]")
    held = days[np.is_busday(days, busdaycal=trading)]
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
    trading = np.busdaycalendar() if name is None else _trading_days(name)[0]
    day = np.busday_offset(last, 1, roll="backward", busdaycal=trading)
    return pd.Timestamp(day).date()
