"""Candle bodies, labels and windows, in native Spark.

A table of windows has one row per ticker and session:

- ``ticker``, ``session``: as in the prices.
- ``lag_01`` … ``lag_NN``: the candle bodies of the `window` sessions before, newest first, float32.
  They are known before the session opens; all other columns are known once it has closed.
- ``up``: the label, 1 when close > open, else 0 (also when they are equal).
- ``body``: the candle body of the session itself, float64, in the unit of `candle_body`.
- ``return_``: close / open - 1, float64, whatever the body.

A window never crosses a ticker and runs over the sessions there are. A session without an open or a
close voids every window that touches it: those rows are left out, and so are the first `window`
sessions of a ticker.

Prices need the columns ``ticker``, ``session``, ``open`` and ``close``, in any order of rows.
`make_windows` is for sessions that have closed, `newest_windows` for the next one.
"""

from collections.abc import Sequence
from typing import Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window

Body = Literal["return", "delta"]

NOT_FEATURES = ("ticker", "session", "up", "body", "return_")
"""The columns of windows that no model may see; all others are features."""


def lag_columns(window: int) -> list[str]:
    """Return the names of the lags, newest first.

    >>> lag_columns(3)
    ['lag_01', 'lag_02', 'lag_03']
    """
    width = max(2, len(str(window)))
    return [f"lag_{lag:0{width}d}" for lag in range(1, window + 1)]


def candle_body(body: Body) -> Column:
    """Return the body of a candle, float64; null where the open or the close is missing.

    ``return`` is ``close / open - 1`` (no unit), ``delta`` is ``close - open`` (in the quote's
    currency).
    """
    opened, closed = F.col("open"), F.col("close")
    value = closed / opened - 1 if body == "return" else closed - opened
    return F.when(~F.isnan(value), value)


def make_windows(prices: DataFrame, window: int, body: Body) -> DataFrame:
    """Turn prices into windows: what was known before each session, and its outcome.

    >>> gains = [1.0, -1.0, 2.0, 0.0, 3.0]
    >>> prices = spark.createDataFrame(
    ...     [("A", day, 10.0, 10.0 + gain) for day, gain in enumerate(gains, start=1)],
    ...     "ticker string, session int, open double, close double",
    ... )
    >>> windows = make_windows(prices, window=2, body="delta")
    >>> windows.select("session", "lag_01", "lag_02", "up", "body").show()
    +-------+------+------+---+----+
    |session|lag_01|lag_02| up|body|
    +-------+------+------+---+----+
    |      3|  -1.0|   1.0|  1| 2.0|
    |      4|   2.0|  -1.0|  0| 0.0|
    |      5|   0.0|   2.0|  1| 3.0|
    +-------+------+------+---+----+
    <BLANKLINE>
    """
    names = lag_columns(window)
    rows = _candles(prices, body).select(
        "ticker",
        "session",
        *_lags(names, ahead=0),
        (F.col("close") > F.col("open")).cast("byte").alias("up"),
        "body",
        (F.col("close") / F.col("open") - 1).alias("return_"),
    )
    return rows.dropna(subset=[*names, "body"])


def newest_windows(prices: DataFrame, window: int, body: Body) -> DataFrame:
    """Return what is known of each ticker before its next session, one row per ticker.

    Beside ``ticker`` and ``last_session`` it has the lags that `make_windows` returns once the next
    session has closed. A ticker whose newest window is void, or not full, has no row.

    >>> gains = [1.0, -1.0, 2.0]
    >>> prices = spark.createDataFrame(
    ...     [("A", day, 10.0, 10.0 + gain) for day, gain in enumerate(gains, start=1)],
    ...     "ticker string, session int, open double, close double",
    ... )
    >>> newest_windows(prices, window=2, body="delta").show()
    +------+------------+------+------+
    |ticker|last_session|lag_01|lag_02|
    +------+------------+------+------+
    |     A|           3|   2.0|  -1.0|
    +------+------------+------+------+
    <BLANKLINE>
    """
    names = lag_columns(window)
    newest_first = Window.partitionBy("ticker").orderBy(F.desc("session"))
    rows = _candles(prices, body).select(
        "ticker",
        F.col("session").alias("last_session"),
        *_lags(names, ahead=1),
        F.row_number().over(newest_first).alias("_age"),
    )
    return rows.where(F.col("_age") == 1).drop("_age").dropna(subset=names)


def _candles(prices: DataFrame, body: Body) -> DataFrame:
    return prices.select("ticker", "session", "open", "close", candle_body(body).alias("body"))


def _lags(names: Sequence[str], ahead: int) -> list[Column]:
    """Return the bodies before the session that is `ahead` sessions after the row's own."""
    by_session = Window.partitionBy("ticker").orderBy("session")
    return [
        F.lag("body", lag - ahead).over(by_session).cast("float").alias(name)
        for lag, name in enumerate(names, start=1)
    ]
