"""Bring newly fetched sessions and the stored ones together, ticker by ticker."""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from candlecast.checks import COLUMNS, PRICES, Finding

MOVED = 1e-6
"""A price has moved when it differs by more than this, relative to the stored one."""


def merge_history(fetched: DataFrame, stored: DataFrame) -> tuple[DataFrame, list[Finding]]:
    """Let fetched sessions replace stored ones, and keep stored ones that were not fetched.

    A price that moved is replaced and counted. When more than half of the sessions that both have
    moved, the source has rewritten its history (a split): the stored sessions that were not fetched
    are on the old scale then, and are dropped. Nothing is lost: the older version of the table
    stays readable.

    Args:
        fetched: one row a ticker and session, the columns of `candlecast.checks.COLUMNS`.
        stored: the same, from earlier runs.

    Returns:
        The rows of the fetched tickers, one a ticker and session; one that did not move keeps its
        ``ingested_at``. And a finding ``history`` a ticker that was stored: what happened to it.
    """
    new, old = fetched.alias("new"), stored.alias("old")
    tickers = new.select("ticker").distinct()
    both = new.join(old.join(tickers, "ticker", "left_semi"), ["ticker", "session"], "full_outer")
    is_new, is_old = F.col("new.source").isNotNull(), F.col("old.source").isNotNull()
    joined = both.select(
        "ticker",
        "session",
        is_new.alias("is_new"),
        is_old.alias("is_old"),
        (is_new & is_old & _moved()).alias("moved"),
        F.struct(*(F.col(f"new.{name}") for name in _VALUES)).alias("new"),
        F.struct(*(F.col(f"old.{name}") for name in _VALUES)).alias("old"),
    )
    counted = joined.groupBy("ticker").agg(
        *(
            F.count(F.when(condition, 1)).alias(name)
            for name, condition in {
                "fetched": F.col("is_new"),
                "both": F.col("is_new") & F.col("is_old"),
                "moved": F.col("moved"),
                "only_stored": ~F.col("is_new"),
            }.items()
        )
    )
    facts = counted.orderBy("ticker").collect()
    rewritten = [row["ticker"] for row in facts if row["moved"] > row["both"] / 2]
    kept = joined.where(F.col("is_new") | ~F.col("ticker").isin(rewritten))
    values = F.when(F.col("is_new"), F.col("new")).otherwise(F.col("old"))
    first_seen = F.when(F.col("is_old") & ~F.col("moved"), F.col("old.ingested_at"))
    merged = kept.select(
        "ticker", "session", values.alias("values"), first_seen.alias("first_seen")
    ).select(
        "ticker",
        "session",
        *(F.col(f"values.{name}").alias(name) for name in _VALUES if name != "ingested_at"),
        F.coalesce("first_seen", "values.ingested_at").alias("ingested_at"),
    )
    findings = [
        _finding(row.asDict(), rewritten)
        for row in facts
        if row["both"] + row["only_stored"] > 0
    ]
    return merged.select(COLUMNS), findings


_VALUES = [name for name in COLUMNS if name not in ("ticker", "session")]


def _moved() -> Column:
    """Whether a price of the two rows differs, or is there in one of them only."""
    condition = F.lit(False)
    for name in PRICES:
        new, old = F.col(f"new.{name}"), F.col(f"old.{name}")
        differs = F.abs(new - old) > F.abs(old) * MOVED
        condition = condition | F.coalesce(differs, new.isNull() != old.isNull())
    return condition


def _finding(facts: dict[str, int], rewritten: Sequence[str]) -> Finding:
    ticker = str(facts["ticker"])
    fetched, moved, only_stored = facts["fetched"], facts["moved"], facts["only_stored"]
    if ticker in rewritten:
        detail = (
            f"rewritten: {moved} of {facts['both']} stored sessions moved (a split?); the history is "
            f"replaced whole and {only_stored} stored sessions outside the answer are dropped"
        )
        return Finding(ticker, "history", fetched + only_stored, fetched, moved, detail)
    parts = [f"{fetched - facts['both']} new", f"{moved} moved and updated"]
    if only_stored:
        parts.append(f"{only_stored} stored sessions that the answer lacks are kept")
    return Finding(
        ticker, "history", fetched + only_stored, fetched + only_stored, moved, ", ".join(parts)
    )
