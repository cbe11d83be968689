"""Functions of the data_engineering pipeline."""

import datetime as dt
import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from urllib.parse import quote

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from rich.console import Console
from rich.progress import track

from candlecast.errors import (
    ContractError,
    IngestError,
    NotEnoughDataError,
    Reason,
    SourceError,
)
from candlecast.sources.checks import Finding, Source, check_sessions

logger = logging.getLogger(__name__)

STOP_AFTER: dict[Reason, int] = {"rate limited": 1, "unavailable": 3, "unexpected answer": 3}
"""After how many failures in a row no further ticker is requested, by the last one's reason."""


@dataclass
class FetchResult:
    """What became of the requested tickers.

    Attributes:
        findings: what the checks found, by ticker that arrived.
        failed: the reason, by ticker that is missing.
        refused: the tickers of `failed` whose answer broke a contract or was unexpected.
        dates: the distinct session dates that arrived, sorted.
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

    The other tickers are skipped when the source keeps failing, see `STOP_AFTER`. On a terminal
    there is a progress bar, and a line per ticker after it; otherwise each line comes at once.

    Yields:
        For each ticker that arrived, a file name and its prices (the columns of
        `candlecast.sources.checks.COLUMNS`); in the end no file. Beside it, the result so far:
        always the same object, which is complete in the end.
    """
    first, last = (dt.date.fromisoformat(day) if day else None for day in (start, end))
    result, failures, bar = FetchResult(), list[SourceError](), sys.stderr.isatty()
    for ticker in track(tickers, "Fetching", console=Console(stderr=True), disable=not bar):
        if failures and len(failures) >= STOP_AFTER[failures[-1].reason]:
            break
        try:
            sessions = source(ticker, first, last)
            prices, findings = check_sessions(ticker, sessions, max_missing_share, first, last)
        except (SourceError, ContractError) as error:
            result.failed[ticker] = str(error)
            if isinstance(error, ContractError) or error.reason == "unexpected answer":
                result.refused.append(ticker)
            if isinstance(error, SourceError) and error.reason in STOP_AFTER:
                failures.append(error)
            else:
                failures.clear()
        else:
            failures.clear()
            result.findings[ticker] = findings
            result.dates = result.dates.union(pd.DatetimeIndex(prices["session"]))
            yield {quote(ticker, safe=""): _for_spark(prices)}, result
        if not bar:
            _log_ticker(ticker, result)
    skipped = tickers[len(result.findings) + len(result.failed) :]
    names = ", ".join(error.ticker for error in failures)
    result.failed |= dict.fromkeys(skipped, f"skipped after {names} failed")
    for ticker in tickers if bar else skipped:
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
    """Decide which of the fetched tickers are stored, before Spark starts.

    Returns:
        The tickers that arrived. If others are missing though they may not be, these are stored
        all the same, and `require_all_tickers` ends the run.

    Raises:
        IngestError: no ticker arrived; or an answer was refused, and no ticker may be missing.
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
    """Tabulate what was found in the prices.

    Returns:
        One row per ticker and rule: the attributes of `candlecast.sources.checks.Finding`, and
        ``rows_dropped``. A ticker that did not arrive has the one rule ``missing``, with the
        reason.
    """
    arrived = [finding for findings in fetch_result.findings.values() for finding in findings]
    missing = [
        Finding(ticker, "missing", 0, 0, 0, reason)
        for ticker, reason in fetch_result.failed.items()
    ]
    table = pd.DataFrame([asdict(finding) for finding in [*arrived, *price_changes, *missing]])
    return table.assign(rows_dropped=table["rows_in"] - table["rows_kept"])


def require_all_tickers(
    prices: DataFrame, quality: pd.DataFrame, tickers: list[str], allow_missing_tickers: bool
) -> None:
    """End the run if a requested ticker is missing, once `prices` and `quality` are stored.

    Raises:
        IngestError: a ticker did not arrive, and none may be missing.
    """
    rows = quality[quality["ticker"].isin(tickers) & (quality["rule"] == "missing")]
    failed = dict(zip(rows["ticker"], rows["detail"], strict=True))
    if failed and not allow_missing_tickers:
        raise IngestError(failed, of=len(tickers), stored=len(tickers) - len(failed))


def select_prices(
    prices: DataFrame,
    quality: pd.DataFrame,
    tickers: list[str],
    start: str | None,
    end: str | None,
) -> DataFrame:
    """Select the requested range of the tickers that arrived: one row per ticker and session.

    A ticker that `quality` lists as missing is left out, even if earlier runs stored sessions of
    it.

    Raises:
        NotEnoughDataError: a ticker was never fetched.
    """
    if never := sorted(set(tickers) - set(quality["ticker"])):
        raise NotEnoughDataError(
            f"Never fetched: {', '.join(never)}. To fix this, fetch them: kedro run --tags ingest"
        )
    missing = quality.loc[quality["rule"] == "missing", "ticker"]
    selected = prices.where(F.col("ticker").isin(sorted(set(tickers) - set(missing))))
    if start:
        selected = selected.where(F.col("session") >= F.lit(start).cast("date"))
    if end:
        selected = selected.where(F.col("session") <= F.lit(end).cast("date"))
    return selected
