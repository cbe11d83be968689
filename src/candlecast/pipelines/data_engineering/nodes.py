"""Functions of the data_engineering pipeline."""

import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Literal
from urllib.parse import quote

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from rich.progress import track

from candlecast.checks import ContractError, Finding, Source, as_date, check_sessions
from candlecast.errors import (
    MissingTickersError,
    RefusedError,
    SourceError,
    TooLittleHistoryError,
)
from candlecast.history import merge_history
from candlecast.windows import add_windows, sessions_needed, split_windows

logger = logging.getLogger(__name__)


@dataclass
class Arrivals:
    """What became of the tickers asked for: findings of those that arrived, and why the others did
    not.
    """

    findings: list[Finding] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    dates: set[pd.Timestamp] = field(default_factory=set)

    @property
    def tickers(self) -> list[str]:
        """The tickers that arrived and passed their checks."""
        return list(dict.fromkeys(finding.ticker for finding in self.findings))


def fetch_sessions(
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
) -> Iterator[tuple[dict[str, pd.DataFrame], Arrivals]]:
    """Fetch and check one ticker after the other, so that only one is in memory.

    Yields:
        The checked sessions of a ticker under a file name of its own, and what has arrived so far.

    Raises:
        RefusedError: the prices of a ticker break a contract, unless missing tickers are allowed.
        MissingTickersError: no ticker arrived.
        TooLittleHistoryError: the sessions are too few to window, split and validate.
    """
    arrivals, refused = Arrivals(), list[ContractError]()
    stopped = ""
    for ticker in track(tickers, "Fetching", disable=not sys.stderr.isatty()):
        if stopped:
            arrivals.failed[ticker] = f"{ticker}: not asked for, since {stopped}"
            continue
        try:
            sessions = source(ticker, as_date(start), as_date(end))
            checked, findings = check_sessions(ticker, sessions, max_missing_share)
        except SourceError as error:
            arrivals.failed[ticker] = str(error)
            logger.warning("%s", error)
            if error.stops_all:
                stopped = f"the source had enough at {ticker}"
            continue
        except ContractError as error:
            arrivals.failed[ticker] = str(error)
            refused.append(error)
            continue
        arrivals.findings.append(_asked(ticker, checked, start, end))
        arrivals.findings.extend(findings)
        arrivals.dates.update(checked["session"])
        stored = checked.assign(
            session=checked["session"].dt.date,
            ingested_at=checked["ingested_at"].dt.as_unit("us"),
        )
        yield {quote(ticker, safe="").replace("%", "_"): stored}, arrivals
    if refused and not allow_missing_tickers:
        raise RefusedError(refused)
    if not arrivals.findings:
        raise MissingTickersError(arrivals.failed, of=len(tickers))
    needed = sessions_needed(window, purge, folds, test_fraction, min_training_sessions)
    if len(arrivals.dates) < needed:
        raise TooLittleHistoryError(
            len(arrivals.dates), needed, window, purge, folds, test_fraction, min_training_sessions
        )


def _asked(ticker: str, checked: pd.DataFrame, start: str | None, end: str | None) -> Finding:
    """What was asked for, and where the answer ends if that is earlier."""
    last = f"{checked['session'].max():%Y-%m-%d}"
    capped = f"; ends {last}, the last session that has closed" if end and last < end else ""
    detail = f"{start or 'the first'} to {end or 'the last'}{capped}"
    logger.info("  %-10s %6d sessions, asked for %s", ticker, len(checked), detail)
    return Finding(ticker, "asked", len(checked), len(checked), len(checked), detail)


def merge_prices(
    fetched: DataFrame, stored_prices: DataFrame | None, arrivals: Arrivals
) -> tuple[DataFrame, list[Finding]]:
    """The sessions to store of the tickers that arrived, one row a ticker and session.

    See `candlecast.history.merge_history`; the findings are its, none when nothing is stored yet.
    """
    arrived = fetched.where(F.col("ticker").isin(arrivals.tickers))
    return (arrived, []) if stored_prices is None else merge_history(arrived, stored_prices)


def tabulate_quality(arrivals: Arrivals, history: list[Finding]) -> pd.DataFrame:
    """What was found in the prices.

    Returns:
        One row a ticker and rule: ``rows_in``, ``rows_kept``, ``rows_dropped``, ``found`` (rows or sessions that the
        rule is about) and ``detail``. A ticker that did not arrive has the one rule ``missing``.
    """
    rows = [asdict(finding) for finding in [*arrivals.findings, *history]] + [
        {
            "ticker": ticker,
            "rule": "missing",
            "rows_in": 0,
            "rows_kept": 0,
            "found": 0,
            "detail": why,
        }
        for ticker, why in arrivals.failed.items()
    ]
    table = pd.DataFrame(rows)
    return table.assign(rows_dropped=table["rows_in"] - table["rows_kept"])


def require_tickers(arrivals: Arrivals, prices: DataFrame, allow_missing_tickers: bool) -> None:
    """End the run, now that `prices` holds what did arrive, if a ticker is missing.

    Raises:
        MissingTickersError: a ticker did not arrive and missing ones are not allowed.
    """
    del prices  # asked for so that this runs after the prices are stored
    if arrivals.failed and not allow_missing_tickers:
        raise MissingTickersError(arrivals.failed, of=len(arrivals.failed) + len(arrivals.tickers))


def make_windows(
    prices: DataFrame,
    tickers: list[str],
    start: str | None,
    end: str | None,
    window: int,
    feature: Literal["return", "delta"],
) -> DataFrame:
    """Windows of the tickers and the range asked for; see `candlecast.windows.add_windows`."""
    asked = prices.where(F.col("ticker").isin(tickers))
    if start:
        asked = asked.where(F.col("session") >= F.lit(start).cast("date"))
    if end:
        asked = asked.where(F.col("session") <= F.lit(end).cast("date"))
    return add_windows(asked, window, feature)


def split_by_date(
    windows: DataFrame, test_fraction: float, purge: int
) -> tuple[DataFrame, DataFrame]:
    """Train and test, apart by date and purge; see `candlecast.windows.split_windows`."""
    return split_windows(windows, test_fraction, purge)
