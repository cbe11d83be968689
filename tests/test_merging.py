"""How fetched prices are merged with stored ones: one merge, one case per ticker."""

import datetime as dt
from collections import Counter
from random import Random

import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from candlecast.frames import Addition
from candlecast.sources.checks import Finding
from candlecast.sources.merging import compare_prices, merge_prices

SCHEMA = (
    "ticker string, session date, open double, high double, low double, close double, "
    "adj_close double, volume double, dividends double, stock_splits double, source string, "
    "ingested_at timestamp"
)
OLD, NEW = pd.Timestamp("2022-02-01"), pd.Timestamp("2022-03-01")
Row = tuple[str, int, float | None, str]
"""Ticker, day of January 2022, close, source."""

STORED: list[Row] = [
    *[("KEPT", day, 10.0, "yahoo") for day in (3, 4, 5)],
    *[("SAME", day, 10.0, "yahoo") for day in (3, 4, 5)],
    *[("MOVED", day, 10.0, "yahoo") for day in (3, 4, 5)],
    *[("SPLIT", day, 10.0, "yahoo") for day in (3, 4, 5, 6)],
    *[("ONCE", day, 10.0, "yahoo") for day in (3, 4, 5)],
    *[("APART", day, 10.0, "yahoo") for day in (3, 4)],
    *[("OTHER", day, 10.0, "sample") for day in (3, 4)],
    ("VOID", 5, None, "yahoo"),
    ("VOID", 6, 10.0, "yahoo"),
]
FETCHED: list[Row] = [
    *[("KEPT", day, 10.0, "yahoo") for day in (5, 7)],
    *[("SAME", day, 10.0, "yahoo") for day in (3, 4, 5, 6, 7)],
    ("MOVED", 5, 10.01, "yahoo"),
    ("MOVED", 6, 10.0, "yahoo"),
    *[("SPLIT", day, 5.0, "yahoo") for day in (5, 6)],
    ("ONCE", 5, 10.02, "yahoo"),
    ("APART", 6, 10.0, "yahoo"),
    ("OTHER", 5, 10.0, "yahoo"),
    ("FRESH", 5, 10.0, "yahoo"),
    ("VOID", 5, None, "yahoo"),
    ("VOID", 6, None, "yahoo"),
]


def table(spark: SparkSession, rows: list[Row], ingested_at: pd.Timestamp) -> DataFrame:
    moment, others = ingested_at.to_pydatetime(), (100.0, 0.0, 0.0)
    values = [
        (ticker, dt.date(2022, 1, day), *[close] * 5, *others, source, moment)
        for ticker, day, close, source in rows
    ]
    return spark.createDataFrame(values, SCHEMA)


Merged = tuple[dict[str, dict[int, tuple[float | None, str]]], dict[tuple[str, str], Finding]]


@pytest.fixture(scope="module")
def merged(spark: SparkSession) -> Merged:
    """By ticker and day: the close, and which ingestion it came with; and the findings."""
    fetched, stored = table(spark, FETCHED[::-1], NEW), table(spark, STORED, OLD)
    tickers = sorted({row[0] for row in FETCHED})
    stored = stored.unionByName(table(spark, [("ELSE", 3, 10.0, "yahoo")], OLD))
    findings, same = compare_prices(fetched, stored, tickers, "2022-01-04", None, [], "yahoo")
    assert [ticker for ticker in tickers if same[ticker]] == ["SAME"]
    frame = merge_prices(fetched, findings, same)(stored)
    assert isinstance(frame, DataFrame)
    rows: dict[str, dict[int, tuple[float | None, str]]] = {}
    for row in frame.orderBy("ticker", "session").collect():
        age = "old" if row["ingested_at"] == OLD.to_pydatetime() else "new"
        rows.setdefault(row["ticker"], {})[row["session"].day] = (row["close"], age)
    return rows, {(finding.ticker, finding.rule): finding for finding in findings}


def test_sessions_that_were_not_fetched_stay(merged: Merged) -> None:
    rows, findings = merged
    assert rows["KEPT"] == {**dict.fromkeys((3, 4, 5), (10.0, "old")), 7: (10.0, "new")}
    assert findings["KEPT", "history kept"] == Finding(
        "KEPT",
        "history kept",
        rows_in=4,
        rows_kept=4,
        found=1,
        detail="1 new; kept 1 outside the range and 1 inside it that the answer lacks",
    )
    assert findings["KEPT", "prices changed"].found == 0


def test_fault_16_price_that_changed_is_updated_and_counted(merged: Merged) -> None:
    rows, findings = merged
    old = dict.fromkeys((3, 4), (10.0, "old"))
    assert rows["MOVED"] == {**old, 5: (10.01, "new"), 6: (10.0, "new")}
    assert findings["MOVED", "prices changed"].found == 1


def test_fault_16_one_small_change_in_a_short_answer_is_no_split(merged: Merged) -> None:
    rows, findings = merged
    assert rows["ONCE"] == {3: (10.0, "old"), 4: (10.0, "old"), 5: (10.02, "new")}
    assert findings["ONCE", "prices changed"].found == 1


def test_fault_15_split_drops_stored_sessions_of_the_old_scale(merged: Merged) -> None:
    rows, findings = merged
    assert rows["SPLIT"] == {5: (5.0, "new"), 6: (5.0, "new")}
    assert findings["SPLIT", "history replaced"] == Finding(
        "SPLIT",
        "history replaced",
        rows_in=4,
        rows_kept=2,
        found=2,
        detail="2 of 2 sessions changed by a factor of 0.5 (a split?); replaced whole, 2 stored "
        "sessions are dropped",
    )


def test_history_of_another_source_is_replaced_whole(merged: Merged) -> None:
    rows, findings = merged
    assert rows["OTHER"] == {5: (10.0, "new")}
    assert findings["OTHER", "history replaced"].detail == (
        "the stored history came from sample; replaced whole, 2 stored sessions are dropped"
    )


def test_histories_without_a_common_session_are_not_compared(merged: Merged) -> None:
    rows, findings = merged
    assert sorted(rows["APART"]) == [3, 4, 6]
    assert findings["APART", "history kept"].detail.endswith(
        "none in common, so their scales could not be compared"
    )


def test_missing_prices_on_both_sides_are_equal_and_on_one_side_are_not(merged: Merged) -> None:
    rows, findings = merged
    assert rows["VOID"] == {5: (None, "old"), 6: (None, "new")}
    assert findings["VOID", "prices changed"].found == 1


def test_ticker_that_was_not_stored_has_no_finding(merged: Merged) -> None:
    rows, findings = merged
    fetched = ["APART", "FRESH", "KEPT", "MOVED", "ONCE", "OTHER", "SAME", "SPLIT", "VOID"]
    assert sorted(rows) == sorted([*fetched, "ELSE"])
    assert {ticker for ticker, _ in findings} == set(rows) - {"FRESH"}


def test_tickers_of_other_runs_stay_out_of_it(merged: Merged) -> None:
    rows, findings = merged
    assert rows["ELSE"] == {3: (10.0, "old")}
    assert {rule for ticker, rule in findings if ticker == "ELSE"} == {"missing"}


def test_ticker_that_the_source_no_longer_holds_is_missing_if_all_were_requested(
    merged: Merged, spark: SparkSession
) -> None:
    _, findings = merged
    assert findings["ELSE", "missing"].found == 1
    assert "yahoo no longer holds it" in findings["ELSE", "missing"].detail
    fetched, stored = table(spark, FETCHED[:1], NEW), table(spark, STORED[:6], OLD)
    named, _ = compare_prices(fetched, stored, ["KEPT"], None, None, ["KEPT"], "yahoo")
    other, _ = compare_prices(fetched, stored, ["KEPT"], None, None, [], "own.csv")
    assert {finding.ticker for finding in [*named, *other]} == {"KEPT"}


def test_first_run_stores_what_it_fetched(spark: SparkSession) -> None:
    fetched = table(spark, FETCHED, NEW)
    findings, same = compare_prices(fetched, None, ["KEPT"], None, None, [], "yahoo")
    assert (findings, same) == ([], {"KEPT": None})
    assert merge_prices(fetched, findings, same)(None) is fetched


# --- Tickers that were fetched again as they were -------------------------------------------------


def test_ticker_that_was_fetched_again_as_it_was_gets_its_new_sessions(merged: Merged) -> None:
    rows, findings = merged
    old, new = dict.fromkeys((3, 4, 5), (10.0, "old")), dict.fromkeys((6, 7), (10.0, "new"))
    assert rows["SAME"] == {**old, **new}
    assert findings["SAME", "history kept"] == Finding(
        *("SAME", "history kept", 5, 5, 0, "2 new; kept 0 outside the range")
    )
    assert findings["SAME", "prices changed"].found == 0


def test_where_no_stored_session_changed_the_new_ones_alone_are_written(
    spark: SparkSession,
) -> None:
    stored = table(spark, [(ticker, 3, 10.0, "yahoo") for ticker in "ABC"], OLD)
    fetched = table(spark, [("A", 3, 10.0, "yahoo"), ("A", 4, 9.0, "yahoo")], NEW)
    both = fetched.unionByName(table(spark, [("B", 3, 10.0, "yahoo")], NEW))
    for again, tickers in ((fetched, ["A"]), (both, ["A", "B"])):
        findings, same = compare_prices(again, stored, tickers, None, None, tickers, "yahoo")
        added = merge_prices(again, findings, same)(stored)
        assert isinstance(added, Addition)
        assert added.rows.collect() == fetched.where("session = '2022-01-04'").collect()
    findings, same = compare_prices(stored, stored, ["C"], None, None, ["C"], "yahoo")
    nothing = merge_prices(stored.where("ticker = 'C'"), findings, same)(stored)
    assert isinstance(nothing, Addition) and nothing.rows.isEmpty()


def test_whether_sessions_are_joined_changes_no_row(spark: SparkSession) -> None:
    random = Random(1)
    stored_rows: list[Row] = []
    fetched_rows: list[Row] = []
    for number in range(60):
        first, last = sorted(random.choices(range(1, 32), k=2))
        days = range(first, last + 1)
        ticker = f"T{number:02d}"
        if number % 9:
            stored_rows += [(ticker, day, 10.0 + day, "yahoo") for day in days]
        missing, factor = random.choice([0, 0.4]), random.choice([1.0, 1.0, 1.01])
        again = [day for day in range(first, 32) if random.random() >= missing]
        fetched_rows += [(ticker, day, (10.0 + day) * factor, "yahoo") for day in again]
    fetched, stored = table(spark, fetched_rows, NEW), table(spark, stored_rows, OLD)
    tickers = sorted({ticker for ticker, *_ in fetched_rows})
    findings, same = compare_prices(fetched, stored, tickers, None, None, tickers, "yahoo")
    assert 10 < sum(history is not None for history in same.values()) < 50
    frame = merge_prices(fetched, findings, same)(stored)
    joined = merge_prices(fetched, findings, dict.fromkeys(tickers))(stored)
    assert isinstance(frame, DataFrame) and isinstance(joined, DataFrame)
    assert Counter(frame.collect()) == Counter(joined.collect())
    alike = [ticker for ticker in tickers if same[ticker]]
    facts, _ = compare_prices(fetched, stored, alike, None, None, tickers, "yahoo")
    assert [finding for finding in findings if finding.ticker in alike] == facts
    assert all(finding.found == 0 for finding in facts)


@pytest.mark.parametrize("column", ["session", "adj_close", "volume", "source"])
def test_another_value_anywhere_is_a_change(column: str, spark: SparkSession) -> None:
    stored = table(spark, [("A", day, 10.0, "yahoo") for day in (3, 4)], OLD)
    other = {
        "session": F.date_add("session", 1),
        "adj_close": F.lit(9.0),
        "volume": F.lit(None).cast("double"),
        "source": F.lit("sample"),
    }[column]
    is_last = F.col("session") == dt.date(2022, 1, 4)
    fetched = stored.withColumn(column, F.when(is_last, other).otherwise(F.col(column)))
    _, same = compare_prices(fetched, stored, ["A"], None, None, ["A"], "yahoo")
    assert same == {"A": None}
    _, same = compare_prices(stored, stored, ["A"], None, None, ["A"], "yahoo")
    assert same["A"] is not None


def test_a_missing_value_that_moves_to_another_column_is_a_change(spark: SparkSession) -> None:
    stored = table(spark, [("A", 3, 10.0, "yahoo")], OLD)
    nothing = F.lit(None).cast("double")
    one, other = stored.withColumn("open", nothing), stored.withColumn("high", nothing)
    _, same = compare_prices(one, other, ["A"], None, None, ["A"], "yahoo")
    assert same == {"A": None}


def test_what_another_job_has_stored_in_between_is_joined(spark: SparkSession) -> None:
    fetched = table(spark, [("A", day, 10.0, "yahoo") for day in (3, 4, 5)], NEW)
    stored = table(spark, [("A", day, 10.0, "yahoo") for day in (3, 4)], OLD)
    findings, same = compare_prices(fetched, stored, ["A"], None, None, ["A"], "yahoo")
    assert same["A"] is not None
    merge = merge_prices(fetched, findings, same)
    for meanwhile in ([("A", 4, 10.0, "yahoo")], [("A", 5, 12.0, "yahoo")], [("B", 3, 1.0, "x")]):
        frame = merge(table(spark, meanwhile, OLD))
        assert isinstance(frame, DataFrame)
        rows = frame.orderBy("ticker", "session").collect()
        prices = [(row["session"].day, row["close"]) for row in rows if row["ticker"] == "A"]
        assert prices == [(3, 10.0), (4, 10.0), (5, 10.0)]
    assert {row["ticker"] for row in rows} == {"A", "B"}
