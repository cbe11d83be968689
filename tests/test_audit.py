"""The leakage audit finds what it is for: every kind of leak, planted one at a time."""

import datetime as dt

import pytest
from pyspark.sql import functions as F
from pyspark.sql.window import Window

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
    assert (dates[0], dates[-1], len(dates)) == ("2020-01-04", "2020-02-29", 5)
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
    close = windows.where("ticker = 'B' AND session = '2020-02-08'")
    twice = test.where("ticker = 'A'").limit(1)
    with pytest.raises(LeakageError) as error:
        audit(sessions, train.unionByName(close), test)
    assert error.value.broken == ["a ticker has 3 sessions between train and test, the purge is 4"]
    with pytest.raises(LeakageError, match="1 rows are in both train and test"):
        audit(sessions, train.unionByName(twice), test)


def test_windows_of_other_prices_are_found(tables):
    sessions, train, test = tables
    with pytest.raises(LeakageError) as error:
        audit(sessions.where("ticker = 'C'"), train, test)
    label, lags, feature = error.value.broken
    assert "label of another session" in label
    assert "not from its own past" in lags
    assert "feature lags: " in feature


def test_one_wrong_row_among_all_is_found(tables):
    """A label, a lag, a window of a session that prices do not hold: each in one row."""
    sessions, train, test = tables
    rows = train.count() + test.count()
    at = (F.col("ticker") == "A") & (F.col("session") == "2020-02-20")
    for column, value in (("up", 1 - F.col("up")), ("lag_03", F.col("lag_03") + 1)):
        changed = test.withColumn(column, F.when(at, value).otherwise(F.col(column)))
        cast = changed.withColumn(column, F.col(column).cast(test.schema[column].dataType))
        with pytest.raises(LeakageError, match=f"1 of {rows} windows") as error:
            audit(sessions, train, cast)
        assert len(error.value.broken) == 1
    last = test.where("ticker = 'A'").orderBy(F.desc("session")).limit(1)
    after = last.withColumn("session", F.date_add("session", 1))
    with pytest.raises(LeakageError, match=f"1 of {rows + 1} windows"):
        audit(sessions, train, test.unionByName(after))


def test_labels_of_the_session_after_are_found(tables):
    sessions, train, test = tables
    following = Window.partitionBy("ticker").orderBy("session")
    shifted = test.withColumn("up", F.lead("up").over(following)).dropna()
    with pytest.raises(LeakageError, match="have a label of another session"):
        audit(sessions, train, shifted)
