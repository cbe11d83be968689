"""The leakage audit of every run: training knew nothing of what is predicted.

It derives again, in another way than the code that made the tables, what must be true of them.
"""

import datetime as dt

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql.window import Window

from candlecast.errors import LeakageError, NotEnoughDataError
from candlecast.features.windows import Body, candle_body, lag_columns


def audit_leakage(
    prices: DataFrame,
    train: DataFrame,
    test: DataFrame,
    window: int,
    body: Body,
    purge: int,
) -> dict[str, int | str]:
    """Audit the windows to train on and to test on against the prices that they were made of.

    Returns:
        The evidence: ``rows_in_both``, ``purged_sessions`` (the fewest of a ticker that has rows in
        both sets), ``last_training_session``, ``first_test_session`` (ISO dates) and
        ``rows_with_wrong_lags``, of ``rows_audited``.

    Raises:
        NotEnoughDataError: one of the sets is empty.
        LeakageError: a ticker's session is in both sets, fewer than `purge` of its sessions are
            between them, or a lag is not the body of an earlier session.
    """
    rows_in_both, tickers = _compare_sessions(train, test)
    trained = [row for row in tickers if row["last"]]
    tested = [row for row in tickers if row["first"]]
    if not trained or not tested:
        raise NotEnoughDataError(
            "The split leaves no windows to train on, or none to test on. Request a longer range, "
            "or lower window, purge or test_fraction."
        )
    last, first = max(row["last"] for row in trained), min(row["first"] for row in tested)
    in_both = [(row["ticker"], row["last"]) for row in trained if row["first"]]
    gap = _fewest_between(prices, in_both, first)
    audited, wrong = _check_lags(prices, train.unionByName(test), window, body)
    broken = []
    if rows_in_both:
        broken.append(f"{rows_in_both} rows are in both train and test")
    if last >= first:
        broken.append(f"training ends on {last}, the test begins on {first}")
    if gap is not None and gap < purge:
        broken.append(f"a ticker has {gap} sessions between train and test, the purge is {purge}")
    if wrong:
        broken.append(f"{wrong} of {audited} windows hold a body that is not from its own past")
    if broken:
        raise LeakageError(broken)
    return {
        "rows_in_both": rows_in_both,
        "purged_sessions": purge if gap is None else gap,
        "last_training_session": str(last),
        "first_test_session": str(first),
        "rows_audited": audited,
        "rows_with_wrong_lags": wrong,
    }


def _compare_sessions(train: DataFrame, test: DataFrame) -> tuple[int, list[Row]]:
    """Count the rows in both sets, and return the last training and first test session per ticker.

    Both are null where there is none.
    """
    keys = train.select("ticker", "session", F.lit(True).alias("is_train")).unionByName(
        test.select("ticker", "session", F.lit(False).alias("is_train"))
    )
    once = keys.groupBy("ticker", "session").agg(
        F.bool_or("is_train").alias("trained"), F.bool_or(~F.col("is_train")).alias("tested")
    )
    by_ticker = once.groupBy("ticker").agg(
        F.count_if(F.col("trained") & F.col("tested")).alias("both"),
        F.max(F.when(F.col("trained"), F.col("session"))).alias("last"),
        F.min(F.when(F.col("tested"), F.col("session"))).alias("first"),
    )
    rows = by_ticker.collect()
    return sum(row["both"] for row in rows), rows


def _fewest_between(
    prices: DataFrame, last: list[tuple[str, dt.date]], first: dt.date
) -> int | None:
    """Return the fewest sessions of a ticker between its `last` training session and the test."""
    if not last:
        return None
    ends = prices.sparkSession.createDataFrame(last, "ticker STRING, last DATE")
    between = (F.col("session") > F.col("last")) & (F.col("session") < F.lit(first))
    counts = prices.join(F.broadcast(ends), "ticker").groupBy("ticker")
    rows = counts.agg(F.count_if(between).alias("n")).collect()
    return min((int(row["n"]) for row in rows), default=None)


def _check_lags(prices: DataFrame, windows: DataFrame, window: int, body: Body) -> tuple[int, int]:
    """Count the windows, and those whose lags are not the bodies of the sessions before.

    The bodies are collected as a list, not by the lag functions that made the windows. A missing
    body is not collected, so the list of a window that should be void is too short.
    """
    before = Window.partitionBy("ticker").orderBy("session").rowsBetween(-window, -1)
    candles = prices.select("ticker", "session", candle_body(body).cast("float").alias("past"))
    gathered = candles.select(
        "ticker",
        "session",
        F.collect_list("past").over(before).alias("past"),
        F.max("session").over(before).alias("newest"),
    )
    oldest_first = F.array(*reversed(lag_columns(window)))
    right = (F.col("past") == oldest_first) & (F.col("newest") < F.col("session"))
    joined = windows.join(gathered, ["ticker", "session"], "left")
    wrong = F.count_if(~F.coalesce(right, F.lit(False)))
    [(audited, found)] = joined.agg(F.count(F.lit(1)), wrong).collect()
    return int(audited), int(found)
