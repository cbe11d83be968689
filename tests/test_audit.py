"""The leakage audit finds what it is for: every kind of leak, planted one at a time."""

import datetime as dt

import pytest
from pyspark.sql import functions as F

from candlecast.errors import LeakageError
from candlecast.features.audit import audit_leakage
from candlecast.features.split import split_by_date
from candlecast.features.windows import make_windows

WINDOW, PURGE = 3, 4


@pytest.fixture(scope="module")
def tables(spark):
    """Two tickers, one of them on every second day, split with a purge of 4."""
    rows = [
        (
            ticker,
            dt.date(2020, 1, 1) + dt.timedelta(days=step * day),
            10.0,
            10.0 + (day * 7 % 5) - 2,
        )
        for ticker, step in (("A", 1), ("B", 2))
        for day in range(60 // step)
    ]
    sessions = spark.createDataFrame(rows, "ticker STRING, session DATE, open DOUBLE, close DOUBLE")
    windows = make_windows(sessions, WINDOW, "delta")
    return sessions, *split_by_date(windows, 0.25, PURGE)


def audit(sessions, train, test):
    return audit_leakage(sessions, train, test, window=WINDOW, body="delta", purge=PURGE)


def test_a_clean_split_passes_with_its_evidence(tables):
    sessions, train, test = tables
    assert audit(sessions, train, test) == {
        "rows_in_both": 0,
        "purged_sessions": 4,
        "last_training_session": "2020-02-10",
        "first_test_session": "2020-02-15",
        "rows_audited": train.count() + test.count(),
        "rows_with_wrong_lags": 0,
    }


def test_a_row_in_both_sets_is_found(tables):
    sessions, train, test = tables
    with pytest.raises(LeakageError, match="1 rows are in both train and test"):
        audit(sessions, train.unionByName(test.where("ticker = 'A'").limit(1)), test)


def test_a_purge_too_short_for_one_ticker_is_found(tables):
    sessions, train, test = tables
    windows = make_windows(sessions, WINDOW, "delta")
    extra = windows.where("ticker = 'B' AND session = '2020-02-08'")
    assert extra.count() == 1
    with pytest.raises(LeakageError, match="3 sessions between train and test, the purge is 4"):
        audit(sessions, train.unionByName(extra), test)


def test_a_feature_from_the_session_itself_is_found(tables):
    sessions, train, test = tables
    leaky = test.withColumn("lag_01", F.col("body").cast("float"))
    with pytest.raises(LeakageError, match="hold a body that is not from its own past"):
        audit(sessions, train, leaky)


def test_windows_of_other_prices_are_found(tables):
    sessions, train, test = tables
    with pytest.raises(LeakageError, match="hold a body that is not from its own past"):
        audit(sessions.where("ticker = 'C'"), train, test)


def test_windows_shifted_by_one_are_found(tables):
    sessions, train, test = tables
    shifted = train.withColumn("lag_03", F.col("lag_02"))
    with pytest.raises(LeakageError, match="hold a body that is not from its own past"):
        audit(sessions, shifted, test)


def test_a_window_of_a_session_without_a_price_is_found(tables):
    sessions, train, test = tables
    last = test.where("ticker = 'A'").orderBy(F.desc("session")).limit(1)
    after = last.withColumn("session", F.date_add("session", 1))
    with pytest.raises(LeakageError, match=f"1 of {train.count() + test.count() + 1} "):
        audit(sessions, train, test.unionByName(after))
