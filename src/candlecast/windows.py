"""Candle bodies, labels, windows and the split by date, in native Spark.

The window arithmetic of the project exists here once: whatever needs windows calls
`add_windows`, or `newest_windows` for the session that is still to come.
"""

import math
from collections.abc import Sequence
from itertools import count
from typing import Literal, TypeVar

import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from candlecast.errors import CandlecastError

Feature = Literal["return", "delta"]
T = TypeVar("T")


def lag_columns(window: int) -> list[str]:
    """Name the features, newest body first.

    >>> lag_columns(3)
    ['lag_01', 'lag_02', 'lag_03']
    """
    width = max(2, len(str(window)))
    return [f"lag_{lag:0{width}d}" for lag in range(1, window + 1)]


def body(feature: Feature) -> Column:
    """Give the body of a candle as a column of ``open`` and ``close``.

    Args:
        feature: ``return`` is ``close / open - 1`` (no unit), ``delta`` is ``close - open`` (in the
            quote's currency).

    Returns:
        The body, float64; null where the open or the close is missing. It is never filled.
    """
    value = (
        F.col("close") / F.col("open") - 1
        if feature == "return"
        else F.col("close") - F.col("open")
    )
    return F.when(~F.isnan(value), value)


def add_windows(prices: DataFrame, window: int, feature: Feature) -> DataFrame:
    """Turn sessions into windows: what was known before a session, and what became of it.

    A window never crosses a ticker and runs over the sessions there are. A session without an open
    or a close voids every window that touches it: those rows are not there, and neither are the
    first `window` sessions of a ticker.

    >>> gains = [1.0, -1.0, 2.0, 0.0, 3.0]
    >>> prices = spark.createDataFrame(
    ...     [("A", day, 10.0, 10.0 + gain) for day, gain in enumerate(gains, start=1)],
    ...     "ticker string, session int, open double, close double",
    ... )
    >>> windows = add_windows(prices, window=2, feature="delta")
    >>> windows.select("session", "lag_01", "lag_02", "up", "body").show()
    +-------+------+------+---+----+
    |session|lag_01|lag_02| up|body|
    +-------+------+------+---+----+
    |      3|  -1.0|   1.0|  1| 2.0|
    |      4|   2.0|  -1.0|  0| 0.0|
    |      5|   0.0|   2.0|  1| 3.0|
    +-------+------+------+---+----+
    <BLANKLINE>

    Args:
        prices: one row a ticker and session, in any order, with ``open`` and ``close`` in the
            quote's currency. Columns are taken by name; others are ignored.
        window: candle bodies before the session.
        feature: what a body is, see `body`.

    Returns:
        One row a ticker and session: ``ticker``, ``session``, ``lag_01`` … ``lag_NN`` (the bodies
        of the `window` sessions before, newest first, float32), ``up`` (1 when close > open, else
        0, so an equal close is not up), ``body`` (of the session itself, float64) and ``return_``
        (close / open - 1, float64, whatever the feature).
    """
    names = lag_columns(window)
    rows = _candles(prices, feature).select(
        "ticker",
        "session",
        *_lags(names, ahead=0),
        (F.col("close") > F.col("open")).cast("byte").alias("up"),
        "body",
        (F.col("close") / F.col("open") - 1).alias("return_"),
    )
    return rows.dropna(subset=[*names, "body"])


def newest_windows(prices: DataFrame, window: int, feature: Feature) -> DataFrame:
    """Give what is known of each ticker before its next session.

    >>> gains = [1.0, -1.0, 2.0]
    >>> prices = spark.createDataFrame(
    ...     [("A", day, 10.0, 10.0 + gain) for day, gain in enumerate(gains, start=1)],
    ...     "ticker string, session int, open double, close double",
    ... )
    >>> newest_windows(prices, window=2, feature="delta").show()
    +------+------------+------+------+
    |ticker|last_session|lag_01|lag_02|
    +------+------------+------+------+
    |     A|           3|   2.0|  -1.0|
    +------+------------+------+------+
    <BLANKLINE>

    Args:
        prices: as for `add_windows`.
        window: candle bodies before the next session.
        feature: what a body is, see `body`.

    Returns:
        One row a ticker: ``ticker``, ``last_session`` (the last there is) and ``lag_01`` …
        ``lag_NN``, the same as `add_windows` gives once the next session is there. A ticker whose
        newest window is void, or not full, has no row.
    """
    names = lag_columns(window)
    newest_first = Window.partitionBy("ticker").orderBy(F.desc("session"))
    rows = _candles(prices, feature).select(
        "ticker",
        F.col("session").alias("last_session"),
        *_lags(names, ahead=1),
        F.row_number().over(newest_first).alias("_age"),
    )
    return rows.where(F.col("_age") == 1).drop("_age").dropna(subset=names)


def _candles(prices: DataFrame, feature: Feature) -> DataFrame:
    return prices.select("ticker", "session", "open", "close", body(feature).alias("body"))


def _lags(names: Sequence[str], ahead: int) -> list[Column]:
    """Give the bodies before the session that lies `ahead` sessions after the row's own."""
    by_session = Window.partitionBy("ticker").orderBy("session")
    return [
        F.lag("body", lag - ahead).over(by_session).cast("float").alias(name)
        for lag, name in enumerate(names, start=1)
    ]


def first_test_position(dates: Sequence[T], test_fraction: float) -> int:
    """Find where the test set begins among the sorted session dates.

    The last ``ceil(test_fraction * dates)`` are tested on.

    >>> first_test_position(range(10), 0.25)
    7
    """
    return len(dates) - math.ceil(test_fraction * len(dates))


def split_windows(
    windows: DataFrame, test_fraction: float, purge: int
) -> tuple[DataFrame, DataFrame]:
    """Split windows by session date, across all tickers at once.

    >>> days = [("A", day) for day in range(1, 6)]
    >>> windows = spark.createDataFrame(days, "ticker string, session int")
    >>> train, test = split_windows(windows, test_fraction=0.4, purge=1)
    >>> [sorted(row.session for row in part.collect()) for part in (train, test)]
    [[1, 2], [4, 5]]

    Args:
        windows: one row a ticker and session.
        test_fraction: share of the distinct session dates that are tested on, the last ones.
        purge: rows of each ticker that are left out before the first test date, so that at least as
            many of its own sessions lie between anything trained on and anything scored, whatever
            calendar the other tickers keep.

    Returns:
        ``(train, test)``, both with the columns and the grain of `windows`. A ticker that has no
        session before the first test date is in the test set only.

    Raises:
        CandlecastError: there are no windows.
    """
    dates = sorted(row["session"] for row in windows.select("session").distinct().collect())
    if not dates:
        raise CandlecastError(
            "There are no windows to split: no ticker has enough sessions in a row, with an open "
            "and a close, to fill one. Ask for an earlier start or other tickers, or lower window."
        )
    first_test = F.lit(dates[first_test_position(dates, test_fraction)])
    latest_first = Window.partitionBy("ticker").orderBy(F.desc("session"))
    train = (
        windows.where(F.col("session") < first_test)
        .withColumn("_age", F.row_number().over(latest_first))
        .where(F.col("_age") > purge)
        .drop("_age")
    )
    return train, windows.where(F.col("session") >= first_test)


def purge_before(frame: pd.DataFrame, first_scored: object, purge: int) -> pd.DataFrame:
    """Keep the rows that may be trained on when `first_scored` is the first session scored.

    The rule of `split_windows`, in pandas: of each ticker, all rows before that session but the
    last `purge`.

    >>> days = pd.DataFrame({"ticker": "A", "session": [1, 2, 3, 4, 5]})
    >>> purge_before(days, first_scored=4, purge=1)["session"].tolist()
    [1, 2]

    Args:
        frame: windows, one row a ticker and session, in any order.
        first_scored: a session, of the type of ``frame["session"]``.
        purge: rows of each ticker.

    Returns:
        The rows of `frame` that are kept, in its order.
    """
    before = frame[frame["session"] < first_scored]
    age = before.groupby("ticker")["session"].rank(method="first", ascending=False)
    return before[age > purge]


def sessions_needed(
    window: int, purge: int, folds: int, test_fraction: float, min_training_sessions: int
) -> int:
    """Count the sessions from which every walk-forward fold has enough to learn from.

    It is exact where the tickers keep one calendar and miss no price: with one session less the
    first fold trains on less than `min_training_sessions`, with more sessions it never does. The
    dates before a fold are ``dates - folds * (dates // (folds + 1))`` at least, as scikit-learn's
    ``TimeSeriesSplit`` makes them.

    >>> sessions_needed(window=14, purge=14, folds=5, test_fraction=0.2, min_training_sessions=20)
    281

    Args:
        window: candle bodies before a session.
        purge: sessions between training and anything scored.
        folds: walk-forward folds inside the training period.
        test_fraction: share of the window dates that are tested on.
        min_training_sessions: sessions that the first fold trains on, after its purge.

    Returns:
        The number of distinct session dates of the prices.
    """
    training = max((folds + 1) * (purge + min_training_sessions - 1) + 1, folds + 1)
    before_test = training + purge
    fewest = max(1, math.floor(before_test / (1 - test_fraction)) - 1)
    return window + next(
        dates
        for dates in count(fewest)
        if first_test_position(range(dates), test_fraction) >= before_test
    )
