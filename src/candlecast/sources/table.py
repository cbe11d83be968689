"""Prices of one's own: which column is which, and what a ticker's rows hold.

A source is a `Source`, whatever it reads; the same checks follow (`candlecast.sources.checks`).
"""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from candlecast.errors import ContractError, SourceError, TableError
from candlecast.sources.checks import COLUMNS

YAHOO, SAMPLE = "yahoo", "data/sample/prices.csv"
"""Values of the parameter ``prices`` that have a name of their own in the column ``source``."""

REQUIRED = ("ticker", "session", "open", "close")
OTHER_NAMES = {
    "ticker": ("symbol",),
    "session": ("date", "datetime"),
    "adj_close": ("adjclose", "adjusted_close"),
    "stock_splits": ("splits",),
}
"""Common names of columns beside ours, in small letters."""
EMPTY = ("", "na", "n/a", "nan", "null", "none")
"""Texts of a number that is missing, in small letters."""
DATE = r"^\s*(\d{4}-?\d\d-?\d\d)(?:[T ]00:00(?::00(?:\.0+)?)?)?\s*$"
"""A date in ISO's two forms, maybe with midnight after it."""


@dataclass(frozen=True)
class Source:
    """Where prices come from.

    Attributes:
        name: what stands in the column ``source``.
        tickers: those that it holds; of Yahoo, those among which a near match is looked up.
        fetch: takes a ticker, the first and the last session (None: all there is) and returns one
            row per session with the columns of `COLUMNS`, or raises a SourceError.
        table: the rows of all tickers, to be read by Spark in one go, and a function that makes of
            a ticker's rows what `fetch` returns; None: fetch one ticker after the other.
    """

    name: str
    tickers: Sequence[str]
    fetch: Callable[[str, dt.date | None, dt.date | None], pd.DataFrame]
    table: tuple[DataFrame, Callable[..., pd.DataFrame]] | None = None


def source_name(prices: str) -> str:
    """Return what stands in the column ``source`` for a value of the parameter ``prices``.

    >>> source_name("data/sample/prices.csv"), source_name("/x/my.csv"), source_name("main.fx.day")
    ('sample', 'my.csv', 'main.fx.day')
    """
    return "sample" if prices == SAMPLE else Path(prices).name


def select_quality(quality: pd.DataFrame, tickers: list[str], prices_from: str) -> pd.DataFrame:
    """Select what was found of the requested tickers; of all of the source if none is named."""
    requested = quality["ticker"].isin(tickers)
    return quality[requested if tickers else quality["source"] == source_name(prices_from)]


def find_columns(
    name: str, found: Sequence[str], given: Mapping[str, str], one_ticker: bool
) -> dict[str, str]:
    """Find the columns of a table: by the names that are given, else by common ones in any case.

    Args:
        name: the table's.
        found: its columns.
        given: their names by ours (the parameter ``columns``).
        one_ticker: whether a column with the ticker may be missing.

    Returns:
        Their names by ours, of those that are there.

    Raises:
        TableError: one is missing, two could be meant, or two of ours are the same one.
    """
    columns = dict(given)
    for ours in COLUMNS[:-2]:
        known = (ours, *OTHER_NAMES.get(ours, ()))
        likely = [theirs for theirs in found if theirs.lower().replace(" ", "_") in known]
        if ours in given or not likely:
            continue
        if len(likely) > 1:
            problem = f"{' and '.join(likely)} could both be the column {ours}"
            raise TableError(name, problem, f"Name it: --params columns.{ours}=<name>")
        columns[ours] = likely[0]
    for theirs in dict.fromkeys(columns.values()):
        several = [ours for ours, other in columns.items() if other == theirs]
        if len(several) > 1:
            problem = f"{' and '.join(several)} have the same column {theirs}"
            raise TableError(name, problem, f"Name another: --params columns.{several[-1]}=<name>")
    wrong = {ours: theirs for ours, theirs in given.items() if theirs not in found}
    needed = REQUIRED[1:] if one_ticker else REQUIRED
    wrong |= {ours: ours for ours in needed if ours not in columns}
    if not wrong:
        return columns
    if len(found) == 1 and (separator := next((each for each in ";\t|" if each in found[0]), None)):
        problem = f"its columns are separated by {separator!r}: {found[0]}"
        raise TableError(name, problem, "Write it with commas")
    near = {ours: get_close_matches(text, found, n=1) or ["<name>"] for ours, text in wrong.items()}
    names = ",".join(f"columns.{ours}={theirs}" for ours, [theirs] in near.items())
    advice = f'Name what it has: --params "{names}"'
    if "ticker" in wrong:
        advice += ", or the one ticker of all rows: --params tickers=<ticker>"
    lacking = ", ".join(
        ours if ours == text else f"{ours} ({text})" for ours, text in wrong.items()
    )
    problem = f"no column for {lacking}; it has {', '.join(found)}"
    raise TableError(name, problem, advice)


def make_source(
    name: str,
    ingested_at: pd.Timestamp,
    rows: pd.DataFrame | DataFrame,
    given: Mapping[str, str],
    tickers: Sequence[str],
) -> Source:
    """Make a source of a table: a pandas frame, or a Spark frame that is not collected.

    Args:
        name: the source's.
        ingested_at: the time (UTC) of all rows.
        rows: as they are, with any columns.
        given: see `find_columns`.
        tickers: the requested ones. One stands for all rows of a table without such a column.

    Raises:
        TableError: a column is missing, the table is empty, or a row has no ticker.
    """
    one = tickers[0] if len(tickers) == 1 else None
    columns = find_columns(name, list(rows.columns), given, one_ticker=one is not None)
    read = partial(read_rows, name, ingested_at)
    groups: dict[Any, pd.DataFrame] = {}
    table: DataFrame | None = None
    if isinstance(rows, pd.DataFrame):
        frame = rows[list(columns.values())].set_axis(list(columns), axis=1)
        named = frame["ticker"].fillna("").astype(str) if "ticker" in columns else one
        groups = dict(iter(frame.assign(ticker=named).groupby("ticker", sort=False)))
        held = [*groups]
    else:
        chosen = {ours: F.col(f"`{theirs}`") for ours, theirs in columns.items()}
        ticker = chosen.pop("ticker", F.lit(one)).cast("string")
        table = rows.select(
            F.coalesce(ticker, F.lit("")).alias("ticker"),
            *(column.alias(ours) for ours, column in chosen.items()),
        )
        held = [row[0] for row in table.select("ticker").distinct().orderBy("ticker").collect()]
    if not held:
        raise TableError(name, "it has no rows", "Look at it, or name another: --params prices=…")
    if "" in held:
        raise TableError(name, "rows without a ticker", "Remove them, or name their ticker.")

    def fetch(ticker: str, start: dt.date | None, end: dt.date | None) -> pd.DataFrame:
        if ticker not in groups:
            cause = "it has no such ticker"
            raise SourceError(name, ticker, start, end, 1, "unknown ticker", cause, known=held)
        return read(groups[ticker], start, end)

    return Source(name, held, fetch, None if table is None else (table, read))


def read_rows(
    name: str,
    ingested_at: pd.Timestamp,
    rows: pd.DataFrame,
    start: dt.date | None,
    end: dt.date | None,
) -> pd.DataFrame:
    """Read a ticker's rows of a table with our names: dates and numbers, of any type or as text.

    Returns:
        The sessions of the range with the columns of `COLUMNS`; NaN in those that are not there.

    Raises:
        ContractError: a text is no date or no number.
        SourceError: no session is in the range.
    """
    [ticker] = rows["ticker"].unique()
    session = _dates(ticker, rows)
    values: dict[str, Any] = {"ticker": ticker, "session": session}
    for column in COLUMNS[2:-2]:
        values[column] = _numbers(ticker, rows, column) if column in rows else float("nan")
    values |= {"source": name, "ingested_at": ingested_at}
    table = pd.DataFrame(values, index=rows.index)
    if session.dtype != "datetime64[ns]":
        return table  # with a zone: check_sessions refuses it
    first, last = session.min(), session.max()
    chosen = session.between(pd.Timestamp(start or first), pd.Timestamp(end or last))
    if not chosen.any() and not session.isna().any():
        cause = f"it has {first:%Y-%m-%d} to {last:%Y-%m-%d}"
        raise SourceError(name, ticker, start, end, 1, "no sessions", cause)
    return table[chosen | session.isna()].reset_index(drop=True)


def _dates(ticker: str, rows: pd.DataFrame) -> "pd.Series[Any]":
    """Return the sessions as times without a zone; of times with one, as they are."""
    given = rows["session"]
    if pd.api.types.is_datetime64_any_dtype(given):
        return given if given.dt.tz else given.astype("datetime64[ns]")
    days = pd.to_datetime(
        given.astype(str).str.extract(DATE, expand=False), format="ISO8601", errors="coerce"
    )
    if days.isna().any():
        remedy = "write each as YYYY-MM-DD, without a time of day or a zone"
        raise ContractError(ticker, "a session is a date", rows[days.isna()], len(rows), remedy)
    return days


def _numbers(ticker: str, rows: pd.DataFrame, column: str) -> "pd.Series[float]":
    given = rows[column]
    numbers = pd.to_numeric(given, errors="coerce").astype(float)
    unread = numbers.isna() & given.notna()
    if unread.any():
        wrong = unread & ~given.astype(str).str.strip().str.lower().isin(EMPTY)
        if wrong.any():
            remedy = "write it with a decimal point and nothing else, or leave it empty"
            rule = f"{column} is a number"
            raise ContractError(ticker, rule, rows[wrong], len(rows), remedy)
    return numbers
