"""The split of windows by session date, with a purge between train and test."""

import math
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from candlecast.errors import NotEnoughDataError


def first_test_position(dates: int, test_fraction: float) -> int:
    """Return how many session dates are before the test: all but ``ceil(test_fraction * dates)``.

    >>> first_test_position(10, 0.25)
    7
    """
    return dates - math.ceil(test_fraction * dates)


def split_by_date(
    windows: DataFrame, test_fraction: float, purge: int
) -> tuple[DataFrame, DataFrame]:
    """Split windows by session date, the same date for all tickers.

    >>> days = [("A", day) for day in range(1, 6)]
    >>> windows = spark.createDataFrame(days, "ticker string, session int")
    >>> train, test = split_by_date(windows, test_fraction=0.4, purge=1)
    >>> [sorted(row.session for row in part.collect()) for part in (train, test)]
    [[1, 2], [4, 5]]

    Args:
        windows: one row per ticker and session.
        test_fraction: share of the distinct session dates (the last ones) in the test set.
        purge: rows of each ticker that are left out before the first test date, so that at least as
            many of its own sessions are between training and test, whatever calendar the other
            tickers have.

    Returns:
        ``(train, test)``, with the columns and the grain of `windows`. A ticker without a session
        before the first test date is in the test set only.

    Raises:
        NotEnoughDataError: there are no windows.
    """
    dates = sorted(row["session"] for row in windows.select("session").distinct().collect())
    if not dates:
        raise NotEnoughDataError(
            "There are no windows to split: no ticker has enough sessions in a row, with an open "
            "and a close, to fill one. Request an earlier start or other tickers, or lower window."
        )
    first_test = F.lit(dates[first_test_position(len(dates), test_fraction)])
    latest_first = Window.partitionBy("ticker").orderBy(F.desc("session"))
    train = (
        windows.where(F.col("session") < first_test)
        .withColumn("_age", F.row_number().over(latest_first))
        .where(F.col("_age") > purge)
        .drop("_age")
    )
    return train, windows.where(F.col("session") >= first_test)


def purge_before(frame: pd.DataFrame, first: Any, purge: int) -> "npt.NDArray[np.intp]":
    """Find the windows that may be trained on when predictions begin with the session `first`.

    The rule of `split_by_date`, in pandas: of each ticker, all rows before that session but the
    last `purge`.

    >>> days = pd.DataFrame({"ticker": "A", "session": [1, 2, 3, 4, 5]})
    >>> days["session"].iloc[purge_before(days, first=4, purge=1)].tolist()
    [1, 2]

    Args:
        frame: windows, sorted by session.
        first: a session.
        purge: rows of each ticker.

    Returns:
        Their positions in `frame`, ascending.
    """
    before = frame["ticker"].iloc[: frame["session"].searchsorted(first)].reset_index(drop=True)
    newest = before.groupby(before, sort=False).tail(purge).index
    return np.delete(np.arange(len(before)), newest)


def count_needed_sessions(
    window: int, purge: int, folds: int, test_fraction: float, min_training_sessions: int
) -> int:
    """Return the fewest distinct session dates with which every walk-forward fold has enough.

    It is exact for tickers of one calendar without missing prices: with one session fewer, the
    first fold trains on fewer than `min_training_sessions` (after its purge). Of the training dates
    ``dates - folds * (dates // (folds + 1))`` are before the first fold, see scikit-learn's
    ``TimeSeriesSplit``.

    >>> count_needed_sessions(
    ...     window=14, purge=14, folds=5, test_fraction=0.2, min_training_sessions=20
    ... )
    281
    """
    training = max((folds + 1) * (purge + min_training_sessions - 1) + 1, folds + 1)
    before_test = training + purge
    enough = (n for n in count(1) if first_test_position(n, test_fraction) >= before_test)
    return window + next(enough)
