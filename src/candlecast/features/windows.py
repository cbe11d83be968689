"""Candle bodies, labels and windows, in native Spark.

A table of windows has one row per ticker and session:

- ``ticker``, ``session``: as in the prices.
- the columns of the features, float32, such as ``lag_01`` … ``lag_NN``: the candle bodies of the
  `window` sessions before, newest first. They are known before the session opens.
- ``up``: the label, 1 when close > open, else 0 (also when they are equal).
- ``body``: the candle body of the session itself, float64, in the unit of `candle_body`.
- ``return_``: close / open - 1, float64, whatever the body.
- ``previous_up``: ``up`` of the session before, known before the session opens as well.

A window never crosses a ticker and runs over the sessions there are. A session without an open or a
close voids every window that touches it, and so does a missing value of a feature: those rows are
left out.

Prices need the columns ``ticker``, ``session``, ``open`` and ``close``, and those that the features
read, in any order of rows.
"""

from collections.abc import Sequence
from typing import Literal

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from candlecast.features.computing import (
    PRICES,
    add_features,
    by_session,
    feature_columns,
    try_features,
)

Body = Literal["return", "delta"]


def candle_body(body: Body) -> Column:
    """Return the body of a candle, float64; null where the open or the close is missing.

    ``return`` is ``close / open - 1`` (no unit), ``delta`` is ``close - open`` (in the quote's
    currency).
    """
    opened, closed = F.col("open"), F.col("close")
    value = closed / opened - 1 if body == "return" else closed - opened
    return F.when(~F.isnan(value), value)


def make_windows(
    prices: DataFrame, window: int, body: Body, features: Sequence[str] = ("lags",)
) -> DataFrame:
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

    Raises:
        FeatureError: a feature is not registered, or can't be computed.
    """
    try_features(_sessions(prices, body), features, window)
    rows = known_before(prices, window, body, features)
    return rows.select(
        "ticker",
        "session",
        *feature_columns(features, window),
        _up().alias("up"),
        "body",
        (F.col("close") / F.col("open") - 1).alias("return_"),
        "previous_up",
    ).dropna()


def known_before(
    prices: DataFrame, window: int, body: Body, features: Sequence[str] = ("lags",)
) -> DataFrame:
    """Compute what is known before each session: its features and ``previous_up``.

    Training, forecast and audit all compute features here. A session to come is a row with a
    ticker and a date, and nothing else.

    Returns:
        One row per row of `prices`: what a feature may read, the features, and ``previous_up``;
        each is null where it is not known.
    """
    rows = add_features(_sessions(prices, body), features, window)
    return rows.withColumn("previous_up", F.lag(_up()).over(by_session()))


def _sessions(prices: DataFrame, body: Body) -> DataFrame:
    """Return what features may read. A session without open or close is known by date alone."""
    there = [name for name in PRICES if name in prices.columns]
    is_whole = F.col("body").isNotNull()
    known = {name: F.when(is_whole, F.col(name)) for name in there}
    rows = prices.select("ticker", "session", *there, candle_body(body).alias("body"))
    return rows.withColumns(known)


def _up() -> Column:
    return (F.col("close") > F.col("open")).cast("byte")
