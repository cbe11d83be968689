"""When sessions open and close: every case written out as the exchanges have it."""

import pandas as pd
import pytest

from candlecast.sources.calendars import last_closed, opening_times, read_clock

SECOND = pd.Timedelta(seconds=1)


@pytest.mark.parametrize(
    ("ticker", "session", "opens"),
    [
        ("AAPL", "2024-03-08", "2024-03-08 14:30"),  # New York, winter
        ("AAPL", "2024-03-11", "2024-03-11 13:30"),  # from the 10th of March: summer
        ("AAPL", "2024-11-01", "2024-11-01 13:30"),
        ("AAPL", "2024-11-04", "2024-11-04 14:30"),  # from the 3rd of November: winter
        ("AAPL", "2024-11-29", "2024-11-29 14:30"),  # a half day opens as usual
        ("AAPL", "2024-11-28", "2024-11-27 10:00"),  # Thanksgiving: no session, a date at UTC+14
        ("VOD.L", "2024-03-28", "2024-03-28 08:00"),  # London
        ("VOD.L", "2024-04-02", "2024-04-02 07:00"),  # after Easter, and from the 31st summer
        ("VOD.L", "2024-10-25", "2024-10-25 07:00"),
        ("VOD.L", "2024-10-28", "2024-10-28 08:00"),
        ("VOD.L", "2024-12-24", "2024-12-24 08:00"),
        ("SAP.DE", "2024-07-01", "2024-07-01 07:00"),
        ("MC.PA", "2024-01-02", "2024-01-02 08:00"),
        ("7203.T", "2024-03-11", "2024-03-11 00:00"),  # Tokyo has no daylight saving
        ("7203.T", "2024-11-05", "2024-11-05 00:00"),
        ("BTC-USD", "2024-03-10", "2024-03-10 00:00"),  # a Sunday
        ("XYZ.QQ", "2024-03-11", "2024-03-10 10:00"),  # no calendar is known
        ("7203.T", "1990-03-12", "1990-03-11 10:00"),  # before Tokyo's calendar begins
    ],
)
def test_when_a_session_opens(ticker, session, opens):
    rows = pd.DataFrame({"ticker": [ticker], "session": [pd.Timestamp(session)]})
    [found] = opening_times(rows, None)["opens_at"]
    assert found == pd.Timestamp(opens, tz="UTC")


def test_rows_of_several_markets_keep_their_order_and_only_some_markets_rest():
    days = pd.Timestamp("2024-03-11"), pd.Timestamp("2024-03-12")
    rows = [(ticker, day) for day in days for ticker in ("BTC-USD", "AAPL", "7203.T", "XYZ.QQ")]
    found = opening_times(pd.DataFrame(rows, columns=["ticker", "session"]), None)
    monday = ["03-11 00:00", "03-11 13:30", "03-11 00:00", "03-10 10:00"]
    tuesday = ["03-12 00:00", "03-12 13:30", "03-12 00:00", "03-11 10:00"]
    assert found["opens_at"].dt.strftime("%m-%d %H:%M").tolist() == monday + tuesday
    assert found["rested"].tolist() == [False, True, True, True] * 2


def test_currencies_rest_at_the_weekend_only():
    days = pd.to_datetime(["2024-03-08", "2024-03-11", "2024-03-12"])
    rows = pd.DataFrame({"ticker": "EURUSD=X", "session": days})
    assert opening_times(rows, "24/5")["rested"].tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("calendar", "closes", "session", "before"),
    [
        ("XNYS", "2024-03-08 21:00", "2024-03-08", "2024-03-07"),
        ("XNYS", "2024-03-11 20:00", "2024-03-11", "2024-03-08"),
        ("XNYS", "2024-11-04 21:00", "2024-11-04", "2024-11-01"),
        ("XNYS", "2024-11-29 18:00", "2024-11-29", "2024-11-27"),  # a half day after a holiday
        ("XLON", "2024-12-24 12:30", "2024-12-24", "2024-12-23"),
        ("XLON", "2024-10-25 15:30", "2024-10-25", "2024-10-24"),
        ("XLON", "2024-10-28 16:30", "2024-10-28", "2024-10-25"),
        ("XTKS", "2024-11-01 06:00", "2024-11-01", "2024-10-31"),
        ("XTKS", "2024-11-05 06:30", "2024-11-05", "2024-11-01"),  # half an hour longer from now on
        ("XTKS", "2019-05-07 06:00", "2019-05-07", "2019-04-26"),  # ten days without a session
        ("24/7", "2024-03-10 00:00", "2024-03-09", "2024-03-08"),
        (None, "2024-03-10 12:00", "2024-03-09", "2024-03-08"),  # over at UTC-12 as well
        ("XTKS", "1990-03-10 12:00", "1990-03-09", "1990-03-08"),
    ],
)
def test_the_newest_session_that_has_closed(calendar, closes, session, before):
    moment = pd.Timestamp(closes, tz="UTC")
    assert last_closed(calendar, moment) == pd.Timestamp(session)
    assert last_closed(calendar, moment - SECOND) == pd.Timestamp(before)


def test_the_clock_is_read_in_utc_to_the_second():
    assert read_clock("2024-03-10T12:00:00+00:00") == pd.Timestamp("2024-03-10 12:00", tz="UTC")
    now = read_clock(None)
    assert (str(now.tz), now.microsecond) == ("UTC", 0)
    assert pd.Timedelta(0) <= pd.Timestamp.now("UTC") - now < pd.Timedelta(minutes=1)
