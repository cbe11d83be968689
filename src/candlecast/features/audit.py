"""The leakage audit of every run: nothing that is scored was known when the model was trained.

It derives again, by other means than the window arithmetic, what must hold of the tables.
"""

import datetime as dt

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from candlecast.errors import CandlecastError
from candlecast.features.windows import Body, candle_body, lag_columns


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
    body: Body,
    purge: int,
) -> dict[str, int | str]:
    """Audit the two sets against the sessions that they were made of.

    Args:
        sessions: prices, one row per ticker and session, as the windows were made of them.
        train: windows to train on.
        test: windows to score.
        window: candle bodies a window.
        body: see `candlecast.features.windows.candle_body`.
        purge: sessions of each ticker between anything trained on and anything scored.

    Returns:
        The evidence: ``rows_in_both``, ``purged_sessions`` (the fewest of a ticker that has rows in
        both sets), ``last_training_session``, ``first_test_session`` (ISO dates) and
        ``rows_with_wrong_lags``, of ``rows_audited``.

    Raises:
        CandlecastError: one of the sets is empty.
        LeakageError: a (ticker, session) is in both sets, fewer sessions than `purge` lie between
            them, or a feature is not the body of an earlier session.
    """
    in_both, bounds = _bounds(train, test)
    if not any(row["last"] for row in bounds) or not any(row["first"] for row in bounds):
        raise CandlecastError(
            "The split leaves no windows to train on, or none to test on. To go on, ask for a "
            "longer range, or lower window, purge or test_fraction."
        )
    last = max(row["last"] for row in bounds if row["last"])
    first = min(row["first"] for row in bounds if row["first"])
    shared = [(row["ticker"], row["last"]) for row in bounds if row["last"] and row["first"]]
    gap = _fewest_between(sessions, shared, first)
    audited, wrong = _check_lags(sessions, train.unionByName(test), window, body)
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
        "first_test_session": str(first),
        "rows_audited": audited,
        "rows_with_wrong_lags": wrong,
    }


def _bounds(train: DataFrame, test: DataFrame) -> tuple[int, list[Row]]:
    """Count the rows in both sets; and tell each ticker's last trained and first scored session."""
    keys = train.select("ticker", "session", F.lit(True).alias("trained")).unionByName(
        test.select("ticker", "session", F.lit(False).alias("trained"))
    )
    once = keys.groupBy("ticker", "session").agg(
        F.bool_or("trained").alias("trained"), F.bool_or(~F.col("trained")).alias("scored")
    )
    by_ticker = once.groupBy("ticker").agg(
        F.count_if(F.col("trained") & F.col("scored")).alias("both"),
        F.max(F.when(F.col("trained"), F.col("session"))).alias("last"),
        F.min(F.when(F.col("scored"), F.col("session"))).alias("first"),
    )
    rows = by_ticker.collect()
    return sum(row["both"] for row in rows), rows


def _fewest_between(
    sessions: DataFrame, last: list[tuple[str, dt.date]], first: dt.date
) -> int | None:
    """The fewest sessions of a ticker after its last training one and before the first scored."""
    if not last:
        return None
    ends = sessions.sparkSession.createDataFrame(last, "ticker STRING, last DATE")
    between = (F.col("session") > F.col("last")) & (F.col("session") < F.lit(first))
    counts = sessions.join(F.broadcast(ends), "ticker").groupBy("ticker")
    return min(int(row["n"]) for row in counts.agg(F.count_if(between).alias("n")).collect())


def _check_lags(
    sessions: DataFrame, windows: DataFrame, window: int, body: Body
) -> tuple[int, int]:
    """Count the windows, and those whose bodies are not what the sessions before had.

    The bodies of the sessions before are gathered as a list, which is another way than the lag
    functions that made the windows, and compared whole. A missing body is not gathered, so a window
    that should be void is too short.
    """
    before = Window.partitionBy("ticker").orderBy("session").rowsBetween(-window, -1)
    candles = sessions.select("ticker", "session", candle_body(body).cast("float").alias("past"))
    gathered = candles.select(
        "ticker",
        "session",
        F.collect_list("past").over(before).alias("past"),
        F.max("session").over(before).alias("newest"),
    )
    oldest_first = F.array(*reversed(lag_columns(window)))
    right = (F.col("past") == oldest_first) & (F.col("newest") < F.col("session"))
    placed = windows.join(gathered, ["ticker", "session"], "left")
    wrong = F.count_if(~F.coalesce(right, F.lit(False)))
    [(audited, found)] = placed.agg(F.count(F.lit(1)), wrong).collect()
    return int(audited), int(found)
