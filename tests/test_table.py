"""Prices of one's own: each kind of file and table, its columns, and what is refused."""

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.io import DatasetError
from pyspark.sql import SparkSession

from candlecast.errors import TableError
from candlecast.io import prices as price_source
from candlecast.io.files import FetchedFiles, FetchedPrices
from candlecast.io.prices import PriceSource
from candlecast.pipelines.data_engineering import nodes
from candlecast.sources.checks import COLUMNS, check_sessions
from candlecast.sources.table import find_columns, read_rows
from conftest import ROOT, Run

WEEK = ["2012-12-21", "2012-12-24", "2012-12-26", "2012-12-27", "2012-12-28", "2012-12-31"]
"""All sessions of New York around Christmas 2012."""


def own_prices(*tickers: str) -> pd.DataFrame:
    """Six sessions per ticker under one's own names; the second ticker lacks a price."""
    parts = [
        pd.DataFrame(
            {
                "Symbol": ticker,
                "Date": WEEK,
                "Open": [10.0, 11.5, 10.0, 10.5, 12.0, 11.0],
                "Last": [11.0, 10.5, 10.25, 12.5, None if number == 1 else 11.5, 12.0],
                "note": "mine",
            }
        )
        for number, ticker in enumerate(tickers)
    ]
    return pd.concat(parts, ignore_index=True)


Fetched = tuple[pd.DataFrame, nodes.FetchResult]


@pytest.fixture
def fetch(tmp_path: Path, spark: SparkSession) -> Callable[..., Fetched]:
    """Fetch and check the prices of a file or table, as a run does."""

    def of(
        prices: Path | str,
        *tickers: str,
        columns: dict[str, str] | None = None,
        start: str | None = None,
        end: str | None = None,
        calendar: str | None = None,
    ) -> Fetched:
        source = PriceSource(prices=str(prices), tickers=tickers, columns=columns).load()
        folder = str(tmp_path / "fetched")
        files = FetchedFiles(path=folder)
        for chunk in nodes.fetch_prices(source, list(tickers), start, end, 0.2, calendar):
            files.save(chunk)
        result = nodes.collect_outcomes(files.load(), list(tickers), str(prices))
        rows = FetchedPrices(path=folder).load().toPandas()
        return rows.sort_values(["ticker", "session"], ignore_index=True), result

    return of


# --- Kinds of files and tables --------------------------------------------------------------------


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> dict[str, str]:
    """The same prices as each kind, by kind."""
    folder, frame = tmp_path_factory.mktemp("kinds"), own_prices("IBM", "7203.T", "MINE")
    frame.to_csv(folder / "own.csv", index=False)
    frame.to_csv(folder / "large.csv", index=False)
    typed = frame.assign(Date=pd.to_datetime(frame["Date"]).dt.date)
    typed.to_parquet(folder / "own.parquet", index=False)
    table = spark.createDataFrame(typed)
    table.repartition(3).write.parquet(str(folder / "parts"))
    table.write.format("delta").save(str(folder / "delta"))
    spark.sql("CREATE SCHEMA IF NOT EXISTS own")
    table.write.format("delta").mode("overwrite").saveAsTable("own.prices")
    names = ("own.csv", "large.csv", "own.parquet", "parts", "delta")
    return {name: str(folder / name) for name in names} | {"name": "spark_catalog.own.prices"}


@pytest.mark.parametrize("kind", ["own.csv", "large.csv", "own.parquet", "parts", "delta", "name"])
def test_every_kind_gives_the_same_prices_and_findings(
    kind: str, kinds: dict[str, str], fetch: Callable[..., Fetched], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "large.csv":
        monkeypatch.setattr(price_source, "SMALL", 0)
    rows, result = fetch(kinds[kind], columns={"close": "Last"})
    assert list(rows) == COLUMNS
    assert rows["source"].unique().tolist() == [Path(kinds[kind]).name]
    assert rows.groupby("ticker").size().to_dict() == {"7203.T": 6, "IBM": 6, "MINE": 6}
    ibm = rows[rows["ticker"] == "IBM"]
    assert [f"{day}" for day in ibm["session"]] == WEEK
    assert ibm["close"].tolist() == [11.0, 10.5, 10.25, 12.5, 11.5, 12.0]
    assert (
        rows[["high", "low", "adj_close", "volume", "dividends", "stock_splits"]].isna().all(None)
    )
    assert (result.failed, result.sessions) == ({}, 6)
    expected = own_prices("IBM", "7203.T", "MINE").rename(
        columns={"Symbol": "ticker", "Date": "session", "Open": "open", "Last": "close"}
    )
    for ticker, group in expected.groupby("ticker"):
        moment = pd.Timestamp("2026-01-01", tz="UTC")
        sessions = read_rows("own", moment, group, None, None)
        assert result.findings[ticker] == check_sessions(ticker, sessions, 0.2)[1]
    missing = {finding.rule: finding for finding in result.findings["7203.T"]}
    assert missing["no open or close"].found == 1
    assert missing["missing sessions"].detail.startswith("calendar XTKS")


def test_requested_tickers_and_range_are_selected_by_both_readers(
    kinds: dict[str, str], fetch: Callable[..., Fetched]
) -> None:
    for kind in ("own.csv", "delta"):
        rows, result = fetch(
            kinds[kind], "IBN", "IBM", columns={"close": "Last"}, start=WEEK[2], end=WEEK[3]
        )
        assert [f"{row.ticker} {row.session}" for row in rows.itertuples()] == [
            f"IBM {day}" for day in WEEK[2:4]
        ]
        assert list(result.findings) == ["IBM"]
        assert "unknown ticker" in result.failed["IBN"]
        assert "Did you mean IBM?" in result.failed["IBN"]
        _, none = fetch(kinds[kind], "IBM", columns={"close": "Last"}, start="2020-01-01")
        assert "no sessions (it has 2012-12-21 to 2012-12-31" in none.failed["IBM"]


def test_types_of_a_parquet_file(tmp_path: Path, fetch: Callable[..., Fetched]) -> None:
    """Tickers that are numbers, times at midnight, decimals, texts and whole numbers."""
    frame = pd.DataFrame(
        {
            "ticker": [7203, 7203],
            "session": pd.to_datetime(WEEK[:2]),
            "open": [Decimal("10.50"), Decimal("11.25")],
            "high": ["12.5", "nan"],
            "close": [11, 12],
        }
    )
    frame.to_parquet(tmp_path / "own.parquet", index=False)
    rows, result = fetch(tmp_path / "own.parquet")
    assert result.failed == {}
    assert rows["ticker"].tolist() == ["7203", "7203"]
    assert [f"{day}" for day in rows["session"]] == WEEK[:2]
    assert rows["open"].tolist() == [10.5, 11.25]
    assert (rows["high"][0], rows["high"].isna().tolist()) == (12.5, [False, True])
    assert rows["close"].tolist() == [11.0, 12.0]


def test_a_file_of_one_ticker_needs_no_such_column(
    tmp_path: Path, fetch: Callable[..., Fetched]
) -> None:
    own_prices("IBM").drop(columns="Symbol").to_csv(tmp_path / "own.csv", index=False)
    own_prices("IBM").drop(columns="Symbol").to_parquet(tmp_path / "own.parquet", index=False)
    for name in ("own.csv", "own.parquet"):
        rows, _ = fetch(tmp_path / name, "COIN", columns={"close": "Last"})
        assert rows["ticker"].tolist() == ["COIN"] * 6
        with pytest.raises(DatasetError, match="no column for ticker") as caught:
            fetch(tmp_path / name, columns={"close": "Last"})
        assert "--params tickers=<ticker>" in str(caught.value)


def test_a_ticker_that_ends_before_others_of_its_calendar_is_named(
    tmp_path: Path, fetch: Callable[..., Fetched], caplog: pytest.LogCaptureFixture
) -> None:
    own = own_prices("GONE", "GE", "IBM", "7203.T")
    own = own[~own["Symbol"].isin(["GONE", "7203.T"]) | (own["Date"] < WEEK[-1])]
    own.to_csv(tmp_path / "own.csv", index=False)
    with caplog.at_level("WARNING", "candlecast"):
        fetch(tmp_path / "own.csv", columns={"close": "Last"})
    [warning] = [line.split() for line in caplog.messages if "ends on" in line]
    assert warning == ["GONE", "ends", "on", f"{WEEK[-2]},", "others", "on", str(WEEK[-1])]


def test_the_calendar_of_all_tickers_can_be_given(
    tmp_path: Path, fetch: Callable[..., Fetched]
) -> None:
    own_prices("COIN").to_csv(tmp_path / "own.csv", index=False)
    for calendar, detail in {
        None: "calendar XNYS",
        "24/7": "calendar 24/7; the first: 2012-12-22",
        "24/5": "calendar 24/5; the first: 2012-12-25",
    }.items():
        _, result = fetch(tmp_path / "own.csv", columns={"close": "Last"}, calendar=calendar)
        assert result.findings["COIN"][-1].detail == detail


# --- Columns --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "given", "expected"),
    [
        (
            ["Date", "Open", "Close", "Symbol", "Adj Close", "Volume", "Stock Splits", "x"],
            {},
            {
                "ticker": "Symbol",
                "session": "Date",
                "open": "Open",
                "close": "Close",
                "adj_close": "Adj Close",
                "volume": "Volume",
                "stock_splits": "Stock Splits",
            },
        ),
        (
            ["DATETIME", "date", "ticker", "open", "close", "last"],
            {"session": "date", "close": "last"},
            {"ticker": "ticker", "session": "date", "open": "open", "close": "last"},
        ),
    ],
)
def test_columns_are_found_by_name(
    found: list[str], given: dict[str, str], expected: dict[str, str]
) -> None:
    assert find_columns("own", found, given, one_ticker=False) == expected


@pytest.mark.parametrize(
    ("found", "given", "words"),
    [
        (["ticker", "date", "open", "closed"], {}, ["close", "closed", "columns.close=closed"]),
        (
            ["ticker", "date", "open", "close"],
            {"close": "Clse"},
            ["close (Clse)", "columns.close=close"],
        ),
        (["ticker", "date", "Date", "open", "close"], {}, ["date and Date", "columns.session="]),
        (["ticker;date;open;close"], {}, ["separated by ';'", "ticker;date;open;close", "commas"]),
        (
            ["ticker", "date", "Open"],
            {"close": "Open"},
            ["close and open have the same column Open", "columns."],
        ),
    ],
)
def test_fault_09_a_missing_column_of_a_table_is_named_with_what_it_has(
    found: list[str], given: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(TableError) as caught:
        find_columns("own", found, given, one_ticker=False)
    assert [word for word in words if word not in str(caught.value)] == []


# --- Refusals -------------------------------------------------------------------------------------


def without(path: Path) -> None:
    path.mkdir()
    (path / "readme.txt").write_text("no prices")


def text(content: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(content)


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("none.csv", None, "it does not exist"),
        ("none", None, "it does not exist"),
        ("folder", without, "it is not a CSV file, a Parquet file or folder, or a Delta table"),
        ("empty.csv", text(""), "it can't be read as"),
        ("header.csv", text("ticker,date,open,close\n"), "it has no rows"),
        ("blank.csv", text("ticker,date,open,close\n,2022-01-03,1,1\n"), "rows without a ticker"),
        ("broken.parquet", text("PAR1 no"), "it can't be read as"),
    ],
)
def test_a_file_that_holds_no_prices_is_refused(
    name: str, write: Callable[[Path], Any] | None, words: str, tmp_path: Path, spark: SparkSession
) -> None:
    if write:
        write(tmp_path / name)
    with pytest.raises(DatasetError, match=words) as caught:
        PriceSource(prices=str(tmp_path / name), tickers=()).load()
    assert name in str(caught.value)


def test_a_table_that_is_not_there_is_named(spark: SparkSession) -> None:
    with pytest.raises(DatasetError, match=r"own\.nothing.*can't be read.*TABLE_OR_VIEW_NOT_FOUND"):
        PriceSource(prices="own.nothing", tickers=()).load()


BROKEN = [
    ("a session is a date", ("2012-12-24 16:00", 10.0, 11.0)),
    ("a session is a date", ("2012-12-24T00:00:00Z", 10.0, 11.0)),
    ("a session is a date", ("12/24/2012", 10.0, 11.0)),
    ("a session is a date", ("", 10.0, 13.0)),
    ("open is a number", (WEEK[1], "1,234.5", 11.0)),
    ("one row per session", (WEEK[0], 10.0, 12.0)),
    ("prices are positive", (WEEK[1], -10.0, 11.0)),
]


@pytest.mark.parametrize("small", [price_source.SMALL, 0], ids=["pandas", "Spark"])
def test_a_row_that_breaks_a_rule_is_refused_and_shown(
    small: int, tmp_path: Path, fetch: Callable[..., Fetched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(price_source, "SMALL", small)
    rows = [
        (f"T{number}", *row)
        for number, (_, broken) in enumerate(BROKEN)
        for row in ((WEEK[0], 10.0, 11.0), broken)
    ]
    names = ["ticker", "date", "open", "close"]
    pd.DataFrame(rows, columns=names).to_csv(tmp_path / "own.csv", index=False)
    prices, result = fetch(tmp_path / "own.csv")
    assert (len(prices), result.refused) == (0, list(result.failed))
    for (rule, row), message in zip(BROKEN, result.failed.values(), strict=True):
        assert f"the rule '{rule}'" in message
        assert str(row[0] or row[2]).split()[0] in message.partition("The first:")[2]


@pytest.mark.parametrize("small", [price_source.SMALL, 0], ids=["pandas", "Spark"])
def test_times_of_day_are_refused_and_midnights_are_dates(
    small: int, tmp_path: Path, fetch: Callable[..., Fetched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(price_source, "SMALL", small)
    times = pd.to_datetime(["2012-12-24 16:00", "2012-12-24 00:00"]).astype("datetime64[us]")
    frame = pd.DataFrame({"ticker": ["NOON", "GOOD"], "Datetime": times, "open": 10.0})
    frame.assign(close=11.0).to_parquet(tmp_path / "own.parquet", index=False)
    rows, result = fetch(tmp_path / "own.parquet")
    assert rows["ticker"].tolist() == list(result.findings) == ["GOOD"]
    assert "the rule 'a session is a date'" in result.failed["NOON"]
    zoned = frame.assign(close=11.0, Datetime=times.tz_localize("America/New_York"))
    zoned.to_parquet(tmp_path / "own.parquet", index=False)
    _, result = fetch(tmp_path / "own.parquet")
    assert list(result.failed) == ["GOOD", "NOON"]


# --- A run ----------------------------------------------------------------------------------------


def test_the_log_has_a_line_for_the_first_tickers_only(
    tmp_path: Path, fetch: Callable[..., Fetched], caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"T{number:02d}" for number in range(30)]
    own_prices("first", "second", *names).to_csv(tmp_path / "own.csv", index=False)
    requested = [*names, *(name.lower() for name in names)]
    with caplog.at_level("INFO", "candlecast"):
        fetch(tmp_path / "own.csv", *requested, columns={"close": "Last"})
    tickers = [message.split()[0] for message in caplog.messages]
    more = "…"
    assert tickers == [*names[:20], more, *(name.lower() for name in names[:20]), more, "prices"]
    assert caplog.messages[-1] == "  prices from own.csv: 30 tickers, 30 missing"


@pytest.mark.slow
def test_all_tickers_of_a_table_are_windowed_and_no_others(
    run: Run, stored: Path, tmp_path: Path, spark: SparkSession
) -> None:
    """In a data root that holds the sample's AAPL and IBM, in two processes of one candidate."""
    sample = pd.read_csv(ROOT / "data/sample/prices.csv")
    own = sample[sample["session"] >= "2011-06-01"].drop(columns=["volume", "adj_close"])
    own = own.replace({"ticker": {"AAPL": "one", "IBM": "two"}})
    own = own[own["ticker"].isin(["one", "two"])]
    own.rename(columns={"session": "Day", "close": "Last"}).to_csv(tmp_path / "o.csv", index=False)
    small = {"folds": 2, "window": 3}
    table = {"env": "table", "prices": str(tmp_path / "o.csv"), "candidate": "own", **small}
    table["columns"] = {"session": "Day", "close": "Last"}
    run(**table, tags=["ingest"])
    run(**table, tags=["preprocess"])
    tables = {
        name: spark.read.format("delta").load(f"{stored}/tables/{name}")
        for name in ("prices", "quality", "windows")
    }
    found = {name: table.select("ticker").distinct().collect() for name, table in tables.items()}
    assert {name: sorted(row[0] for row in rows) for name, rows in found.items()} == {
        "prices": ["AAPL", "IBM", "one", "two"],
        "quality": ["AAPL", "IBM", "one", "two"],
        "windows": ["one", "two"],
    }
    sources = tables["quality"].select("ticker", "source").distinct().collect()
    assert dict(sources) == {
        **dict.fromkeys(["AAPL", "IBM"], "sample"),
        **dict.fromkeys(["one", "two"], "o.csv"),
    }
    [ingested] = (
        tables["prices"].where("source = 'sample'").select("ingested_at").distinct().collect()
    )
    assert ingested[0] == dt.datetime(2026, 11, 24)  # noqa: DTZ001 # as Spark returns it
