"""How features are registered by name, and computed.

A feature is a function in `candlecast.features.definitions`; the first line of its docstring is
what report and card say that the model sees. docs/extend.md shows one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import FloatType, StructField, StructType
from pyspark.sql.window import Window

from candlecast.errors import FeatureError
from candlecast.frames import to_pandas

if TYPE_CHECKING:
    from pyspark.sql.window import WindowSpec

PRICES = ("open", "high", "low", "close", "volume", "dividends", "stock_splits")
READABLE = ("ticker", "session", *PRICES, "body")
"""What a feature may read. ``adj_close`` is not among them: it carries later dividends."""

NOT_FEATURES = ("ticker", "session", "up", "body", "return_", "previous_up")
"""The columns of windows that no model may see; all others are features."""

ColumnFunction = Callable[[], Column]
SessionsFunction = Callable[[pd.DataFrame], "pd.Series[Any]"]


@dataclass(frozen=True)
class Feature:
    """A registered feature.

    Attributes:
        sentence: what it is, in words; may hold ``{window}``.
        columns: its columns, given the parameter `window`.
        expressions: the values of its columns, given the same; None: it is a function of sessions.
        of_sessions: a function from a ticker's sessions, ascending, to its only column.
        reach: given the same, how many sessions of the row's own ticker before it are all that it
            looks at, if that is so; the audit then computes it on no more. None: it may look at
            anything.
    """

    sentence: str
    columns: Callable[[int], list[str]]
    expressions: Callable[[int], list[Column]] | None = None
    of_sessions: SessionsFunction | None = None
    reach: Callable[[int], int] | None = None


FEATURES: dict[str, Feature] = {}
"""All features by name."""


def feature(function: ColumnFunction) -> ColumnFunction:
    """Register a function that returns a Spark column over earlier sessions."""
    register(function, expressions=lambda window: [_finite(function())])
    return function


def feature_of_sessions(function: SessionsFunction) -> SessionsFunction:
    """Register a function from one ticker's sessions, ascending, to a value for each of them.

    It gets the columns of `READABLE`. Spark calls it once per ticker.
    """
    register(function, of_sessions=function)
    return function


def register(
    function: Callable[..., object],
    columns: Callable[[int], list[str]] | None = None,
    **values: Any,
) -> None:
    """Register a feature under the name of a function, without a final underscore.

    Raises:
        FeatureError: the name is that of another column, or there is no docstring.
    """
    name = function.__name__.rstrip("_")
    if name in {*READABLE, *NOT_FEATURES, "adj_close", "probability"}:
        raise FeatureError(name, "this is the name of another column")
    [sentence, *_] = (function.__doc__ or "").strip().splitlines() or [""]
    if not sentence:
        raise FeatureError(name, "it has no docstring, whose first line is shown in the report")
    words = sentence[0].lower() + sentence[1:].rstrip(".")
    FEATURES[name] = Feature(words, columns or (lambda window: [name]), **values)


def find_features(names: Sequence[str]) -> dict[str, Feature]:
    """Return registered features by name, in the order of `names`.

    Raises:
        FeatureError: one is not registered.
    """
    for name in names:
        if name not in FEATURES:
            near = get_close_matches(name, FEATURES, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(FEATURES)}"
            raise FeatureError(name, f"it is not registered; {advice}")
    return {name: FEATURES[name] for name in names}


def feature_columns(names: Sequence[str], window: int) -> list[str]:
    """Return the columns of features, in order.

    >>> feature_columns(["lags", "weekday"], window=2)
    ['lag_01', 'lag_02', 'weekday']
    """
    found = find_features(names).values()
    return [column for feature in found for column in feature.columns(window)]


# --- For those who write features -----------------------------------------------------------------


def by_session() -> "WindowSpec":
    """Return all sessions of the row's ticker, ascending; for ``lag``."""
    return Window.partitionBy("ticker").orderBy("session")


def over_earlier(
    aggregate: Callable[[Column], Column], value: Column | str, sessions: int
) -> Column:
    """Return an aggregate of a value over so many sessions before the row's own.

    It is null unless all of them have the value: nothing is filled.
    """
    column = F.col(value) if isinstance(value, str) else value
    earlier = by_session().rowsBetween(-sessions, -1)
    whole = F.count(column).over(earlier) == sessions
    return F.when(whole, aggregate(column).over(earlier))


# --- Computing ------------------------------------------------------------------------------------


def add_features(sessions: DataFrame, names: Sequence[str], window: int) -> DataFrame:
    """Add the columns of features, float32; null where a value is missing.

    Args:
        sessions: one row per ticker and session, with columns of `READABLE`.
        names: of the features.
        window: the parameter.
    """
    chosen = find_features(names)
    expressions = [
        value.cast("float").alias(column)
        for each in chosen.values()
        if each.expressions
        for column, value in zip(each.columns(window), each.expressions(window), strict=True)
    ]
    rows = sessions.select("*", *expressions)
    functions = {name: each.of_sessions for name, each in chosen.items() if each.of_sessions}
    if not functions:
        return rows
    readable = [name for name in sessions.columns if name in READABLE]

    def add(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows.sort_values("session", ignore_index=True)
        for name, function in functions.items():
            rows[name] = _of_sessions(function, rows[readable])
        return rows

    added = [StructField(name, FloatType()) for name in functions]
    computed = rows.groupBy("ticker").applyInPandas(add, StructType([*rows.schema.fields, *added]))
    return computed.select(*rows.columns, *(_finite(F.col(name)).alias(name) for name in functions))


def try_features(sessions: DataFrame, names: Sequence[str], window: int) -> None:
    """Compute each feature as far as it takes to know that it can be computed.

    Spark analyses a column. A function of sessions is called here with those of one ticker, so that
    its own error arrives instead of Spark's.

    Args:
        sessions: one row per ticker and session, with columns of `READABLE` alone.
        names: of the features.
        window: the parameter.

    Raises:
        FeatureError: one can't be computed.
    """
    chosen = find_features(names)
    if any(each.of_sessions for each in chosen.values()):
        first = sessions.join(sessions.agg(F.min("ticker").alias("ticker")), "ticker", "left_semi")
        one = to_pandas(first).sort_values("session", ignore_index=True)
    for name, each in chosen.items():
        try:
            if each.expressions:
                _ = sessions.select(*each.expressions(window)).schema  # Spark Connect is lazy
            elif each.of_sessions:
                _of_sessions(each.of_sessions, one)
        except Exception as error:
            [cause, *_] = str(error).splitlines() or [""]
            raise FeatureError(
                name,
                f"{type(error).__name__}: {cause.rstrip('.')}. It may read {', '.join(READABLE)}; "
                "not adj_close, which carries later dividends.",
            ) from error


def _finite(value: Column) -> Column:
    """Return a value, null where it is not finite as float32."""
    number = value.cast("float")
    return F.when(F.abs(number) < F.lit(math.inf), number)  # NaN is above all other numbers


def _of_sessions(function: SessionsFunction, sessions: pd.DataFrame) -> "pd.Series[Any]":
    """Return the values of a function of sessions, one per row of `sessions`."""
    dates = pd.to_datetime(sessions["session"]).astype("datetime64[ns]")
    values = pd.Series(function(sessions.assign(session=dates)), dtype="float32")
    if not values.index.equals(sessions.index):
        raise ValueError("it must return a value for each of the sessions, with their index")
    return values
