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
    windows = make_windows(sessions, WINDOW, "delta").cache()
    return sessions, *split_by_date(windows, 0.25, PURGE)


def audit(sessions, train, test):
    return audit_leakage(sessions, train, test, WINDOW, "delta", ["lags"], PURGE)


def test_a_clean_split_passes_with_its_evidence(tables):
    sessions, train, test = tables
    evidence = audit(sessions, train, test)
    dates = evidence.pop("sessions_sampled")
    assert (dates[0], dates[-1], len(dates)) == ("2020-01-04", "2020-02-29", 4)
    assert evidence == {
        "rows_in_both": 0,
        "purged_sessions": 4,
        "last_training_session": "2020-02-10",
        "first_test_session": "2020-02-15",
        "rows_audited": train.count() + test.count(),
        "rows_with_wrong_label": 0,
        "rows_with_wrong_lags": 0,
        "features": ["lag_01", "lag_02", "lag_03"],
        "rows_recomputed": test.unionByName(train).where(F.col("session").isin(dates)).count(),
    }


def test_rows_in_both_sets_and_too_short_a_purge_are_found(tables):
    sessions, train, test = tables
    windows = make_windows(sessions, WINDOW, "delta")
    twice = train.where("ticker = 'A' AND session = '2020-02-01'")
    late = windows.where("ticker = 'B' AND session = '2020-02-08'")
    with pytest.raises(LeakageError) as error:
        audit(sessions, train.unionByName(late), test.unionByName(twice))
    assert error.value.broken == [
        "1 rows are in both train and test",
        "training ends on 2020-02-10, the test begins on 2020-02-01",
        "a ticker has 0 sessions between train and test, the purge is 4",
    ]
    with pytest.raises(LeakageError) as error:
        audit(sessions, train.unionByName(late), test)
    assert error.value.broken == ["a ticker has 3 sessions between train and test, the purge is 4"]


def test_windows_of_other_prices_are_found(tables):
    sessions, train, test = tables
    with pytest.raises(LeakageError) as error:
        audit(sessions.where("ticker = 'C'"), train, test)
    purge, label, lags, feature = error.value.broken
    assert "a ticker has 0 sessions" in purge  # none in these prices
    assert "label of another session" in label
    assert "not from its own past" in lags
    assert "feature lags: " in feature


def test_one_wrong_row_among_all_is_found(tables):
    """One has a wrong label, one a wrong lag, one a session that prices do not hold."""
    sessions, train, test = tables
    rows = train.count() + test.count()
    is_label, is_lag = (
        (F.col("ticker") == "A") & (F.col("session") == day) for day in ("2020-02-20", "2020-02-21")
    )
    changed = test.withColumns(
        {
            "up": F.when(is_label, 1 - F.col("up")).otherwise(F.col("up")).cast("byte"),
            "lag_03": F.when(is_lag, F.col("lag_03") + 1).otherwise(F.col("lag_03")).cast("float"),
        }
    )
    last = test.where("ticker = 'A'").orderBy(F.desc("session")).limit(1)
    after = last.withColumn("session", F.date_add("session", 1))
    with pytest.raises(LeakageError) as error:
        audit(sessions, train, changed.unionByName(after))
    label, lags, again = error.value.broken
    assert label == f"2 of {rows + 1} windows have a label of another session"
    assert lags.startswith(f"2 of {rows + 1} windows hold a body")
    assert again.startswith("feature lags: it knows its own session")  # that of the extra row
