"""Nodes that fetch prices, decide what is stored of them, and select what is windowed."""

import datetime as dt
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import pandas as pd
import pyarrow.compute as pc
from pyarrow.dataset import Dataset
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from candlecast.errors import IngestError, NotEnoughDataError, limited
from candlecast.frames import join_dates
from candlecast.progress import track
from candlecast.sources.calendars import calendar_of, last_closed, read_clock
from candlecast.sources.checks import OUTCOME, TYPES, Finding, check_ticker, with_outcome
from candlecast.sources.merging import in_range
from candlecast.sources.table import Source, select_quality, source_name

logger = logging.getLogger(__name__)

STOP_AFTER = {"rate limited": 1, "unavailable": 3, "unexpected answer": 3}
"""After how many failures in a row no further ticker is requested, by the last one's reason."""
REFUSED = ("unexpected answer", "broken rule")
"""Reasons for which no ticker is stored, unless tickers may be missing."""
DDL = ", ".join(f"{name} {kind}" for name, kind in TYPES.items())


@dataclass
class FetchResult:
    """Which of the requested tickers arrived, and why others are missing.

    Attributes:
        findings: what the checks found, by ticker that arrived.
        failed: the error's message, by missing ticker.
        refused: the tickers of `failed` whose answer is one of `REFUSED`.
        sessions: the number of distinct session dates of all tickers.
    """

    findings: dict[str, list[Finding]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    sessions: int = 0


def fetch_prices(
    source: Source,
    tickers: list[str],
    start: str | None,
    end: str | None,
    max_missing_share: float,
    calendar: str | None,
    now: str | None = None,
) -> Iterator[dict[str, pd.DataFrame] | DataFrame]:
    """Fetch and check the prices of `tickers`; of all that the source holds if none is named.

    Spark reads and checks a large table. Other tickers are fetched one after the other, so that
    only one is in memory. When the source keeps failing, the rest are skipped, see `STOP_AFTER`. A
    session that has not closed is left out, whatever the source.

    Yields:
        Prices with the columns of `candlecast.sources.checks.TYPES`: of one ticker by its name, or
        a Spark frame of many. A ticker that did not arrive has one row, without a session.
    """
    first, last = (dt.date.fromisoformat(day) if day else None for day in (start, end))
    check = partial(
        check_ticker,
        max_missing_share=max_missing_share,
        start=first,
        end=last,
        calendar=calendar,
        now=read_clock(now),
    )
    requested = tickers or list(source.tickers)
    if source.table:
        rows, read = source.table

        def check_group(rows: pd.DataFrame) -> pd.DataFrame:
            ticker = rows["ticker"].iloc[0]
            return with_outcome(ticker, *check(ticker, partial(read, rows, first, last)))

        held = rows.where(F.col("ticker").isin(requested))
        yield held.groupBy("ticker").applyInPandas(check_group, DDL)
        requested = sorted(set(requested) - set(source.tickers))
    failures: list[tuple[str, str]] = []  # in a row: ticker and reason
    for ticker in track(requested, "fetch", str):
        if failures and len(failures) >= STOP_AFTER[failures[-1][1]]:
            skipped = f"skipped after {', '.join(name for name, _ in failures)} failed"
            prices, outcome = None, {"failed": skipped, "reason": "skipped"}
        else:
            prices, outcome = check(ticker, partial(source.fetch, ticker, first, last))
            reason = outcome.get("reason")
            failures = [*failures, (ticker, reason)] if reason in STOP_AFTER else []
        yield {ticker: with_outcome(ticker, prices, outcome)}


def collect_outcomes(fetched: Dataset, tickers: list[str], prices_from: str) -> FetchResult:
    """Collect what became of each ticker, and log it. This does not need Spark.

    Args:
        fetched: what `fetch_prices` returned.
        tickers: the requested ones, which gives the order.
        prices_from: the parameter ``prices``.
    """
    table = fetched.to_table(columns=["ticker", OUTCOME], filter=pc.field(OUTCOME).is_valid())
    outcomes = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    result = FetchResult(sessions=pc.count_distinct(fetched.to_table(["session"])[0]).as_py())
    for ticker in tickers or sorted(outcomes):
        outcome = json.loads(outcomes[ticker])
        if "findings" in outcome:
            result.findings[ticker] = [Finding(*finding) for finding in outcome["findings"]]
            continue
        result.failed[ticker] = outcome["failed"]
        if outcome["reason"] in REFUSED:
            result.refused.append(ticker)
    _log_tickers(result, source_name(prices_from))
    return result


def _log_tickers(result: FetchResult, source: str) -> None:
    """Log the first tickers that arrived, that did not, and that end early; how many there are."""
    arrived, last = [], {}
    for ticker, findings in result.findings.items():
        rules = {finding.rule: finding for finding in findings}
        last[ticker] = rules["stored"].detail.rpartition(" ")[2]
        arrived.append(
            f"{ticker:<10} {rules['stored'].found:>6} sessions, {rules['stored'].detail}, "
            f"{rules['missing sessions'].found} missing; requested: {rules['requested'].detail}"
        )
    failed = [
        f"{ticker:<10} missing: {why.splitlines()[0]}" for ticker, why in result.failed.items()
    ]
    for line in limited(arrived):
        logger.info("  %s", line)
    for line in [*limited(failed), *limited(_early(last))]:
        logger.warning("  %s", line)
    logger.info(
        "  prices from %s: %d tickers, %d missing",
        source,
        len(result.findings),
        len(result.failed),
    )


def _early(last: dict[str, str]) -> list[str]:
    """Name the tickers whose last session (ISO dates) is before the newest of their calendar."""
    calendars = {ticker: calendar for ticker in last if (calendar := calendar_of(ticker))}
    newest: dict[str, str] = {}
    for ticker, calendar in calendars.items():
        newest[calendar] = max(last[ticker], newest.get(calendar, ""))
    return [
        f"{ticker:<10} ends on {last[ticker]}, others on {newest[calendar]}"
        for ticker, calendar in calendars.items()
        if last[ticker] < newest[calendar]
    ]


def accept_tickers(
    fetch_result: FetchResult, needed_sessions: int, allow_missing_tickers: bool
) -> list[str]:
    """Return the tickers to store, which are those that arrived.

    If others are missing, these are stored nevertheless: `require_all_tickers` ends the run later.

    Raises:
        IngestError: no ticker arrived, or an answer was refused and no ticker may be missing.
        NotEnoughDataError: there are too few sessions to window, split and validate.
    """
    arrived, failed = list(fetch_result.findings), fetch_result.failed
    if not arrived or (fetch_result.refused and not allow_missing_tickers):
        raise IngestError(failed, of=len(arrived) + len(failed), stored=0)
    found = fetch_result.sessions
    if found < needed_sessions and (allow_missing_tickers or not failed):
        raise NotEnoughDataError(
            f"There are {found} session dates in all, and {needed_sessions} are needed for the "
            "windows, the purges, the test set and the walk-forward folds. Nothing is stored. To "
            "fix this, request a longer range, or lower window, purge, folds or "
            "min_training_sessions.",
            sessions=found,
            needed=needed_sessions,
        )
    return arrived


def tabulate_quality(
    fetch_result: FetchResult, price_changes: list[Finding], prices_from: str
) -> pd.DataFrame:
    """Tabulate what was found in the prices, one row per ticker and rule.

    Returns:
        The columns of `candlecast.sources.checks.Finding`, ``rows_dropped``, and ``source``, the
        name of the source. A ticker that did not arrive has the one rule ``missing``, with the
        reason as its detail.
    """
    arrived = [finding for findings in fetch_result.findings.values() for finding in findings]
    price_changes = [found for found in price_changes if found.ticker not in fetch_result.failed]
    missing = [
        Finding(ticker, "missing", 0, 0, 0, reason)
        for ticker, reason in fetch_result.failed.items()
    ]
    table = pd.DataFrame([*arrived, *price_changes, *missing])
    dropped = table["rows_in"] - table["rows_kept"]
    return table.assign(rows_dropped=dropped, source=source_name(prices_from))


def require_all_tickers(
    fetch_result: FetchResult,
    prices: DataFrame,
    quality: pd.DataFrame,
    allow_missing_tickers: bool,
) -> None:
    """End the run if a ticker is missing. `prices` and `quality` are inputs to be stored before.

    Raises:
        IngestError: a ticker did not arrive, and none may be missing.
    """
    arrived, failed = fetch_result.findings, fetch_result.failed
    if failed and not allow_missing_tickers:
        raise IngestError(failed, of=len(arrived) + len(failed), stored=len(arrived))


def select_prices(
    prices: DataFrame,
    quality: pd.DataFrame,
    tickers: list[str],
    prices_from: str,
    start: str | None,
    end: str | None,
    calendar: str | None = None,
    now: str | None = None,
) -> tuple[DataFrame, list[str]]:
    """Select the requested range of the tickers that arrived: one row per ticker and session.

    A ticker that `quality` lists as missing is left out, even if earlier runs stored its sessions,
    and so is a session that closes after `now`, even if a run with a later one stored it.

    Returns:
        The prices and the tickers, sorted.

    Raises:
        NotEnoughDataError: a ticker was never fetched.
    """
    quality = select_quality(quality, tickers, prices_from)
    if never := sorted(set(tickers) - set(quality["ticker"])):
        raise NotEnoughDataError(
            f"Never fetched: {', '.join(never)}. To fix this, fetch them: kedro run --tags ingest"
        )
    missing = quality.loc[quality["rule"] == "missing", "ticker"]
    arrived = sorted(set(quality["ticker"]) - set(missing))
    present = read_clock(now)
    closed = {
        ticker: last_closed(calendar or calendar_of(ticker), present).date() for ticker in arrived
    }
    held = join_dates(prices.where(in_range(start, end)), "closed", closed)
    closed_sessions = held.where(F.col("session") <= F.col("closed")).drop("closed")
    # As windows and audit need them: each ticker in one partition, by session.
    return closed_sessions.repartition("ticker").sortWithinPartitions("ticker", "session"), arrived
