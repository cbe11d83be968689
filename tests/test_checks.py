"""What is refused, what is kept and counted: hand-made sessions of one ticker."""

import datetime as dt

import pandas as pd
import pytest

from candlecast.errors import ContractError, SourceError
from candlecast.sources.calendars import calendar_of, next_session
from candlecast.sources.checks import COLUMNS, PRICES, TOLERANCE, Finding, check_sessions

NAN = float("nan")
CHRISTMAS = ["2012-12-21", "2012-12-24", "2012-12-26", "2012-12-27", "2012-12-28", "2012-12-31"]
"""All sessions of New York around Christmas 2012."""


def sessions(*candles: tuple[float, float, float, float], dates: list[str] | None = None):
    """One row per candle (open, high, low, close), around Christmas or on `dates`."""
    frame = pd.DataFrame(candles, columns=PRICES, dtype=float)
    return frame.assign(
        ticker="IBM",
        session=pd.to_datetime((dates or CHRISTMAS)[: len(candles)]),
        adj_close=frame["close"],
        volume=1000.0,
        dividends=NAN,
        stock_splits=NAN,
        source="test",
        ingested_at=pd.Timestamp("2013-01-01", tz="UTC"),
    )[COLUMNS]


GOOD = [(10.0, 12.0, 9.0, 11.0), (11.5, 12.0, 10.0, 10.5), (10.0, 11.0, 9.5, 10.0)]
GOOD_WEEK = [*GOOD, (10.5, 13.0, 10.5, 12.5), (12.0, 12.0, 11.0, 11.5), (11.0, 12.0, 10.0, 12.0)]


def check(frame: pd.DataFrame, ticker: str = "IBM", max_missing_share: float = 0.5):
    """The rows kept, and what was found, by rule."""
    kept, findings = check_sessions(ticker, frame, max_missing_share)
    assert {finding.ticker for finding in findings} == {ticker}
    return kept, {finding.rule: finding for finding in findings}


def refused(frame: pd.DataFrame, max_missing_share: float = 0.5) -> ContractError:
    with pytest.raises(ContractError) as caught:
        check_sessions("IBM", frame, max_missing_share)
    return caught.value


def test_good_sessions_written_out():
    week = sessions(*GOOD_WEEK)
    kept, findings = check_sessions("IBM", week, 0.0)
    pd.testing.assert_frame_equal(kept, week)
    assert findings == [
        Finding("IBM", "requested", 6, 6, 6, "full history"),
        Finding("IBM", "stored", 6, 6, 6, "2012-12-21 to 2012-12-31"),
        Finding("IBM", "duplicate sessions", 6, 6, 0, "same values, collapsed"),
        Finding("IBM", "no open or close", 6, 6, 0, "kept; every window that touches it is void"),
        Finding("IBM", "open outside [low, high]", 6, 6, 0, "kept"),
        Finding("IBM", "open equals previous close", 6, 6, 0, "0.0%, kept"),
        Finding("IBM", "missing sessions", 6, 6, 0, "calendar XNYS"),
    ]


def test_stale_opens_are_counted():
    week = sessions((10, 12, 9, 11), (11, 12, 10, 10), (10, 11, 9, NAN), (NAN, 13, 10, 12))
    kept, found = check(week)
    stale = found["open equals previous close"]
    assert (stale.found, stale.detail, len(kept)) == (2, "50.0%, kept", 4)


# --- Fault 6: duplicates --------------------------------------------------------------------------


def test_fault_06_duplicate_dates_of_the_same_values_are_collapsed_and_counted():
    week = sessions(*GOOD)
    later = week.iloc[[1, 1]].assign(ingested_at=pd.Timestamp("2013-01-02", tz="UTC"))
    kept, found = check(pd.concat([week, later]))
    pd.testing.assert_frame_equal(kept, week)
    assert found["stored"] == Finding("IBM", "stored", 5, 3, 3, "2012-12-21 to 2012-12-26")
    assert found["duplicate sessions"].rows_in == 5
    assert found["duplicate sessions"].rows_kept == 3
    assert found["duplicate sessions"].found == 2


@pytest.mark.parametrize("column", ["close", "volume", "adj_close", "dividends"])
def test_fault_06_duplicate_dates_of_different_values_are_refused_and_shown(column):
    week = sessions(*GOOD)
    other = week.iloc[[1]].assign(**{column: 10.25})
    error = refused(pd.concat([week, other]))
    assert (error.rule, len(error.rows)) == ("one row per session", 2)
    message = str(error)
    assert message.startswith("IBM: 2 of 4 ")
    assert message.count("2012-12-24") == 2
    assert "10.25" in message  # what differs is shown
    assert "2012-12-21" not in message


# --- Fault 7: missing prices ----------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["open", "close"])
def test_fault_07_missing_price_is_kept_and_counted(missing):
    week = sessions(*GOOD_WEEK)
    week.loc[[1, 3], missing] = NAN
    kept, found = check(week, max_missing_share=2 / 6)  # at the edge
    pd.testing.assert_frame_equal(kept, week)
    assert found["no open or close"] == Finding(
        "IBM", "no open or close", 6, 6, 2, "kept; every window that touches it is void"
    )


def test_fault_07_above_the_share_is_refused():
    week = sessions(*GOOD_WEEK)
    week.loc[1, "open"] = week.loc[3, "close"] = NAN
    error = refused(week, max_missing_share=0.33)
    assert error.ticker == "IBM"
    assert error.rule == "at most 33.0% without an open or a close (max_missing_share)"
    assert "IBM: 2 of 6 rows" in str(error)
    assert error.rows["session"].tolist() == [
        pd.Timestamp("2012-12-24"),
        pd.Timestamp("2012-12-27"),
    ]


def test_only_open_and_close_must_be_there():
    week = sessions(*GOOD)
    week[["high", "low", "adj_close", "volume", "dividends", "stock_splits"]] = NAN
    kept, found = check(week, max_missing_share=0.0)
    pd.testing.assert_frame_equal(kept, week)
    assert found["no open or close"].found == 0


# --- Fault 8: impossible prices -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candle", "rule"),
    [
        ((0.0, 12.0, 9.0, 11.0), "prices are positive"),
        ((10.0, 12.0, -9.0, 11.0), "prices are positive"),
        ((10.0, 12.0, float("-inf"), 11.0), "prices are positive"),
        ((10.0, float("inf"), 9.0, 11.0), "prices are finite"),
        ((10.0, 9.0, 12.0, 11.0), "high >= low"),
        ((10.0, 12.0, 9.0, 12.5), "close within [low, high]"),
        ((10.0, 12.0, 9.0, 8.5), "close within [low, high]"),
        ((NAN, NAN, 9.0, 8.5), "close within [low, high]"),
    ],
)
def test_fault_08_impossible_price(candle, rule):
    error = refused(sessions(*GOOD, candle))
    assert error.rule == rule
    message = str(error)
    assert (error.ticker, len(error.rows)) == ("IBM", 1)
    assert "1 of 4 rows" in message.splitlines()[0]
    assert message.splitlines()[1].split()[:5] == ["session", *PRICES]
    assert message.splitlines()[2].split()[0] == "2012-12-27"


def test_fault_08_shows_the_first_three_rows_of_many():
    error = refused(sessions(*[(10.0, 9.0, 12.0, 11.0)] * 5))
    assert len(error.rows) == 5
    assert len(str(error).splitlines()) == 1 + 1 + 3


@pytest.mark.parametrize(("beyond", "allowed"), [(0.99, True), (1.01, False)])
def test_tolerance_at_its_edge(beyond, allowed):
    # A close of 1 above a high of 1 - e, or below a low of 1 + e.
    above = (1.0, 1.0 - beyond * TOLERANCE, 0.5, 1.0)
    below = (1.5, 2.0, 1.0 + beyond * TOLERANCE, 1.0)
    for candle in (above, below):
        if allowed:
            assert len(check(sessions(candle))[0]) == 1
        else:
            assert refused(sessions(candle)).rule == "close within [low, high]"


def test_open_outside_high_and_low_is_counted_and_kept():
    week = sessions(
        (12.5, 12.0, 9.0, 11.0),  # above
        (8.0, 12.0, 9.0, 11.0),  # below
        (8.0, 12.0, 9.0, NAN),  # below, and no close
        (12.0 * (1 + TOLERANCE / 2), 12.0, 9.0, 11.0),  # rounded
        (9.0, 12.0, 9.0, 11.0),
        (NAN, 12.0, 9.0, 11.0),
    )
    kept, found = check(week)
    pd.testing.assert_frame_equal(kept, week)
    assert found["open outside [low, high]"].found == 3


# --- Faults 9 to 11: columns, order, sessions -----------------------------------------------------


def test_fault_09_missing_column_is_refused():
    renamed = sessions(*GOOD).rename(columns={"adj_close": "Adj Close"})
    error = refused(renamed)
    assert error.rule == f"the columns are {', '.join(COLUMNS)}"
    first, columns, *_ = str(error).splitlines()
    assert first.endswith("missing columns: adj_close. The first:")
    assert "Adj Close" in columns  # what came


def test_columns_are_taken_by_name():
    week = sessions(*GOOD)
    other = week[COLUMNS[::-1]].assign(capital_gains=0.0)
    other.insert(0, "index", 7)
    pd.testing.assert_frame_equal(check(other)[0], week)


def test_fault_10_unsorted_rows_give_the_same():
    week = pd.concat([sessions(*GOOD_WEEK), sessions(*GOOD)])
    week.iloc[1, COLUMNS.index("volume")] = week.iloc[7, COLUMNS.index("volume")] = NAN
    week.iloc[6:, COLUMNS.index("ingested_at")] += pd.Timedelta(hours=1)
    kept, findings = check_sessions("IBM", week, 0.0)
    assert kept["ingested_at"].nunique() == 1  # of equal rows the earliest is kept
    for seed in range(5):
        shuffled = week.sample(frac=1, random_state=seed)
        kept_again, findings_again = check_sessions("IBM", shuffled, 0.0)
        pd.testing.assert_frame_equal(kept_again, kept)
        assert findings_again == findings


@pytest.mark.parametrize(
    "date", [pd.NaT, pd.Timestamp("2012-12-24 05:00"), pd.Timestamp("2012-12-24 00:00:00.001")]
)
def test_session_that_is_no_date_is_refused(date):
    week = sessions(*GOOD)
    week.loc[1, "session"] = date
    error = refused(week)
    assert (error.rule, len(error.rows)) == ("a session is a date", 1)


def test_sessions_with_a_zone_are_refused():
    week = sessions(*GOOD)
    error = refused(week.assign(session=week["session"].dt.tz_localize("America/New_York")))
    assert (error.rule, len(error.rows)) == ("a session is a date", 3)


def test_no_rows_are_no_answer():
    with pytest.raises(SourceError) as caught:
        check_sessions("IBM", sessions(*GOOD).head(0), 0.0)
    assert (caught.value.ticker, caught.value.reason) == ("IBM", "no sessions")


@pytest.mark.parametrize(
    ("start", "end", "requested"),
    [
        (None, None, "full history"),
        ("2012-01-01", None, "from 2012-01-01"),
        (None, "2012-12-31", "up to 2012-12-31"),
        ("2012-01-01", "2012-12-31", "2012-01-01 to 2012-12-31"),
        # The rows were ingested on 2013-01-01.
        (None, "2013-01-01", "up to 2013-01-01, capped at 2012-12-31, the last session that has"),
    ],
)
def test_the_requested_range_is_recorded(start, end, requested):
    first, last = (day and dt.date.fromisoformat(day) for day in (start, end))
    _, findings = check_sessions("IBM", sessions(*GOOD_WEEK), 0.0, first, last)
    assert findings[0].rule == "requested"
    assert findings[0].detail.removesuffix(" closed") == requested


def test_input_is_left_as_it_was():
    week = sessions(*GOOD_WEEK).sample(frac=1, random_state=0)
    before = week.copy()
    check(week)
    pd.testing.assert_frame_equal(week, before)


# --- Missing sessions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ticker", "dates", "missing", "detail"),
    [
        # Christmas is no session in New York; a Saturday never is.
        ("IBM", CHRISTMAS, 0, "calendar XNYS"),
        ("IBM", CHRISTMAS[::5], 4, "calendar XNYS; the first: 2012-12-24"),
        ("brk-b", CHRISTMAS[::2], 2, "calendar XNYS; the first: 2012-12-24"),
        # Hurricane Sandy closed New York on two days.
        ("IBM", ["2012-10-26", "2012-10-31"], 0, "calendar XNYS"),
        # 2012-12-22 to 25 and the 27th of an exchange that never closes.
        ("BTC-USD", CHRISTMAS[::2], 5, "calendar 24/7; the first: 2012-12-22"),
        # London keeps Boxing Day; Tokyo the 24th, the 31st and the first days of the year.
        ("VOD.L", ["2012-12-24", "2012-12-28"], 1, "calendar XLON; the first: 2012-12-27"),
        ("7203.T", ["2012-12-21", "2013-01-04"], 4, "calendar XTKS; the first: 2012-12-25"),
        # A calendar that begins in 1997 counts from there.
        ("7203.T", ["1990-01-04", "1997-01-08"], 2, "calendar XTKS; the first: 1997-01-06"),
        ("XYZ.QQ", CHRISTMAS[::2], 0, "not counted: this ticker's calendar is not known"),
        ("IBM", CHRISTMAS[:1], 0, "calendar XNYS"),
    ],
)
def test_missing_sessions(ticker, dates, missing, detail):
    kept, found = check(sessions(*GOOD_WEEK[: len(dates)], dates=dates), ticker)
    assert found["missing sessions"] == Finding(
        ticker, "missing sessions", len(kept), len(kept), missing, detail
    )


def test_days_of_a_calendar_are_its_own_sessions():
    import exchange_calendars

    whole = exchange_calendars.get_calendar("XNYS", start="1970-01-01", end="2025-12-31").sessions
    ends = sessions(*GOOD[:2], dates=["1970-01-02", "2025-12-31"])
    assert check(ends)[1]["missing sessions"].found == len(whole) - 2


@pytest.mark.parametrize(
    ("ticker", "calendar"),
    [
        ("AAPL", "XNYS"),
        ("BF-B", "XNYS"),
        ("eth-eur", "24/7"),
        ("SAP.DE", "XETR"),
        ("MC.PA", "XPAR"),
        ("RY.TO", None),
        ("^N225", None),
        ("EURUSD=X", None),
    ],
)
def test_calendar_of_a_ticker(ticker, calendar):
    assert calendar_of(ticker) == calendar


@pytest.mark.parametrize(
    ("ticker", "last", "following"),
    [
        ("AAPL", "2012-07-02", "2012-07-03"),
        ("AAPL", "2012-07-03", "2012-07-05"),  # Independence Day
        ("AAPL", "2012-12-28", "2012-12-31"),  # a Friday
        ("AAPL", "2012-12-31", "2013-01-02"),
        ("AAPL", "2012-10-26", "2012-10-31"),  # two days closed by a hurricane
        ("AAPL", "2012-12-29", "2012-12-31"),  # a Saturday
        ("7203.T", "2023-12-29", "2024-01-04"),
        ("SAP.DE", "2024-12-23", "2024-12-27"),
        ("BTC-USD", "2012-12-31", "2013-01-01"),
        ("^N225", "2012-12-31", "2013-01-01"),  # no calendar known: a weekday
        ("^N225", "2012-12-28", "2012-12-31"),
    ],
)
def test_the_next_session(ticker, last, following):
    assert next_session(ticker, dt.date.fromisoformat(last)) == dt.date.fromisoformat(following)


def test_the_next_session_by_a_given_calendar():
    day = dt.date(2012, 7, 3)  # before Independence Day
    found = [next_session("EURUSD", day, calendar) for calendar in (None, "24/5", "24/7")]
    assert found == [dt.date(2012, 7, 5), dt.date(2012, 7, 4), dt.date(2012, 7, 4)]
    friday = dt.date(2012, 7, 6)
    found = [next_session("COIN", friday, calendar) for calendar in (None, "24/5", "24/7")]
    assert found == [dt.date(2012, 7, 9), dt.date(2012, 7, 9), dt.date(2012, 7, 7)]


def test_missing_sessions_are_counted_up_to_the_requested_end():
    """Requested up to later days, the answer ends on the 7th of January 2022, a Friday."""
    dates = ["2022-01-03", "2022-01-04", "2022-01-05", "2022-01-06", "2022-01-07"]
    half = sessions(*GOOD_WEEK[:5], dates=dates)
    half["ingested_at"] = pd.Timestamp("2022-02-01", tz="UTC")

    def missing(end: dt.date | None) -> int:
        _, findings = check_sessions("IBM", half, 0.0, end=end)
        return next(finding.found for finding in findings if finding.rule == "missing sessions")

    assert missing(None) == 0
    assert missing(dt.date(2022, 1, 14)) == 5
    # Up to the 31st, the day before the ingestion; the 17th is a holiday.
    assert missing(dt.date(2099, 12, 31)) == 15


def test_a_session_that_has_not_closed_is_left_out_and_counted():
    week = sessions(*GOOD_WEEK)  # up to the 31st of December, which closes at 21:00 UTC
    close = pd.Timestamp("2012-12-31 21:00", tz="UTC")
    whole, findings = check_sessions("IBM", week, 0.0, now=close)
    pd.testing.assert_frame_equal(whole, week)
    assert "not closed" not in {finding.rule for finding in findings}
    kept, findings = check_sessions("IBM", week, 0.0, now=close - pd.Timedelta(seconds=1))
    pd.testing.assert_frame_equal(kept, week.head(5))
    assert findings[-1] == Finding(
        "IBM", "not closed", 6, 5, 1, "left out: the last that has closed is 2012-12-28"
    )
    assert {finding.rows_in for finding in findings[:-1]} == {5}
    with pytest.raises(SourceError, match="2012-12-20"):
        check_sessions("IBM", week, 0.0, now=pd.Timestamp("2012-12-21 17:00", tz="UTC"))
