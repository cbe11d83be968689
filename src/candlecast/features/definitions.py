"""The features that the parameter ``features`` can name; add your own at the end.

Every run proves that no feature knows its own session or a later one; see docs/extend.md.
"""

from pyspark.sql import Column
from pyspark.sql import functions as F

from candlecast.features.computing import by_session, feature, over_earlier, register


def lag_columns(window: int) -> list[str]:
    """Return the names of the lags, newest first.

    >>> lag_columns(3)
    ['lag_01', 'lag_02', 'lag_03']
    """
    width = max(2, len(str(window)))
    return [f"lag_{lag:0{width}d}" for lag in range(1, window + 1)]


def lags(window: int) -> list[Column]:
    """The candle bodies of the {window} sessions before."""
    sessions = by_session()
    return [F.lag("body", lag).over(sessions) for lag in range(1, window + 1)]


register(lags, columns=lag_columns, expressions=lags, reach=lambda window: window)


@feature
def volatility() -> Column:
    """The standard deviation of the candle bodies of the 20 sessions before."""
    return over_earlier(F.stddev, "body", sessions=20)


@feature
def range_() -> Column:
    """The range of the session before, high / low - 1."""
    return over_earlier(F.max, F.col("high") / F.col("low") - 1, sessions=1)


@feature
def volume_change() -> Column:
    """The change of the volume in the session before."""
    newest, before = (F.lag("volume", n).over(by_session()) for n in (1, 2))
    return F.try_divide(newest, before) - 1


@feature
def weekday() -> Column:
    """The weekday of the session, 0 for Monday."""
    return F.weekday("session")
