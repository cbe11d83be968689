"""Nodes that fetch prices, decide what is stored of them, and select what is windowed."""

import datetime as dt
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from candlecast.errors import ContractError, IngestError, NotEnoughDataError, SourceError
from candlecast.progress import track
from candlecast.sources.checks import Finding, Source, check_sessions
from candlecast.sources.merging import in_range

logger = logging.getLogger(__name__)

STOP_AFTER = {"rate limited": 1, "unavailable": 3, "unexpected answer": 3}
"""After how many failures in a row no further ticker is requested, by the last one's reason."""
REFUSED = ("unexpected answer", "broken rule")
"""Reasons for which no ticker is stored, unless tickers may be missing."""


@dataclass
class FetchResult:
    """Which of the requested tickers arrived, and why others are missing.

    Attributes:
        findings: what the checks found, by ticker that arrived.
        failed: the error's message, by missing ticker.
        refused: the tickers of `failed` whose answer is one of `REFUSED`.
        dates: the distinct session dates of all tickers, sorted.
    """

    findings: dict[str, list[Finding]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    dates: pd.DatetimeIndex = field(default_factory=lambda: pd.DatetimeIndex([]))


def fetch_prices(
    source: Source,
    tickers: list[str],
    start: str | None,
    end: str | None,
    max_missing_share: float,
) -> Iterator[tuple[dict[str, pd.DataFrame], FetchResult]]:
    """Fetch and check one ticker after the other, so that only one is in memory.

    When the source keeps failing, the rest are skipped, see `STOP_AFTER`. Each ticker logs a line.

    Yields:
        For each ticker that arrived, a file name and its prices (the columns of
        `candlecast.sources.checks.COLUMNS`), and at the end no file; each with the result so far,
        always the same object.
    """
    first, last = (dt.date.fromisoformat(day) if day else None for day in (start, end))
    result = FetchResult()
    failures: list[SourceError | ContractError] = []  # in a row
    for ticker in track(tickers, "fetch", str):
        if failures and len(failures) >= STOP_AFTER[failures[-1].reason]:
            break
        try:
            sessions = source(ticker, first, last)
            prices, findings = check_sessions(ticker, sessions, max_missing_share, first, last)
        except (SourceError, ContractError) as error:
            result.failed[ticker] = str(error)
            if error.reason in REFUSED:
                result.refused.append(ticker)
            failures = [*failures, error] if error.reason in STOP_AFTER else []
        else:
            failures = []
            result.findings[ticker] = findings
            result.dates = result.dates.union(pd.DatetimeIndex(prices["session"]))
            yield {quote(ticker, safe=""): _for_spark(prices)}, result
        _log_ticker(ticker, result)
    skipped = tickers[len(result.findings) + len(result.failed) :]
    names = ", ".join(error.ticker for error in failures)
    result.failed |= dict.fromkeys(skipped, f"skipped after {names} failed")
    for ticker in skipped:
        _log_ticker(ticker, result)
    yield {}, result


def _for_spark(prices: pd.DataFrame) -> pd.DataFrame:
    """Convert to types that Spark reads: sessions as dates, times in microseconds."""
    days = prices["session"].astype("datetime64[s]").astype("date32[pyarrow]")
    return prices.assign(session=days, ingested_at=prices["ingested_at"].dt.as_unit("us"))


def _log_ticker(ticker: str, result: FetchResult) -> None:
    if ticker in result.failed:
        [reason, *_] = result.failed[ticker].splitlines()
        logger.warning("  %-10s missing: %s", ticker, reason)
        return
    rules = {finding.rule: finding for finding in result.findings[ticker]}
    logger.info(
        "  %-10s %6d sessions, %s, %d missing; requested: %s",
        ticker,
        rules["stored"].found,
        rules["stored"].detail,
        rules["missing sessions"].found,
        rules["requested"].detail,
    )


def accept_tickers(
    fetch_result: FetchResult, needed_sessions: int, allow_missing_tickers: bool
) -> list[str]:
    """Return the tickers to store, which are those that arrived. Spark has not started yet.

    If others are missing, these are stored nevertheless: `require_all_tickers` ends the run later.

    Raises:
        IngestError: no ticker arrived, or an answer was refused and no ticker may be missing.
        NotEnoughDataError: there are too few sessions to window, split and validate.
    """
    arrived, failed = list(fetch_result.findings), fetch_result.failed
    if not arrived or (fetch_result.refused and not allow_missing_tickers):
        raise IngestError(failed, of=len(arrived) + len(failed), stored=0)
    found = len(fetch_result.dates)
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


def tabulate_quality(fetch_result: FetchResult, price_changes: list[Finding]) -> pd.DataFrame:
    """Tabulate what was found in the prices, one row per ticker and rule.

    Returns:
        The columns of `candlecast.sources.checks.Finding`, and ``rows_dropped``. A ticker that did
        not arrive has the one rule ``missing``, with the reason as its detail.
    """
    arrived = [finding for findings in fetch_result.findings.values() for finding in findings]
    missing = [
        Finding(ticker, "missing", 0, 0, 0, reason)
        for ticker, reason in fetch_result.failed.items()
    ]
    table = pd.DataFrame([*arrived, *price_changes, *missing])
    return table.assign(rows_dropped=table["rows_in"] - table["rows_kept"])


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
    start: str | None,
    end: str | None,
) -> DataFrame:
    """Select the requested range of the tickers that arrived: one row per ticker and session.

    A ticker that `quality` lists as missing is left out, even if earlier runs stored its sessions.

    Raises:
        NotEnoughDataError: a ticker was never fetched.
    """
    if never := sorted(set(tickers) - set(quality["ticker"])):
        raise NotEnoughDataError(
            f"Never fetched: {', '.join(never)}. To fix this, fetch them: kedro run --tags ingest"
        )
    missing = quality.loc[quality["rule"] == "missing", "ticker"]
    arrived = sorted(set(tickers) - set(missing))
    return prices.where(F.col("ticker").isin(arrived) & in_range(start, end))
