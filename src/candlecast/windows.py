"""Candle bodies, labels, windows and the split by date, in native Spark.

The window arithmetic of the project exists here once: training and forecast both call
`add_windows`.
"""

import math
from collections.abc import Sequence
from typing import Literal, TypeVar

import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window

Feature = Literal["return", "delta"]
T = TypeVar("T")


def lag_columns(window: int) -> list[str]:
    """The names of the features, newest body first.

    >>> lag_columns(3)
    ['lag_01', 'lag_02', 'lag_03']
    """
    width = max(2, len(str(window)))
    return [f"lag_{lag:0{width}d}" for lag in range(1, window + 1)]


def body(feature: Feature) -> Column:
    """The body of a candle: ``close / open - 1`` (no unit) or ``close - open`` (the quote's currency).

    Null where the open or the close is missing; it is never filled.
    """
    value = (
        F.col("close") / F.col("open") - 1
        if feature == "return"
        else F.col("close") - F.col("open")
    )
    return F.when(~F.isnan(value), value)


def add_windows(prices: DataFrame, window: int, feature: Feature) -> DataFrame:
    """Turn sessions into windows: what was known before a session, and what became of it.

    Args:
        prices: one row a ticker and session, with ``open`` and ``close``.
        window: candle bodies before the session.
        feature: see `body`.

    Returns:
        One row a ticker and session: ``ticker``, ``session``, ``lag_01`` … ``lag_NN`` (the bodies of the sessions
        before, newest first, float32), ``up`` (1 when close > open, else 0), ``body`` and ``return_`` (close / open - 1). A window never crosses a
        ticker and runs over the sessions there are; a session without an open or a close leaves a gap that voids
        every window that touches it, so those rows and the first `window` of a ticker are not there.

    With closes that lie 1, -1, 2, 3 above opens of 10 on four days and a window of 2, ``feature="delta"`` gives two
    rows: ``lag_01, lag_02, up, body`` = ``-1, 1, 1, 2`` and ``2, -1, 1, 3``.
    """
    by_session = Window.partitionBy("ticker").orderBy("session")
    names = lag_columns(window)
    candles = prices.select("ticker", "session", "open", "close", body(feature).alias("body"))
    rows = candles.select(
        "ticker",
        "session",
        *(
            F.lag("body", lag).over(by_session).cast("float").alias(name)
            for lag, name in enumerate(names, start=1)
        ),
        (F.col("close") > F.col("open")).cast("byte").alias("up"),
        "body",
        (F.col("close") / F.col("open") - 1).alias("return_"),
    )
    return rows.dropna(subset=[*names, "body"])


def first_test_position(dates: Sequence[T], test_fraction: float) -> int:
    """Where the test set begins among the sorted session dates: the last ``ceil(test_fraction *
    dates)`` are tested on.

    >>> first_test_position(range(10), 0.25)
    7
    """
    return len(dates) - math.ceil(test_fraction * len(dates))


def split_windows(
    windows: DataFrame, test_fraction: float, purge: int
) -> tuple[DataFrame, DataFrame]:
    """Split windows by session date, across all tickers at once.

    Args:
        windows: one row a ticker and session.
        test_fraction: share of the distinct session dates that are tested on, the last ones.
        purge: rows of each ticker that are left out before the first test date, so that at least as many of its own
            sessions lie between anything trained on and anything scored, whatever calendar the other tickers keep.

    Returns:
        ``(train, test)``, both with the columns and the grain of `windows`.
    """
    dates = sorted(row["session"] for row in windows.select("session").distinct().collect())
    first_test = dates[first_test_position(dates, test_fraction)]
    latest_first = Window.partitionBy("ticker").orderBy(F.desc("session"))
    train = (
        windows.where(F.col("session") < F.lit(first_test))
        .withColumn("_age", F.row_number().over(latest_first))
        .where(F.col("_age") > purge)
        .drop("_age")
    )
    return train, windows.where(F.col("session") >= F.lit(first_test))


def purge_before(frame: pd.DataFrame, first_scored: object, purge: int) -> pd.DataFrame:
    """The rows of a pandas frame that may be trained on when `first_scored` is the first session scored.

    The same rule as in `split_windows`: of each ticker, all rows before that session but the last `purge`.

    >>> days = pd.DataFrame({"ticker": "A", "session": [1, 2, 3, 4, 5]})
    >>> purge_before(days, first_scored=4, purge=1)["session"].tolist()
    [1, 2]
    """
    before = frame[frame["session"] < first_scored].sort_values(["ticker", "session"])
    age = before.groupby("ticker").cumcount(ascending=False)
    return before[age >= purge]


def sessions_needed(
    window: int, purge: int, folds: int, test_fraction: float, min_training_sessions: int
) -> int:
    """The fewest sessions of history that a window, the split and the walk-forward folds leave
    something to learn from.

    Folds are equal blocks of dates, the first of which (less the purge) must keep `min_training_sessions`.

    >>> sessions_needed(window=14, purge=14, folds=5, test_fraction=0.2, min_training_sessions=20)
    287
    """
    training = (folds + 1) * (purge + min_training_sessions)
    return math.ceil((training + purge) / (1 - test_fraction)) + window
