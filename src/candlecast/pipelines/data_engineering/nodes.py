"""Functions of the data_engineering pipeline."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from urllib.parse import quote

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from rich.console import Console
from rich.progress import track

from candlecast.errors import (
    CandlecastError,
    MissingTickersError,
    RefusedError,
    SourceError,
    TooLittleHistoryError,
    UnknownTickerError,
)
from candlecast.features.split import sessions_needed, split_windows
from candlecast.features.windows import Body, add_windows
from candlecast.sources.checks import Finding, Source, as_date, check_sessions
from candlecast.sources.merging import REPLACED, compare_history, merge_history

logger = logging.getLogger(__name__)


@dataclass
class FetchResult:
    """What became of the tickers asked for, so far.

    Attributes:
        findings: of each ticker that arrived and passed its checks, by ticker.
        failed: why, of each ticker that did not, by ticker.
        dates: the distinct session dates that arrived, sorted.
    """

    findings: dict[str, list[Finding]] = field(default_factory=dict)
    failed: dict[str, CandlecastError] = field(default_factory=dict)
    dates: pd.DatetimeIndex = field(default_factory=lambda: pd.DatetimeIndex([]))


def fetch_prices(
    source: Source,
    tickers: list[str],
    start: str | None,
    end: str | None,
    max_missing_share: float,
    allow_missing_tickers: bool,
    window: int,
    purge: int,
    folds: int,
    test_fraction: float,
    min_training_sessions: int,
) -> Iterator[tuple[dict[str, pd.DataFrame], FetchResult]]:
    """Fetch and check one ticker after the other, so that only one is in memory.

    A bar shows the progress on a terminal, else one line per ticker. No further ticker is asked for
    when the source has had too many requests, or did not answer for three tickers in a row.

    Yields:
        For each ticker that passed: its sessions (see `candlecast.sources.checks.check_sessions`;
        the session a date) under a file name of its own, and what has arrived so far.

    Raises:
        RefusedError: an answer breaks a contract, and missing tickers are not allowed.
        MissingTickersError: no ticker arrived.
        TooLittleHistoryError: the sessions are too few to window, split and validate.
    """
    fetch_result, in_a_row, stopped = FetchResult(), list[str](), ""
    bar = sys.stderr.isatty()
    for ticker in track(tickers, "Fetching", console=Console(stderr=True), disable=not bar):
        try:
            if stopped:
                raise SourceError(stopped)
            sessions = source(ticker, as_date(start), as_date(end))
            checked, findings = check_sessions(ticker, sessions, max_missing_share, as_date(end))
        except CandlecastError as error:
            if isinstance(error, UnknownTickerError):
                error.known = {*error.known, *tickers}
            fetch_result.failed[ticker] = error.with_traceback(None)  # which would keep its frames
            in_a_row = [*in_a_row, ticker] if error.patience else []
            if error.patience and len(in_a_row) >= error.patience:
                stopped = f"not asked for, since {', '.join(in_a_row)} failed"
        else:
            in_a_row = []
            fetch_result.findings[ticker] = [_asked(ticker, checked, start, end), *findings]
            fetch_result.dates = fetch_result.dates.union(pd.DatetimeIndex(checked["session"]))
            yield {quote(ticker, safe=""): _for_spark(checked)}, fetch_result
        if not bar:
            _tell(fetch_result, [ticker])
    if bar:
        _tell(fetch_result, tickers)
    refused = [error for error in fetch_result.failed.values() if error.refuses]
    if refused and not allow_missing_tickers:
        raise RefusedError(refused, of=len(tickers))
    if not fetch_result.findings:
        raise MissingTickersError(fetch_result.failed, of=len(tickers))
    if fetch_result.failed and not allow_missing_tickers:
        return  # what came is stored, then tabulate_quality ends the run
    needed = sessions_needed(window, purge, folds, test_fraction, min_training_sessions)
    if len(fetch_result.dates) < needed:
        raise TooLittleHistoryError(
            len(fetch_result.dates),
            needed,
            window,
            purge,
            folds,
            test_fraction,
            min_training_sessions,
        )


def _asked(ticker: str, checked: pd.DataFrame, start: str | None, end: str | None) -> Finding:
    """What was asked for, and where the answer ends if the end lies in the future."""
    last, today = (f"{checked[name].max():%Y-%m-%d}" for name in ("session", "ingested_at"))
    detail = f"{start or 'the first'} to {end or 'the last'}"
    if end and last < end and today <= end:
        detail += f", capped at {last}, the last session that has closed"
    return Finding(ticker, "asked", len(checked), len(checked), len(checked), detail)


def _for_spark(checked: pd.DataFrame) -> pd.DataFrame:
    """The same rows in types that Spark reads: sessions as dates, times in microseconds."""
    days = checked["session"].astype("datetime64[s]").astype("date32[pyarrow]")
    return checked.assign(session=days, ingested_at=checked["ingested_at"].dt.as_unit("us"))


def _tell(fetch_result: FetchResult, tickers: Iterable[str]) -> None:
    """Log one line per ticker: what was asked, what came, what is missing."""
    for ticker in tickers:
        if ticker in fetch_result.failed:
            [why, *_] = str(fetch_result.failed[ticker]).splitlines()
            logger.warning("  %-10s missing: %s", ticker, why)
            continue
        rules = {finding.rule: finding for finding in fetch_result.findings[ticker]}
        logger.info(
            "  %-10s %6d sessions, %s, %d absent; asked for %s",
            ticker,
            rules["stored"].found,
            rules["stored"].detail,
            rules["sessions absent"].found,
            rules["asked"].detail,
        )


def compare_prices(
    fetched: DataFrame,
    stored_prices: DataFrame | None,
    fetch_result: FetchResult,
    start: str | None,
    end: str | None,
) -> list[Finding]:
    """Compare fetched and stored prices; see `candlecast.sources.merging.compare_history`."""
    if stored_prices is None:
        return []
    findings = compare_history(fetched, _arrived(stored_prices, fetch_result), start, end)
    for finding in findings:
        if finding.found:
            logger.warning("  %-10s %s: %s", finding.ticker, finding.rule, finding.detail)
    return findings


def merge_prices(
    fetched: DataFrame, fetch_result: FetchResult, history: list[Finding]
) -> Callable[[DataFrame | None], DataFrame]:
    """Merge fetched and stored prices; see `candlecast.sources.merging.merge_history`.

    Returns:
        A function of the stored prices, since another job may store some until these are saved. It
        returns the sessions to store of the tickers that arrived in this run, one row per ticker
        and session.
    """
    replaced = [finding.ticker for finding in history if finding.rule == REPLACED]

    def merge(stored: DataFrame | None) -> DataFrame:
        if stored is None:
            return fetched
        return merge_history(fetched, _arrived(stored, fetch_result), replaced)

    return merge


def _arrived(prices: DataFrame, fetch_result: FetchResult) -> DataFrame:
    return prices.where(F.col("ticker").isin(list(fetch_result.findings)))


def tabulate_quality(
    fetch_result: FetchResult, history: list[Finding], allow_missing_tickers: bool
) -> Iterator[pd.DataFrame]:
    """Tabulate what was found in the prices; then end the run if a ticker is missing.

    Yields:
        One row per ticker and rule: ``rows_in``, ``rows_kept``, ``rows_dropped``, ``found`` (rows
        or sessions that the rule is about) and ``detail``. A ticker that did not arrive has the one
        rule ``missing``.

    Raises:
        MissingTickersError: a ticker did not arrive, and missing ones are not allowed. Prices and
            quality are stored by then.
    """
    arrived = [finding for findings in fetch_result.findings.values() for finding in findings]
    missing = [
        Finding(ticker, "missing", 0, 0, 0, str(error))
        for ticker, error in fetch_result.failed.items()
    ]
    table = pd.DataFrame([asdict(finding) for finding in [*arrived, *history, *missing]])
    yield table.assign(rows_dropped=table["rows_in"] - table["rows_kept"])
    if fetch_result.failed and not allow_missing_tickers:
        raise MissingTickersError(
            fetch_result.failed, of=len(fetch_result.failed) + len(fetch_result.findings)
        )


def select_prices(
    prices: DataFrame,
    quality: pd.DataFrame,
    tickers: list[str],
    start: str | None,
    end: str | None,
) -> DataFrame:
    """Select the range asked for, of the tickers that arrived: one row per ticker and session.

    A ticker that `quality` calls missing takes no part, also when earlier runs stored sessions of
    it.

    Raises:
        CandlecastError: a ticker was never asked for.
    """
    if never := sorted(set(tickers) - set(quality["ticker"])):
        raise CandlecastError(
            f"Never fetched: {', '.join(never)}. To go on, fetch first: kedro run --tags ingest"
        )
    missing = set(quality.loc[quality["rule"] == "missing", "ticker"])
    arrived = [ticker for ticker in tickers if ticker not in missing]
    sessions = prices.where(F.col("ticker").isin(arrived))
    if start:
        sessions = sessions.where(F.col("session") >= F.lit(start).cast("date"))
    if end:
        sessions = sessions.where(F.col("session") <= F.lit(end).cast("date"))
    return sessions


def make_windows(sessions: DataFrame, window: int, body: Body) -> DataFrame:
    """Make windows of the sessions; see `candlecast.features.windows.add_windows`."""
    return add_windows(sessions, window, body)


def split_by_date(
    windows: DataFrame, test_fraction: float, purge: int
) -> tuple[DataFrame, DataFrame]:
    """Train and test, apart by date and purge; see `candlecast.features.split.split_windows`."""
    return split_windows(windows, test_fraction, purge)
