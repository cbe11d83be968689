"""Windows and the split by date: written-out frames, and properties of many small ones at once."""

import datetime as dt
from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from candlecast.errors import CandlecastError, NotEnoughDataError
from candlecast.features.definitions import lag_columns
from candlecast.features.split import (
    count_needed_sessions,
    first_test_position,
    purge_before,
    split_by_date,
)
from candlecast.features.windows import known_before, make_windows
from candlecast.models.selection import walk_forward

Candle = tuple[float | None, float | None]
SCHEMA = "ticker string, session date, open double, close double"
FEW = settings(max_examples=4, deadline=None, derandomize=True, database=None)
"""Each example is a Spark job, and holds many cases, one a ticker."""


def day(number: int) -> dt.date:
    """The 1st of January 2024, a Monday, is day 1."""
    return dt.date(2024, 1, 1) + dt.timedelta(days=number - 1)


def prices(spark: SparkSession, candles: dict[str, Sequence[Candle]]) -> DataFrame:
    rows = [
        (ticker, day(number), *candle)
        for ticker, series in candles.items()
        for number, candle in enumerate(series, start=1)
    ]
    return spark.createDataFrame(rows, SCHEMA)


def found(windows: DataFrame) -> dict[tuple[str, int], tuple[float, ...]]:
    """Ticker and day to lags, label and body."""
    rows = [row.asDict() for row in windows.drop("return_", "previous_up").collect()]
    keyed = {
        (row.pop("ticker"), (row.pop("session") - day(0)).days): tuple(row.values()) for row in rows
    }
    assert len(keyed) == len(rows), "a ticker has a session twice"
    return keyed


def expected(candles: dict[str, Sequence[Candle]], window: int) -> dict[tuple[str, int], object]:
    """The returns' windows once more, by plain loops."""
    result: dict[tuple[str, int], object] = {}
    for ticker, series in candles.items():
        for last in range(window, len(series)):
            touched = series[last - window : last + 1]
            if any(value is None or np.isnan(value) for candle in touched for value in candle):
                continue
            bodies = [close / opened - 1 for opened, close in touched]
            lags = [float(np.float32(body)) for body in bodies[-2::-1]]
            result[ticker, last + 1] = (*lags, int(touched[-1][1] > touched[-1][0]), bodies[-1])
    return result


# --- Windows ------------------------------------------------------------------------------------


def test_delta_written_out(spark):
    closes = [11.0, 9.0, 12.0, 10.0, 13.0]
    windows = make_windows(prices(spark, {"A": [(10.0, close) for close in closes]}), 2, "delta")
    assert found(windows) == {
        ("A", 3): (-1.0, 1.0, 1, 2.0),
        ("A", 4): (2.0, -1.0, 0, 0.0),  # an equal close is not up
        ("A", 5): (0.0, 2.0, 1, 3.0),
    }
    assert [row.return_ for row in windows.orderBy("session").collect()] == [
        12.0 / 10.0 - 1,
        0.0,
        13.0 / 10.0 - 1,
    ]


def test_return_written_out(spark):
    candles = [(8.0, 10.0), (10.0, 5.0), (4.0, 4.5), (4.0, 3.0)]
    windows = make_windows(prices(spark, {"A": candles}), 2, "return")
    assert found(windows) == {
        ("A", 3): (-0.5, 0.25, 1, 0.125),
        ("A", 4): (0.125, -0.5, 0, -0.25),
    }


def test_columns_and_types(spark):
    windows = make_windows(prices(spark, {"A": [(10.0, 11.0)] * 4}), 2, "return")
    assert windows.dtypes == [
        ("ticker", "string"),
        ("session", "date"),
        ("lag_01", "float"),
        ("lag_02", "float"),
        ("up", "tinyint"),
        ("body", "double"),
        ("return_", "double"),
        ("previous_up", "tinyint"),
    ]


def test_names_of_lags_sort_newest_first():
    assert lag_columns(2) == ["lag_01", "lag_02"]
    assert lag_columns(100) == sorted(lag_columns(100))
    assert lag_columns(100)[0] == "lag_001"


def test_no_window_crosses_a_ticker(spark):
    windows = make_windows(
        prices(spark, {"A": [(1.0, 2.0)] * 3, "B": [(1.0, 5.0)] * 4, "C": [(1.0, 9.0)] * 2}),
        2,
        "delta",
    )
    assert found(windows) == {
        ("A", 3): (1.0, 1.0, 1, 1.0),
        ("B", 3): (4.0, 4.0, 1, 4.0),
        ("B", 4): (4.0, 4.0, 1, 4.0),
    }


def test_the_previous_direction_is_that_of_the_session_before(spark):
    candles = [(10.0, 11.0), (10.0, 10.0), (10.0, 9.0), (10.0, 12.0), (10.0, 8.0)]
    windows = make_windows(prices(spark, {"A": candles}), 1, "return").orderBy("session")
    assert [(row.up, row.previous_up) for row in windows.collect()] == [
        *((0, 1), (0, 0), (1, 0), (0, 1))
    ]


def known_of(prices: DataFrame, last: int, window: int, body: str) -> dict[str, tuple[float, ...]]:
    """What is known of the day after `last`, by ticker: no more than its date is there."""
    tickers = prices.select("ticker").distinct()
    ahead = tickers.withColumn("session", F.lit(day(last + 1)))
    known = known_before(prices.unionByName(ahead, allowMissingColumns=True), window, body)
    rows = known.where(F.col("session") == F.lit(day(last + 1))).select(
        "ticker", *lag_columns(window), "previous_up"
    )
    return {row.ticker: tuple(row)[1:] for row in rows.dropna().collect()}


def test_what_is_known_of_a_session_to_come_written_out(spark):
    candles = {
        "A": [(8.0, 10.0), (10.0, 5.0), (4.0, 4.5)],
        "short": [(1.0, 2.0)],
        "void": [(1.0, 2.0), (1.0, 3.0), (1.0, None)],
        "gap": [(1.0, None), (1.0, 2.0), (1.0, 3.0)],
    }
    assert known_of(prices(spark, candles), 3, 2, "return") == {
        "A": (0.125, -0.5, 1),
        "gap": (2.0, 1.0, 1),
    }


@pytest.mark.parametrize("body", ["return", "delta"])
def test_the_newest_window_is_the_one_that_training_sees_later(spark, body):
    """Predicted before a session and trained on after it, a window is the same to the bit."""
    random = np.random.default_rng(1)
    candles = {
        name: [tuple(pair) for pair in random.uniform(5, 6, (12, 2)).tolist()] for name in "ABC"
    }
    candles["B"][4] = (5.0, None)  # day 5
    whole = prices(spark, candles)
    later = found(make_windows(whole, 3, body))
    before = {}
    for known in range(3, 12):
        so_far = whole.where(f"session <= DATE'{day(known)}'")
        for ticker, values in known_of(so_far, known, 3, body).items():
            before[ticker, known + 1] = values[:3]
    assert len(before.pop(("B", 5))) == 3  # it had a window, and turned out to have no close
    assert before == {key: values[:3] for key, values in later.items()}
    assert len(before) == 3 * 9 - 4


@pytest.mark.parametrize("body", ["return", "delta"])
def test_fault_07_missing_open_or_close_voids_the_windows_that_touch_it(spark, body):
    whole = [(10.0, 11.0)] * 9
    holes = {
        "null open": (None, 11.0),
        "null close": (10.0, None),
        "NaN open": (float("nan"), 11.0),
        "NaN close": (10.0, float("nan")),
        "neither": (None, float("nan")),
    }
    candles = {name: [*whole[:4], hole, *whole[5:]] for name, hole in holes.items()}
    windows = found(make_windows(prices(spark, {**candles, "whole": whole}), 2, body))
    days = {
        ticker: sorted(number for name, number in windows if name == ticker)
        for ticker in (*holes, "whole")
    }
    # Day 5 has no label; days 6 and 7 look back on it.
    assert days == {"whole": [3, 4, 5, 6, 7, 8, 9]} | {name: [3, 4, 8, 9] for name in holes}


def test_missing_sessions_void_nothing(spark):
    rows = [("A", day(number), 10.0, 10.0 + number) for number in (1, 2, 30, 90)]
    windows = make_windows(spark.createDataFrame(rows, SCHEMA), 2, "delta")
    assert found(windows) == {("A", 30): (2.0, 1.0, 1, 30.0), ("A", 90): (30.0, 2.0, 1, 90.0)}


price = st.floats(1.0, 1000.0, allow_nan=False)
candle = st.tuples(price, price)
hole = st.sampled_from([(None, 2.0), (2.0, None), (float("nan"), 2.0), (2.0, float("nan"))])
history = st.lists(st.one_of(candle, candle, candle, hole), min_size=1, max_size=12)


@FEW
@given(st.lists(history, min_size=15, max_size=15), st.integers(1, 4))
def test_windows_equal_plain_loops(spark, histories, window):
    candles = {f"T{number}": series for number, series in enumerate(histories)}
    windows = make_windows(prices(spark, candles), window, "return")
    assert found(windows) == expected(candles, window)


@FEW
@given(st.lists(st.tuples(history, st.data()), min_size=10, max_size=10), st.integers(1, 3))
def test_a_later_session_changes_no_earlier_window(spark, cases, window):
    candles, changed = {}, {}
    for number, (series, data) in enumerate(cases):
        changed[number] = data.draw(st.integers(1, len(series)))
        other = [*series[: changed[number] - 1], data.draw(candle)]
        candles[f"{number} as it was"] = series
        candles[f"{number} changed"] = [*other, *series[changed[number] :]]
    windows = found(make_windows(prices(spark, candles), window, "return"))
    for number, position in changed.items():
        before, after = (
            {day: row for (name, day), row in windows.items() if name == f"{number} {which}"}
            for which in ("as it was", "changed")
        )
        assert [row for row in before.items() if row[0] < position] == [
            row for row in after.items() if row[0] < position
        ]
        if position in before:  # what is known before the session itself
            assert before[position][:window] == after[position][:window]


@FEW
@given(st.lists(history, min_size=5, max_size=5), st.randoms(use_true_random=False))
def test_order_of_rows_and_columns_changes_nothing(spark, histories, random):
    candles = {f"T{number}": series for number, series in enumerate(histories)}
    ordered = prices(spark, candles)
    rows = [(1e9, row.close, row.ticker, -1.0, row.open, row.session) for row in ordered.collect()]
    random.shuffle(rows)
    shuffled = spark.createDataFrame(
        rows,
        "adj_close double, close double, ticker string, high double, open double, session date",
    )
    assert found(make_windows(shuffled, 2, "return")) == found(make_windows(ordered, 2, "return"))


# --- Split --------------------------------------------------------------------------------------


def dates_by_ticker(frame: DataFrame) -> dict[str, list[int]]:
    days: dict[str, list[int]] = {}
    for row in frame.orderBy("session").collect():
        days.setdefault(row.ticker, []).append((row.session - day(0)).days)
    return days


MIXED = {
    "DAILY": list(range(1, 22)),  # three weeks from a Monday
    "WEEKDAYS": [1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 15, 16, 17, 18, 19],
    "LATE": [18, 19, 20, 21],
}


def mixed(spark: SparkSession) -> DataFrame:
    rows = [(ticker, day(number)) for ticker, days in MIXED.items() for number in days]
    return spark.createDataFrame(rows, "ticker string, session date")


def test_split_dates_written_out(spark):
    train, test = split_by_date(mixed(spark), test_fraction=0.25, purge=4)
    # Of 21 dates the last 6 are for the test. Each ticker leaves out 4 sessions of its own.
    assert dates_by_ticker(test) == {
        "DAILY": [16, 17, 18, 19, 20, 21],
        "WEEKDAYS": [16, 17, 18, 19],
        "LATE": [18, 19, 20, 21],
    }
    assert dates_by_ticker(train) == {
        "DAILY": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
        "WEEKDAYS": [1, 2, 3, 4, 5, 8, 9],
    }
    assert train.columns == test.columns == ["ticker", "session"]


@pytest.mark.parametrize(("test_fraction", "purge"), [(0.2, 0), (0.2, 3), (0.5, 5), (0.9, 1)])
def test_split_keeps_the_purge_and_agrees_with_pandas(spark, test_fraction, purge):
    train, test = (
        dates_by_ticker(part) for part in split_by_date(mixed(spark), test_fraction, purge)
    )
    first_test = min(min(days) for days in test.values())
    for ticker, days in MIXED.items():
        kept, tested = train.get(ticker, []), test.get(ticker, [])
        assert not set(kept) & set(tested)
        if kept:
            between = [number for number in days if max(kept) < number < first_test]
            assert len(between) == purge
    frame = mixed(spark).toPandas().sort_values("session")
    again = frame.iloc[purge_before(frame, day(first_test), purge)]
    assert sorted(zip(again["ticker"], again["session"], strict=True)) == sorted(
        (ticker, day(number)) for ticker, days in train.items() for number in days
    )


def test_share_of_the_dates_that_is_for_the_test():
    assert [first_test_position(10, share) for share in (0.1, 0.2, 0.25, 0.95)] == [
        9,
        8,
        7,
        0,
    ]


def test_no_windows_to_split_is_refused(spark):
    none = make_windows(prices(spark, {"A": [(1.0, 2.0)] * 3}), 3, "return")
    with pytest.raises(NotEnoughDataError):
        split_by_date(none, 0.2, 3)


def test_purge_before_gives_the_places_of_rows():
    frame = pd.DataFrame({"ticker": list("ABBAAB"), "session": [1, 1, 2, 2, 3, 3]}, range(9, 3, -1))
    assert purge_before(frame, 3, purge=1).tolist() == [0, 1]
    assert purge_before(frame, 3, purge=0).tolist() == [0, 1, 2, 3]
    assert purge_before(frame, 3, purge=2).tolist() == []


# --- How much history is needed -------------------------------------------------------------------


def first_fold(
    sessions: int, window: int, purge: int, folds: int, test_fraction: float
) -> int | None:
    """Sessions that the first fold trains on, by the real split and folds; None: no folds."""
    windows = pd.DataFrame({"ticker": "A", "session": range(window, sessions)})
    first_test = window + first_test_position(len(windows), test_fraction)
    train = windows.iloc[purge_before(windows, first_test, purge)]
    try:
        return min(len(past) for past, _ in walk_forward(train, folds, purge))
    except CandlecastError:
        return None


@pytest.mark.parametrize(
    ("window", "purge", "folds", "test_fraction", "fewest"),
    [
        (14, 14, 5, 0.2, 20),
        *product([1, 5], [0, 3], [2, 5], [0.07, 0.2, 0.5, 0.95], [1, 2, 9]),
    ],
)
def test_sessions_needed_is_the_smallest_that_works(window, purge, folds, test_fraction, fewest):
    needed = count_needed_sessions(window, purge, folds, test_fraction, fewest)
    enough = [
        (first_fold(sessions, window, purge, folds, test_fraction) or 0) >= fewest
        for sessions in range(needed - 1, needed + 2 * folds + 5)
    ]
    assert enough == [False] + [True] * (len(enough) - 1)


def test_fault_20_sessions_needed_by_default():
    assert count_needed_sessions(14, 14, 5, 0.2, 20) == 281
    assert first_fold(281, 14, 14, 5, 0.2) == 20
    assert first_fold(280, 14, 14, 5, 0.2) == 19
