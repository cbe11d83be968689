"""The leakage audit of every run: nothing that is scored was known when the model was trained.

It derives again, by other means than the window arithmetic, what must hold of the tables.
"""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from candlecast.errors import CandlecastError
from candlecast.windows import Feature, body, lag_columns


class LeakageError(CandlecastError):
    """A table breaks the separation of past and future; what was trained on it is worth nothing."""

    def __init__(self, broken: list[str]):
        self.broken = broken
        super().__init__(
            "The leakage audit failed, so nothing is trained: "
            + "; ".join(broken)
            + ". Windows or "
            "split were changed wrongly, or a table by another hand: run again from the start."
        )


def audit_leakage(
    sessions: DataFrame,
    train: DataFrame,
    test: DataFrame,
    window: int,
    feature: Feature,
    purge: int,
) -> dict[str, int | str]:
    """Audit the two sets against the sessions that they were made of.

    Args:
        sessions: prices, one row a ticker and session, as the windows were made of them.
        train: windows to train on.
        test: windows to score.
        window: candle bodies a window.
        feature: see `candlecast.windows.body`.
        purge: sessions of each ticker between anything trained on and anything scored.

    Returns:
        The evidence: ``rows_in_both``, ``purged_sessions`` (the fewest of a ticker that has rows in
        both sets), ``last_training_session``, ``first_scored_session`` (ISO dates) and
        ``rows_with_wrong_lags``, of ``rows_audited``.

    Raises:
        LeakageError: a (ticker, session) is in both sets, fewer sessions than `purge` lie between
            them, or a feature is not the body of an earlier session.
    """
    in_both = train.join(test, ["ticker", "session"], "left_semi").count()
    [(last,)] = train.agg(F.max("session")).collect()
    [(first,)] = test.agg(F.min("session")).collect()
    gap = _fewest_between(sessions, train, test)
    audited, wrong = _check_lags(sessions, train.unionByName(test), window, feature)
    broken = []
    if in_both:
        broken.append(f"{in_both} rows are in both train and test")
    if last >= first:
        broken.append(f"training ends on {last}, scoring begins on {first}")
    if gap is not None and gap < purge:
        broken.append(
            f"a ticker has {gap} sessions between training and test, the purge is {purge}"
        )
    if wrong:
        broken.append(f"{wrong} of {audited} windows hold a body that is not from its own past")
    if broken:
        raise LeakageError(broken)
    return {
        "rows_in_both": in_both,
        "purged_sessions": purge if gap is None else gap,
        "last_training_session": str(last),
        "first_scored_session": str(first),
        "rows_audited": audited,
        "rows_with_wrong_lags": wrong,
    }


def _fewest_between(sessions: DataFrame, train: DataFrame, test: DataFrame) -> int | None:
    """The fewest sessions of a ticker between the sets; None when no ticker is in both."""
    bounds = (
        train.groupBy("ticker")
        .agg(F.max("session").alias("last"))
        .join(test.groupBy("ticker").agg(F.min("session").alias("own")), "ticker")
        .crossJoin(test.agg(F.min("session").alias("first")))
    )
    between = (F.col("session") > F.col("last")) & (F.col("session") < F.col("first"))
    counts = sessions.join(bounds, "ticker").groupBy("ticker").agg(F.count_if(between).alias("n"))
    [(fewest,)] = counts.agg(F.min("n")).collect()
    return None if fewest is None else int(fewest)


def _check_lags(
    sessions: DataFrame, windows: DataFrame, window: int, feature: Feature
) -> tuple[int, int]:
    """Count the windows, and those whose newest or oldest body is not what its session had.

    The sessions of a ticker are numbered and joined by number, which is another way than the lag
    functions that made the windows; the newest and the oldest lag pin the ones between them.
    """
    by_session = Window.partitionBy("ticker").orderBy("session")
    numbered = sessions.select(
        "ticker",
        "session",
        F.row_number().over(by_session).alias("number"),
        body(feature).cast("float").alias("past"),
    )
    names = lag_columns(window)
    placed = windows.join(numbered.drop("past"), ["ticker", "session"])
    ends = {1: names[0], window: names[-1]}
    right = F.lit(True)
    for lag, name in ends.items():
        earlier = numbered.select(
            "ticker",
            (F.col("number") + lag).alias("number"),
            F.col("past").alias(f"past_{lag}"),
            F.col("session").alias(f"session_{lag}"),
        )
        placed = placed.join(earlier, ["ticker", "number"], "left")
        holds = (F.col(f"past_{lag}") == F.col(name)) & (F.col(f"session_{lag}") < F.col("session"))
        right = right & F.coalesce(holds, F.lit(False))
    [(audited, wrong)] = placed.agg(F.count(F.lit(1)), F.count_if(~right)).collect()
    return int(audited), int(wrong)
