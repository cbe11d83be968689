"""Faults of the source through the ingest nodes: yfinance itself, a loopback Yahoo, Delta tables.

yfinance 1.7 repeats a request answered with 400 or more once: such an attempt is two requests.
"""

import io
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.config import OmegaConfigLoader
from kedro.io import DataCatalog
from kedro.runner import SequentialRunner
from pyspark.sql import SparkSession

from candlecast.errors import IngestError, NotEnoughDataError, Reason, SourceError
from candlecast.io.files import FetchedFiles
from candlecast.parameters import ParameterError, check_parameters
from candlecast.pipelines.data_engineering import create_pipeline, nodes
from candlecast.sources.checks import COLUMNS
from candlecast.sources.table import Source
from conftest import ROOT
from yahoo_server import (
    CRYPTO,
    NEW_YORK,
    RESET,
    TOKYO,
    TOO_MANY,
    Reply,
    YahooServer,
    prices,
    redirected,
    walk,
)

FORTNIGHT = [
    ("2022-01-03", 10.0, 12.0, 9.0, 11.0, 100),
    ("2022-01-04", 11.0, 12.0, 10.0, 10.5, 200),
    ("2022-01-05", 10.5, 11.0, 10.0, 10.75, 300),
    ("2022-01-06", 10.75, 13.0, 10.5, 12.5, 400),
    ("2022-01-07", 12.5, 13.0, 12.0, 12.25, 500),
    ("2022-01-10", 12.25, 12.5, 11.0, 11.5, 600),
    ("2022-01-11", 11.5, 12.0, 11.0, 11.75, 700),
    ("2022-01-12", 11.75, 12.5, 11.5, 12.0, 800),
]
GOOD = prices(FORTNIGHT)
HALVED = [(day, *(price / 2 for price in row[:4]), row[4] * 2) for day, *row in FORTNIGHT]
TINY = {
    "start": "2022-01-03",
    "end": "2022-01-12",
    "window": 1,
    "purge": 0,
    "folds": 2,
    "min_training_sessions": 1,
}
"""Parameters with which five sessions are enough."""


@pytest.fixture
def server() -> Iterator[YahooServer]:
    """A loopback Yahoo in place of the real one, and no pauses."""
    with YahooServer() as running, redirected(running.url, pace=0):
        yield running


class Project:
    """The ingest nodes on the catalog of conf/yahoo, with a data root of its own."""

    def __init__(self, root: Path, spark: SparkSession) -> None:
        self.root, self.spark = root, spark
        self.read: dict[tuple[str, int], pd.DataFrame] = {}

    def ingest(self, *tickers: str, **parameters: Any) -> None:
        """Run the ingest nodes."""
        given = {"data_root": str(self.root), **TINY, "tickers": list(tickers), **parameters}
        loader = OmegaConfigLoader(
            str(ROOT / "conf"), env="yahoo", base_env="base", runtime_params=given
        )
        checked = check_parameters(loader["parameters"])
        places = {"tables": f"{self.root}/tables/", "scratch": str(self.root)}
        loader.runtime_params = {**checked, **places, "candidate": "none"}
        values = {f"params:{name}": value for name, value in checked.items()}
        pipeline = create_pipeline().only_nodes_with_tags("ingest")
        catalog = DataCatalog.from_config(loader["catalog"])
        for name in pipeline.inputs() & set(values):
            catalog[name] = values[name]
        SequentialRunner().run(pipeline, catalog)

    def table(self, name: str, version: int | None = None) -> pd.DataFrame:
        """A table, or one of its older versions; each is read once."""
        version = self.versions()[name] if version is None else version
        if (name, version) not in self.read:
            reader = self.spark.read.format("delta").option("versionAsOf", str(version))
            self.read[name, version] = reader.load(str(self.root / "tables" / name)).toPandas()
        return self.read[name, version]

    def versions(self) -> dict[str, int]:
        """The newest version of each table that there is."""
        logs = (self.root / "tables").glob("*/_delta_log")
        return {log.parent.name: len(list(log.glob("*.json"))) - 1 for log in logs}

    def closes(self, ticker: str, version: int | None = None) -> dict[str, float]:
        """What is stored of a ticker: its closes by session."""
        table = self.table("prices", version)
        rows = table[table["ticker"] == ticker].sort_values("session")
        return {f"{row.session:%Y-%m-%d}": row.close for row in rows.itertuples()}

    def quality(self, ticker: str) -> dict[str, tuple[int, str]]:
        """What was found by rule: the number and the words."""
        table = self.table("quality")
        rows = table[table["ticker"] == ticker]
        return {row.rule: (row.found, row.detail) for row in rows.itertuples()}


@pytest.fixture
def fresh(tmp_path: Path, spark: SparkSession) -> Project:
    """Nothing is stored."""
    return Project(tmp_path / "data", spark)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Path:
    """The data root of a run that stored AAPL, GOOG, IBM and MSFT."""
    project = Project(tmp_path_factory.mktemp("first") / "data", spark)
    with YahooServer(default=GOOD) as running, redirected(running.url, pace=0):
        project.ingest("AAPL", "GOOG", "IBM", "MSFT")
    return project.root


@pytest.fixture
def stored(first_run: Path, tmp_path: Path, spark: SparkSession) -> Project:
    """AAPL, GOOG, IBM and MSFT are stored, in version 0 of each table."""
    shutil.copytree(first_run, tmp_path / "data")
    return Project(tmp_path / "data", spark)


class Lines(logging.Handler):
    """Keep what is logged: pytest's own fixture works in a single test only."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line."""
        self.lines.append(record.getMessage())


@contextmanager
def heard() -> Iterator[list[str]]:
    """The lines that the project logs in the meantime."""
    handler, logger = Lines(), logging.getLogger("candlecast")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(level)


# Summer time begins in New York on 2022-03-13.
WORKDAYS = ["2022-03-09", "2022-03-10", "2022-03-11", "2022-03-14", "2022-03-15"]
DAYS = ["2022-03-11", "2022-03-12", "2022-03-13", "2022-03-14", "2022-03-15"]


@pytest.fixture(scope="module")
def odd_run(
    tmp_path_factory: pytest.TempPathFactory, spark: SparkSession
) -> tuple[Project, list[str]]:
    """A first run up to the far future: a row of AAPL comes twice, others have their own zones."""

    def flat(days: list[str], **where: str) -> Reply:
        return prices([(day, 10.0, 12.0, 9.0, 11.0, 100) for day in days], **where)

    project = Project(tmp_path_factory.mktemp("odd") / "data", spark)
    with YahooServer() as server, redirected(server.url, pace=0), heard() as lines:
        server.script("AAPL", prices([*FORTNIGHT, FORTNIGHT[3]]))
        server.script("7203.T", flat(WORKDAYS, zone=TOKYO, opens="09:00"))
        server.script("IBM", flat(WORKDAYS, zone=NEW_YORK))
        coin = flat(DAYS, zone=CRYPTO, opens="00:00", kind="CRYPTOCURRENCY")
        server.script("BTC-USD", coin)
        project.ingest("AAPL", "7203.T", "IBM", "BTC-USD", end="2099-12-31")
    assert set(server.requests.values()) == {1}
    return project, lines


@pytest.fixture(scope="module")
def second_run(
    first_run: Path, tmp_path_factory: pytest.TempPathFactory, spark: SparkSession
) -> tuple[Project, list[str]]:
    """A second run: AAPL's answer is shorter, IBM was split two for one, a row of MSFT changed."""
    root = tmp_path_factory.mktemp("second") / "data"
    shutil.copytree(first_run, root)
    project = Project(root, spark)
    with YahooServer() as server, redirected(server.url, pace=0), heard() as lines:
        server.script("AAPL", prices(FORTNIGHT[3:]))
        server.script("IBM", prices(HALVED[2:], splits={"2022-01-12": (2, 1)}))
        server.script("MSFT", changed(3, "2022-01-06", 10.75, 13.0, 10.5, 12.51, 400))
        project.ingest("AAPL", "IBM", "MSFT")
    assert server.requests == {"AAPL": 1, "IBM": 1, "MSFT": 1}
    assert project.versions() == {"prices": 1, "quality": 1}  # one commit for all tickers
    return project, lines


def closes(rows: list[tuple[Any, ...]] = FORTNIGHT) -> dict[str, float]:
    return {row[0]: row[4] for row in rows}


def changed(position: int, *row: Any) -> Reply:
    rows: list[tuple[Any, ...]] = list(FORTNIGHT)
    rows[position] = row
    return prices(rows)


def test_fault_01_unknown_ticker_is_named_with_its_near_match_and_the_others_are_kept(
    server: YahooServer, fresh: Project
) -> None:
    server.script("IBM", GOOD)
    with pytest.raises(IngestError) as caught:
        fresh.ingest("APPL", "IBM", "IBN")
    error = caught.value
    assert (list(error.failed), error.of, error.stored) == (["APPL", "IBN"], 3, 1)
    for ticker, near in {"APPL": "AAPL", "IBN": "IBM"}.items():
        assert "unknown ticker (HTTP 404; 1 attempt)" in error.failed[ticker]
        assert f"Did you mean {near}?" in error.failed[ticker]
    assert '--tags ingest --params "tickers=APPL IBN"' in str(error)
    assert all(reason in str(error) for reason in error.failed.values())
    assert server.requests == {"APPL": 2, "IBM": 1, "IBN": 2}
    assert fresh.closes("IBM") == closes()
    assert fresh.quality("APPL") == {"missing": (0, error.failed["APPL"])}


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        ("2022-02-01", "2022-01-01", ["2022-02-01", "2022-01-01"]),
        ("2022-01-01", "2022-01-01", ["start is '2022-01-01'", "end is '2022-01-01'"]),
        ("2022-13-01", "soon", ["'2022-13-01'", "'soon'"]),
    ],
    ids=["reversed", "equal", "unparsable"],
)
def test_fault_02_unusable_dates_are_refused_without_a_request(
    server: YahooServer, fresh: Project, start: str, end: str, words: list[str]
) -> None:
    with pytest.raises(ParameterError) as caught:
        fresh.ingest("AAPL", start=start, end=end)
    assert [word for word in words if word not in str(caught.value)] == []
    assert server.requests == {}


def test_fault_03_start_in_the_future_is_refused_without_a_request(
    server: YahooServer, fresh: Project
) -> None:
    with pytest.raises(ParameterError, match="2099-01-01"):
        fresh.ingest("AAPL", start="2099-01-01", end=None)
    assert server.requests == {}


def test_fault_04_weekend_is_an_error_that_changes_nothing(
    server: YahooServer, stored: Project
) -> None:
    server.script("AAPL", GOOD)
    with pytest.raises(IngestError) as caught:
        stored.ingest("AAPL", start="2022-01-08", end="2022-01-09")
    assert "2022-01-08 to 2022-01-09: no sessions" in caught.value.failed["AAPL"]
    assert caught.value.stored == 0
    assert stored.versions() == {"prices": 0, "quality": 0}
    assert server.requests["AAPL"] == 1


def test_fault_05_session_still_open_is_not_stored(server: YahooServer, fresh: Project) -> None:
    today = datetime.now(UTC).date()
    days = [(today - timedelta(days=n)).isoformat() for n in range(8)][::-1]
    rows = [(day, 10.0, 12.0, 9.0, 11.0, 100) for day in days]
    server.script("BTC-USD", prices(rows, zone=CRYPTO, opens="00:00", kind="CRYPTOCURRENCY"))
    fresh.ingest("BTC-USD", start=days[0], end=None)
    newest = datetime.fromisoformat(max(fresh.closes("BTC-USD"))).date()
    assert newest < datetime.now(UTC).date()
    assert newest >= today - timedelta(days=1)


def test_fault_06_different_rows_of_a_date_are_refused_and_shown(
    server: YahooServer, stored: Project
) -> None:
    server.script("AAPL", prices([*FORTNIGHT, ("2022-01-06", 10.75, 13.0, 10.5, 12.75, 400)]))
    server.script("IBM", GOOD)
    with pytest.raises(IngestError) as caught:
        stored.ingest("AAPL", "IBM")
    assert list(caught.value.failed) == ["AAPL"]
    assert "2 of 9 rows of prices break the rule 'one row per session'" in str(caught.value)
    assert "12.50" in str(caught.value)
    assert "12.75" in str(caught.value)
    assert caught.value.stored == 0
    assert server.requests == {"AAPL": 1, "IBM": 1}
    assert stored.versions() == {"prices": 0, "quality": 0}


BAD_ROWS = {
    "prices are positive": ("2022-01-06", -10.75, 13.0, 10.5, 12.5, 400),
    "high >= low": ("2022-01-06", 10.75, 10.0, 10.5, 10.25, 400),
    "close within [low, high]": ("2022-01-06", 10.75, 13.0, 10.5, 1e12, 400),
}


@pytest.mark.parametrize("rule", BAD_ROWS)
def test_fault_08_impossible_price_is_refused_before_any_write(
    server: YahooServer, stored: Project, rule: str
) -> None:
    server.script("MSFT", GOOD)
    server.script("AAPL", changed(3, *BAD_ROWS[rule]))
    with pytest.raises(IngestError) as caught:
        stored.ingest("MSFT", "AAPL", "IBM")
    assert f"1 of 8 rows of prices break the rule '{rule}'" in caught.value.failed["AAPL"]
    assert "2022-01-06" in caught.value.failed["AAPL"]
    assert stored.versions() == {"prices": 0, "quality": 0}


def test_fault_08_with_missing_tickers_allowed_the_others_are_stored(
    server: YahooServer, stored: Project
) -> None:
    server.script("AMZN", GOOD)
    server.script("AAPL", changed(3, *BAD_ROWS["prices are positive"]))
    stored.ingest("AMZN", "AAPL", allow_missing_tickers=True)
    assert stored.closes("AMZN") == closes()
    assert stored.closes("AAPL") == closes()  # as the first run left it
    assert "prices are positive" in stored.quality("AAPL")["missing"][1]
    assert stored.versions() == {"prices": 1, "quality": 1}


def test_fault_09_renamed_column_is_refused_and_fetching_stops_after_three(
    server: YahooServer, stored: Project
) -> None:
    def rename(result: dict[str, Any]) -> None:
        quote = result["indicators"]["quote"][0]
        quote["begin"] = quote.pop("open")

    server.default = prices(FORTNIGHT, edit=rename)
    with pytest.raises(IngestError) as caught:
        stored.ingest("AAPL", "IBM", "MSFT", "GOOG", "BTC-USD")
    assert "expected open, high, low, close, adjclose, volume," in caught.value.failed["AAPL"]
    assert "got high, low, close, volume, begin," in caught.value.failed["AAPL"]
    assert "(yfinance 1." in caught.value.failed["AAPL"]
    assert server.requests == {"AAPL": 1, "IBM": 1, "MSFT": 1}
    assert stored.versions() == {"prices": 0, "quality": 0}


def test_fault_12_two_of_three_arrive_and_the_third_keeps_its_rows(
    server: YahooServer, stored: Project
) -> None:
    later = prices([(day, *(price + 0.5 for price in row[:4]), row[4]) for day, *row in FORTNIGHT])
    server.script("AAPL", later)
    server.script("MSFT", later)
    server.script("IBM", RESET)
    with pytest.raises(IngestError) as caught:
        stored.ingest("AAPL", "IBM", "MSFT")
    assert (list(caught.value.failed), caught.value.stored) == (["IBM"], 2)
    assert stored.closes("AAPL")["2022-01-12"] == 12.5
    assert stored.closes("MSFT")["2022-01-12"] == 12.5
    assert stored.closes("IBM") == closes()
    assert stored.versions()["prices"] == 1  # one commit for both


def test_fault_12_half_a_range_is_not_stored_and_the_run_ends_failed(
    server: YahooServer, stored: Project
) -> None:
    quarter = walk(date(2022, 1, 3), date(2022, 3, 31))
    traded = datetime(2022, 5, 31, 16, tzinfo=UTC)
    server.script("AAPL", prices(quarter, traded=traded))
    server.script("IBM", prices(quarter[:20], traded=traded))
    with pytest.raises(IngestError, match=r"IBM: .*unavailable \(part of the range: it ends"):
        stored.ingest("AAPL", "IBM", end="2022-03-31")
    assert len(stored.closes("AAPL")) == len(quarter)
    assert stored.closes("IBM") == closes()
    assert list(stored.quality("IBM")) == ["missing"]
    stored.ingest("AAPL", "IBM", end="2022-03-31", allow_missing_tickers=True)
    assert stored.closes("IBM") == closes()


def test_fault_13_too_many_requests_stop_all_tickers_and_a_rerun_continues(
    server: YahooServer, fresh: Project
) -> None:
    server.default = GOOD
    server.script("IBM", TOO_MANY)
    with pytest.raises(IngestError) as caught:
        fresh.ingest("AAPL", "IBM", "MSFT", "GOOG")
    assert server.requests == {"AAPL": 1, "IBM": 8}
    failed = caught.value.failed
    assert (list(failed), caught.value.stored) == (["IBM", "MSFT", "GOOG"], 1)
    assert "rate limited (HTTP 429; 4 attempts)" in failed["IBM"]
    assert failed["MSFT"] == failed["GOOG"] == "skipped after IBM failed"
    assert '--params "tickers=IBM MSFT GOOG"' in str(caught.value)
    assert "\n  MSFT, GOOG: skipped" in str(caught.value)
    assert fresh.closes("AAPL") == closes()

    server.script("IBM", GOOD)
    fresh.ingest("IBM", "MSFT", "GOOG")
    assert {ticker: fresh.closes(ticker) for ticker in ("AAPL", "IBM", "MSFT", "GOOG")} == (
        dict.fromkeys(("AAPL", "IBM", "MSFT", "GOOG"), closes())
    )


def test_fault_14_outage_is_noticed_by_three_tickers_and_no_more(
    server: YahooServer, stored: Project
) -> None:
    server.default = RESET
    with pytest.raises(IngestError) as caught:
        stored.ingest("AAPL", "IBM", "MSFT", "GOOG", "BTC-USD")
    assert server.requests == {"AAPL": 4, "IBM": 4, "MSFT": 4}
    assert "unavailable (ConnectionError: " in caught.value.failed["AAPL"]
    assert "; 4 attempts)" in caught.value.failed["AAPL"]
    assert caught.value.failed["BTC-USD"] == "skipped after AAPL, IBM, MSFT failed"
    assert "delisted" not in str(caught.value)
    assert stored.versions() == {"prices": 0, "quality": 0}


def test_fault_20_too_little_history_is_refused_before_anything_is_stored(
    server: YahooServer, fresh: Project
) -> None:
    server.script("AAPL", GOOD)
    with pytest.raises(NotEnoughDataError) as caught:
        fresh.ingest("AAPL", window=14, purge=14, folds=5, min_training_sessions=20)
    assert caught.value.facts == {"sessions": 8, "needed": 281}
    assert fresh.versions() == {}


def test_files_of_earlier_runs_never_reach_the_prices(server: YahooServer, fresh: Project) -> None:
    server.script("AAPL", GOOD)
    server.script("^GSPC", GOOD)
    server.script("IBM", changed(3, *BAD_ROWS["prices are positive"]), prices(FORTNIGHT[:6]))
    with pytest.raises(IngestError):
        fresh.ingest("AAPL", "^GSPC", "IBM")
    left = {file.name for file in (fresh.root / "fetched/none").iterdir()}
    assert left == {"AAPL.parquet", "%5EGSPC.parquet", "IBM.parquet"}
    server.script("^GSPC", prices(FORTNIGHT[2:]))
    fresh.ingest("IBM", "^GSPC")
    assert set(fresh.table("prices")["ticker"]) == {"IBM", "^GSPC"}
    assert fresh.closes("IBM") == closes(FORTNIGHT[:6])
    assert fresh.closes("^GSPC") == closes(FORTNIGHT[2:])


def sessions(ticker: str, *_: object, reason: Reason = "unavailable") -> pd.DataFrame:
    """A source that has eight sessions of every ticker whose name is of capitals."""
    if ticker.islower():
        raise SourceError("a source", ticker, None, None, 4, reason, "no route")
    frame = pd.DataFrame(FORTNIGHT, columns=["session", "open", "high", "low", "close", "volume"])
    frame = frame.assign(
        ticker=ticker,
        session=pd.to_datetime(frame["session"]),
        adj_close=frame["close"],
        dividends=0.0,
        stock_splits=0.0,
        source="test",
        ingested_at=pd.Timestamp("2022-06-01", tz="UTC"),
    )
    return frame[COLUMNS]


def fetched(
    fetch: Callable[..., pd.DataFrame], tickers: list[str], folder: Path
) -> tuple[list[str], nodes.FetchResult]:
    """The tickers that were stored, and what became of all."""
    files = FetchedFiles(path=str(folder))
    for chunk in nodes.fetch_prices(Source("test", [], fetch), tickers, None, None, 0.05, None):
        files.save(chunk)
    rows = files.load().to_table().to_pandas()
    stored = sorted(rows.loc[rows["session"].notna(), "ticker"].unique())
    return stored, nodes.collect_outcomes(files.load(), tickers, "test")


def test_ticker_that_arrives_ends_a_row_of_failures(tmp_path: Path) -> None:
    names = ["a", "b", "C", "d", "e", "F", "g", "h", "i", "J"]
    stored, fetch_result = fetched(sessions, names, tmp_path)
    assert stored == ["C", "F"]
    assert list(fetch_result.failed) == ["a", "b", "d", "e", "g", "h", "i", "J"]
    assert fetch_result.failed["J"] == "skipped after g, h, i failed"
    assert (fetch_result.refused, fetch_result.sessions) == ([], 8)


@pytest.mark.parametrize(
    ("reason", "requested"),
    [
        ("unknown ticker", ["a", "b", "c", "d", "E"]),
        ("no sessions", ["a", "b", "c", "d", "E"]),
        ("rate limited", ["a"]),
        ("unavailable", ["a", "b", "c"]),
        ("unexpected answer", ["a", "b", "c"]),
    ],
)
def test_the_reason_decides_how_many_tickers_are_requested(
    reason: Reason, requested: list[str], tmp_path: Path
) -> None:
    seen = []

    def fetch(ticker: str, *_: object) -> pd.DataFrame:
        seen.append(ticker)
        return sessions(ticker, reason=reason)

    stored, result = fetched(fetch, ["a", "b", "c", "d", "E"], tmp_path)
    assert seen == requested
    assert stored == [name for name in requested if name == "E"]
    assert [*result.findings, *result.failed] == [*stored, *(n for n in "abcdE" if n not in stored)]
    assert result.refused == (requested if reason == "unexpected answer" else [])


def result(arrived: str, failed: str, refused: str = "", dates: int = 9) -> nodes.FetchResult:
    """What became of tickers named by letters."""
    return nodes.FetchResult(
        {ticker: [] for ticker in arrived}, dict.fromkeys(failed, "no"), list(refused), dates
    )


def test_fault_20_too_little_history_is_an_error_unless_the_run_ends_anyway() -> None:
    with pytest.raises(NotEnoughDataError) as caught:
        nodes.accept_tickers(result("AB", ""), 10, allow_missing_tickers=False)
    assert caught.value.facts == {"sessions": 9, "needed": 10}
    with pytest.raises(NotEnoughDataError):
        nodes.accept_tickers(result("AB", "c"), 10, allow_missing_tickers=True)
    assert nodes.accept_tickers(result("AB", ""), 9, allow_missing_tickers=False) == ["A", "B"]
    # What arrived is stored; require_all_tickers names the missing one.
    assert nodes.accept_tickers(result("A", "c"), 10, allow_missing_tickers=False) == ["A"]


def test_refused_answer_stops_everything_unless_tickers_may_be_missing() -> None:
    with pytest.raises(IngestError) as caught:
        nodes.accept_tickers(result("A", "bc", refused="b"), 1, allow_missing_tickers=False)
    assert (list(caught.value.failed), caught.value.of, caught.value.stored) == (["b", "c"], 3, 0)
    accepted = nodes.accept_tickers(result("A", "bc", refused="b"), 1, allow_missing_tickers=True)
    assert accepted == ["A"]
    with pytest.raises(IngestError):
        nodes.accept_tickers(result("", "c"), 1, allow_missing_tickers=True)


def test_all_requested_tickers_are_required_unless_they_may_be_missing() -> None:
    stored = {"prices": None, "quality": pd.DataFrame()}
    some, all_ = result("A", "b"), result("AB", "")
    with pytest.raises(IngestError) as caught:
        nodes.require_all_tickers(some, **stored, allow_missing_tickers=False)
    assert (caught.value.failed, caught.value.of, caught.value.stored) == ({"b": "no"}, 2, 1)
    nodes.require_all_tickers(some, **stored, allow_missing_tickers=True)
    nodes.require_all_tickers(all_, **stored, allow_missing_tickers=False)


def test_a_terminal_shows_a_bar_and_a_line_per_ticker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with caplog.at_level(logging.INFO, "candlecast"):
        fetched(sessions, ["A", "b", "C"], tmp_path)
    assert "fetch: C" in terminal.getvalue()
    assert [message.split()[:2] for message in caplog.messages] == [
        ["A", "8"],
        ["C", "8"],
        ["b", "missing:"],
        ["prices", "from"],
    ]


def test_selection_leaves_out_tickers_that_quality_lists_as_missing(spark: SparkSession) -> None:
    rows = [
        (ticker, f"2022-01-{day:02d}", 10.0, 10.0 + day)
        for ticker in ("AAPL", "IBM", "MSFT")
        for day in (3, 4, 5, 6)
    ]
    table = spark.createDataFrame(rows, "ticker string, session string, open double, close double")
    table = table.selectExpr("ticker", "cast(session as date) session", "open", "close")
    quality = pd.DataFrame(
        {
            "ticker": ["AAPL", "IBM", "COIN"],
            "rule": ["stored", "missing", "stored"],
            "source": ["yahoo", "yahoo", "own.csv"],
        }
    )
    chosen, arrived = nodes.select_prices(
        table, quality, ["AAPL", "IBM"], "yahoo", "2022-01-04", "2022-01-05"
    )
    assert arrived == ["AAPL"]
    found = [(row["ticker"], f"{row['session']}") for row in chosen.orderBy("session").collect()]
    assert found == [("AAPL", "2022-01-04"), ("AAPL", "2022-01-05")]
    with pytest.raises(NotEnoughDataError, match="MSFT"):
        nodes.select_prices(table, quality, ["AAPL", "MSFT"], "yahoo", None, None)
    assert nodes.select_prices(table, quality, [], "/x/own.csv", None, None)[1] == ["COIN"]


def test_fault_03_end_in_the_future_is_capped_and_recorded(
    odd_run: tuple[Project, list[str]],
) -> None:
    project, lines = odd_run
    requested = "2022-01-03 to 2099-12-31, capped at 2022-01-12, the last session that has closed"
    assert project.quality("AAPL")["requested"] == (8, requested)
    # This source's sessions end years before today: those missing since then are counted.
    missing, _ = project.quality("AAPL")["missing sessions"]
    assert missing > 1000
    assert lines[0] == (
        "  AAPL            8 sessions, 2022-01-03 to 2022-01-12, "
        f"{missing} missing; requested: {requested}"
    )


def test_fault_06_equal_rows_of_a_date_are_collapsed_and_counted(
    odd_run: tuple[Project, list[str]],
) -> None:
    project, _ = odd_run
    assert project.closes("AAPL") == closes()
    assert project.quality("AAPL")["duplicate sessions"] == (1, "same values, collapsed")


def test_fault_11_sessions_of_three_time_zones_are_stored_as_the_exchange_s_dates(
    odd_run: tuple[Project, list[str]],
) -> None:
    project, _ = odd_run
    assert list(project.closes("7203.T")) == WORKDAYS
    assert list(project.closes("IBM")) == WORKDAYS
    assert list(project.closes("BTC-USD")) == DAYS


def test_fault_12_shorter_answer_keeps_the_longer_stored_history_and_says_so(
    second_run: tuple[Project, list[str]],
) -> None:
    project, lines = second_run
    assert project.closes("AAPL") == closes()
    found, detail = project.quality("AAPL")["history kept"]
    assert found == 3
    assert f"  AAPL       history kept: {detail}" in lines
    assert project.closes("GOOG") == closes()  # not requested


def test_fault_15_split_between_two_runs_replaces_the_history_whole_in_one_commit(
    second_run: tuple[Project, list[str]],
) -> None:
    project, lines = second_run
    assert project.closes("IBM") == closes(HALVED[2:])
    dropped, detail = project.quality("IBM")["history replaced"]
    assert dropped == 2
    assert "6 of 6 sessions changed by a factor of 0.5" in detail
    assert f"  IBM        history replaced: {detail}" in lines
    assert project.closes("IBM", version=0) == closes()


def test_fault_16_changed_row_is_updated_and_counted_and_the_old_version_stays(
    second_run: tuple[Project, list[str]],
) -> None:
    project, _ = second_run
    assert project.closes("MSFT") == {**closes(), "2022-01-06": 12.51}
    assert project.quality("MSFT")["prices changed"][0] == 1
    assert project.closes("MSFT", version=0) == closes()
    old, new = (
        project.table("prices", version).set_index(["ticker", "session"])["ingested_at"]["MSFT"]
        for version in (0, 1)
    )
    assert [f"{day:%Y-%m-%d}" for day in new.index[new != old[new.index]]] == ["2022-01-06"]


def test_of_many_missing_tickers_the_first_are_named():
    message = str(IngestError({f"T{place}": "no sessions" for place in range(900)}, 5000, 4100))
    assert "T19, … and 880 more: no sessions" in message
    assert "T20" not in message
