"""Merge fetched prices with stored ones; both have `candlecast.sources.checks.COLUMNS`."""

import datetime as dt
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from candlecast.errors import limited
from candlecast.frames import Addition, join_dates
from candlecast.sources.checks import COLUMNS, PRICES, Finding
from candlecast.sources.table import source_name

logger = logging.getLogger(__name__)

CHANGED = 1e-6
"""A price has changed when it differs by more than this, relative to the stored one."""
RESCALED = 0.005
"""A history has another scale when its median price changed by more than this, relative to one."""
REPLACED = "history replaced"
"""The rule of the finding that a ticker's stored history does not fit the fetched one."""
_VALUES = [name for name in COLUMNS if name not in ("ticker", "session")]


class History(NamedTuple):
    """The sessions of a ticker in short: the same for the same rows, whenever they were ingested.

    Attributes:
        sessions: how many there are.
        last: the last one.
        code: of all their values.
    """

    sessions: int
    last: dt.date
    code: int


def compare_prices(
    fetched: DataFrame,
    stored_prices: DataFrame | None,
    tickers: Sequence[str],
    start: str | None,
    end: str | None,
    requested: Sequence[str],
    prices_from: str,
) -> tuple[list[Finding], dict[str, History | None]]:
    """Compare fetched and stored prices of `tickers`, and log what was found.

    The stored history of a ticker is replaced as a whole when it does not fit the fetched one: it
    has another source, or more than half of the sessions in both changed by a common factor (a
    split between two fetches rescales all prices before it).

    Sessions are joined, which takes long, only for tickers of which a stored one was not fetched
    again as it was.

    Args:
        fetched: prices of this run.
        stored_prices: those of earlier runs; None: there are none.
        tickers: those that were fetched.
        start: the first requested session.
        end: the last one.
        requested: the requested tickers; none are all that the source holds.
        prices_from: the parameter ``prices``.

    Returns:
        The findings of tickers that were stored, sorted by ticker: ``history replaced`` (`found`
        counts stored sessions that are dropped), or ``history kept`` (`found` counts stored
        sessions inside the requested range that were not fetched again) and ``prices changed``
        (`found` counts sessions with another price). Where all tickers of a source were requested,
        those that it no longer holds are ``missing`` (`found` counts their stored sessions).

        And what is stored, by fetched ticker: None unless all of it was fetched again as it was.
    """
    unchanged: dict[str, History | None] = dict.fromkeys(tickers)
    if stored_prices is None:
        return [], unchanged
    source = source_name(prices_from)
    facts: list[dict[str, Any]] = []
    stored = _histories(stored_prices)
    for ticker, (rows, history) in _fetched_histories(fetched, stored).items():
        if history == stored[ticker]:
            unchanged[ticker] = history
            facts.append(
                {
                    "ticker": ticker,
                    "source": source,
                    "sources": [source],
                    "fetched": rows,
                    "both": history.sessions,
                    "changed": 0,
                    "only_stored": 0,
                    "lacking": 0,
                    "factor": 1.0,
                }
            )
    if changed := [ticker for ticker in tickers if not unchanged[ticker]]:
        chosen = F.col("ticker").isin(changed)
        joined = _joined(fetched.where(chosen), stored_prices.where(chosen))
        facts += [row.asDict() for row in _facts(joined, start, end).collect()]
    facts.sort(key=lambda each: each["ticker"])
    findings = [finding for each in facts for finding in _findings(each)]
    if not requested and (others := stored.keys() - set(tickers)):
        of_source = (F.col("source") == source) & F.col("ticker").isin([*others])
        gone = stored_prices.where(of_source).groupBy("ticker").count().orderBy("ticker").collect()
        detail = f"{source} no longer holds it: its stored sessions are not used"
        findings += [Finding(ticker, "missing", 0, 0, rows, detail) for ticker, rows in gone]
    for line in limited([f"{x.ticker:<10} {x.rule}: {x.detail}" for x in findings if x.found]):
        logger.warning("  %s", line)
    return findings, unchanged


def merge_prices(
    fetched: DataFrame,
    price_changes: Sequence[Finding],
    unchanged: Mapping[str, History | None],
) -> Callable[[DataFrame | None], DataFrame | Addition]:
    """Replace stored sessions by fetched ones, and keep those that were not fetched again.

    Args:
        fetched: prices of this run, one row per ticker and session.
        price_changes: what `compare_prices` found.
        unchanged: what it returned beside that.

    Returns:
        A function from the stored prices (None: there are none) to all prices, or to those to add
        where no stored one changed: another job may store some before these are saved. A session
        whose prices did not change keeps its ``ingested_at``.
    """
    replaced = [finding.ticker for finding in price_changes if finding.rule == REPLACED]

    def merge(stored: DataFrame | None) -> DataFrame | Addition:
        if stored is None:
            return fetched
        now = _histories(stored) if any(unchanged.values()) else {}
        still = {
            ticker: history
            for ticker, history in unchanged.items()
            if history and history == now.get(ticker)
        }
        known = join_dates(fetched, "last", _last(still))
        later = known.where(F.col("session") > F.col("last")).select(COLUMNS)
        if len(still) == len(unchanged):
            return Addition(later.repartition("ticker"))  # a day's sessions in one file
        others = F.col("ticker").isin([*unchanged.keys() - still.keys()])
        joined = _joined(fetched.where(others), stored.where(others))
        kept = joined.where(F.col("is_new") | ~F.col("ticker").isin(replaced))
        values = F.when(F.col("is_new"), F.col("new")).otherwise(F.col("old"))
        first_seen = F.when(F.col("is_old") & ~F.col("changed"), F.col("old.ingested_at"))
        merged = (
            kept.withColumns({"values": values, "first_seen": first_seen})
            .select("ticker", "session", "values.*", "first_seen")
            .withColumn("ingested_at", F.coalesce("first_seen", "ingested_at"))
        )
        same = stored.where(~others).unionByName(later)
        return same.unionByName(merged.select(COLUMNS))

    return merge


def in_range(start: str | None, end: str | None) -> Column:
    """Return the condition that a session is from `start` to `end` (None: all there is)."""
    first, last = (F.lit(day).cast("date") for day in (start or "0001-01-01", end or "9999-12-31"))
    return F.col("session").between(first, last)


def _histories(prices: DataFrame) -> dict[str, History]:
    """Shorten the sessions of each ticker."""
    rows = prices.groupBy("ticker").agg(*_short(F.lit(True))).collect()
    return {ticker: History(*short) for ticker, *short in rows}


def _fetched_histories(
    fetched: DataFrame, stored: Mapping[str, History]
) -> dict[str, tuple[int, History]]:
    """Shorten what was fetched of each stored ticker up to its last stored session.

    Returns:
        By ticker, how many sessions were fetched in all, and the short form.
    """
    is_known = F.col("session") <= F.col("last")
    of_ticker = join_dates(fetched, "last", _last(stored)).groupBy("ticker")
    rows = of_ticker.agg(F.count("session"), *_short(is_known)).collect()
    return {ticker: (sessions, History(*short)) for ticker, sessions, *short in rows}


def _short(condition: Column) -> list[Column]:
    """Return the aggregates of `History`, of the rows for which the condition is true."""
    values = [name for name in COLUMNS if name not in ("ticker", "ingested_at")]
    # A hash leaves nulls out: for their places, it is also of where they are.
    code = F.xxhash64(*values, *(F.col(name).isNull() for name in values))
    session, counted = (F.when(condition, value) for value in (F.col("session"), code))
    return [F.count(session), F.max(session), F.bit_xor(counted)]


def _last(stored: Mapping[str, History]) -> dict[str, dt.date]:
    return {ticker: history.last for ticker, history in stored.items()}


def _joined(fetched: DataFrame, stored: DataFrame) -> DataFrame:
    """Put the fetched (new) and the stored (old) values of a session into one row."""
    both = fetched.alias("new").join(stored.alias("old"), ["ticker", "session"], "full_outer")
    is_new, is_old = F.col("new.source").isNotNull(), F.col("old.source").isNotNull()
    return both.select(
        "ticker",
        "session",
        is_new.alias("is_new"),
        is_old.alias("is_old"),
        (is_new & is_old & _changed()).alias("changed"),
        F.struct(*(F.col(f"new.{name}") for name in _VALUES)).alias("new"),
        F.struct(*(F.col(f"old.{name}") for name in _VALUES)).alias("old"),
    )


def _changed() -> Column:
    """Return whether a price differs between the two rows, or is missing in one of them."""
    condition = F.lit(False)
    for name in PRICES:
        new, old = F.col(f"new.{name}"), F.col(f"old.{name}")
        differs = F.abs(new - old) > F.abs(old) * CHANGED
        condition = condition | F.coalesce(differs, new.isNull() != old.isNull())
    return condition


def _facts(joined: DataFrame, start: str | None, end: str | None) -> DataFrame:
    """Count the sessions on both sides, one row per ticker."""
    conditions = {
        "fetched": F.col("is_new"),
        "both": F.col("is_new") & F.col("is_old"),
        "changed": F.col("changed"),
        "only_stored": ~F.col("is_new"),
        "lacking": ~F.col("is_new") & in_range(start, end),
    }
    return joined.groupBy("ticker").agg(
        *(F.count_if(condition).alias(name) for name, condition in conditions.items()),
        F.median(F.col("new.close") / F.col("old.close")).alias("factor"),
        F.max("new.source").alias("source"),
        F.collect_set("old.source").alias("sources"),
    )


def _why_replaced(facts: dict[str, Any]) -> str:
    """Describe why a ticker's stored history does not fit the fetched one; empty if it does."""
    if others := sorted(set(facts["sources"]) - {facts["source"]}):
        return f"the stored history came from {', '.join(others)}"
    changed, both, factor = facts["changed"], facts["both"], facts["factor"]
    if changed > both / 2 and factor is not None and abs(factor - 1) > RESCALED:
        return f"{changed} of {both} sessions changed by a factor of {factor:.4g} (a split?)"
    return ""


def _findings(facts: dict[str, Any]) -> list[Finding]:
    """Word what was counted of one ticker; nothing if it was not stored before."""
    if not facts["sources"]:
        return []
    ticker, only_stored, lacking = facts["ticker"], facts["only_stored"], facts["lacking"]
    rows = facts["fetched"] + only_stored
    if why := _why_replaced(facts):
        detail = f"{why}; replaced whole, {only_stored} stored sessions are dropped"
        return [Finding(ticker, REPLACED, rows, facts["fetched"], only_stored, detail)]
    kept = f"{facts['fetched'] - facts['both']} new; kept {only_stored - lacking} outside the range"
    if lacking:
        kept += f" and {lacking} inside it that the answer lacks"
    if not facts["both"]:
        kept += "; none in common, so their scales could not be compared"
    changed = "another price than stored, updated"
    return [
        Finding(ticker, "history kept", rows, rows, lacking, kept),
        Finding(ticker, "prices changed", rows, rows, facts["changed"], changed),
    ]
