"""Bring newly fetched sessions and the stored ones together, ticker by ticker."""

from collections.abc import Sequence
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from candlecast.sources.checks import COLUMNS, PRICES, Finding

MOVED = 1e-6
"""A price has moved when it differs by more than this, relative to the stored one."""
RESCALED = 0.005
"""A history is on another scale when its typical price moved by more than this, relative to one."""

REPLACED = "history replaced"
"""The rule of a finding that says that a ticker's stored history does not go with the new one."""

_VALUES = [name for name in COLUMNS if name not in ("ticker", "session")]


def compare_history(
    fetched: DataFrame, stored: DataFrame, start: str | None, end: str | None
) -> list[Finding]:
    """Compare fetched sessions with the stored ones of the same tickers.

    The stored history of a ticker is to be replaced whole when it does not go with the new one: it
    came from another source, or more than half of the sessions that both have moved, by a common
    factor (a split between two fetches rescales all prices before it).

    Args:
        fetched: one row per ticker and session, the columns of `candlecast.sources.checks.COLUMNS`.
        stored: the same of the same tickers, from earlier runs.
        start: the first session that was requested; None is the first there is.
        end: the last one that was requested; None is the last there is.

    Returns:
        The findings, of tickers that were stored, sorted by ticker: ``history replaced`` (`found`
        counts stored sessions that are dropped) or ``history kept`` (`found` counts stored sessions
        that are kept though the answer lacks them inside the requested range), and ``history
        moved`` (`found` counts sessions with another price).
    """
    facts = _facts(_joined(fetched, stored), start, end).orderBy("ticker").collect()
    return [finding for row in facts for finding in _findings(row.asDict())]


def merge_history(fetched: DataFrame, stored: DataFrame, replaced: Sequence[str]) -> DataFrame:
    """Let fetched sessions replace stored ones, and keep stored ones that were not fetched.

    Nothing is lost: the older version of the table stays readable.

    Args:
        fetched: one row per ticker and session, the columns of `candlecast.sources.checks.COLUMNS`.
        stored: the same of the same tickers, from earlier runs.
        replaced: the tickers whose stored sessions that were not fetched are dropped.

    Returns:
        One row per ticker and session; one whose prices did not move keeps its ``ingested_at``.
    """
    joined = _joined(fetched, stored)
    kept = joined.where(F.col("is_new") | ~F.col("ticker").isin(list(replaced)))
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
    return merged.select(COLUMNS)


def _joined(fetched: DataFrame, stored: DataFrame) -> DataFrame:
    """Put the new and the old values of a ticker's session into one row."""
    both = fetched.alias("new").join(stored.alias("old"), ["ticker", "session"], "full_outer")
    is_new, is_old = F.col("new.source").isNotNull(), F.col("old.source").isNotNull()
    return both.select(
        "ticker",
        "session",
        is_new.alias("is_new"),
        is_old.alias("is_old"),
        (is_new & is_old & _moved()).alias("moved"),
        F.struct(*(F.col(f"new.{name}") for name in _VALUES)).alias("new"),
        F.struct(*(F.col(f"old.{name}") for name in _VALUES)).alias("old"),
    )


def _moved() -> Column:
    """Whether a price of the two rows differs, or is there in one of them only."""
    condition = F.lit(False)
    for name in PRICES:
        new, old = F.col(f"new.{name}"), F.col(f"old.{name}")
        differs = F.abs(new - old) > F.abs(old) * MOVED
        condition = condition | F.coalesce(differs, new.isNull() != old.isNull())
    return condition


def _facts(joined: DataFrame, start: str | None, end: str | None) -> DataFrame:
    """Count, one row per ticker, what there is on the two sides."""
    first, last = start or "0001-01-01", end or "9999-12-31"
    asked_for = F.col("session").between(F.lit(first).cast("date"), F.lit(last).cast("date"))
    conditions = {
        "fetched": F.col("is_new"),
        "both": F.col("is_new") & F.col("is_old"),
        "moved": F.col("moved"),
        "only_stored": ~F.col("is_new"),
        "lacking": ~F.col("is_new") & asked_for,
    }
    return joined.groupBy("ticker").agg(
        *(F.count(F.when(condition, 1)).alias(name) for name, condition in conditions.items()),
        F.median(F.col("new.close") / F.col("old.close")).alias("factor"),
        F.max("new.source").alias("source"),
        F.collect_set("old.source").alias("sources"),
    )


def _why_replaced(facts: dict[str, Any]) -> str:
    """Why the stored history of a ticker does not go with the new one; empty when it does."""
    if others := sorted(set(facts["sources"]) - {facts["source"]}):
        return f"the stored history came from {', '.join(others)}"
    moved, both, factor = facts["moved"], facts["both"], facts["factor"]
    if moved > both / 2 and factor is not None and abs(factor - 1) > RESCALED:
        return f"{moved} of {both} sessions moved by a factor of {factor:.4g} (a split?)"
    return ""


def _findings(facts: dict[str, Any]) -> list[Finding]:
    if not facts["sources"]:
        return []
    ticker, only_stored, moved = facts["ticker"], facts["only_stored"], facts["moved"]
    rows = facts["fetched"] + only_stored
    if why := _why_replaced(facts):
        detail = f"{why}; replaced whole, {only_stored} stored sessions are dropped"
        return [Finding(ticker, REPLACED, rows, facts["fetched"], only_stored, detail)]
    lacking, outside = facts["lacking"], only_stored - facts["lacking"]
    kept = f"{facts['fetched'] - facts['both']} new; kept {outside} outside the range asked for"
    if lacking:
        kept += f" and {lacking} inside it that the answer lacks"
    if not facts["both"]:
        kept += "; none in common, so that the scale of the two could not be compared"
    return [
        Finding(ticker, "history kept", rows, rows, lacking, kept),
        Finding(ticker, "history moved", rows, rows, moved, "another price than stored, updated"),
    ]
