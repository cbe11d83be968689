"""From Spark to pandas: many rows in parts, and samples of too many."""

import logging

import numpy as np
import pandas as pd
import pytest

from candlecast import frames
from candlecast.frames import sample_rows, to_pandas
from candlecast.io.delta import DeltaDataset

DAYS = 40


@pytest.fixture(scope="module")
def table(spark, tmp_path_factory) -> DeltaDataset:
    """Three tickers, of which C begins late; floats beside text, dates and missing numbers."""
    random = np.random.default_rng(1)
    rows = pd.DataFrame(
        {
            "ticker": np.repeat(["B", "C", "A"], [DAYS, DAYS - 25, DAYS]),
            "session": pd.concat(
                [
                    pd.Series(pd.date_range("2024-01-01", periods=DAYS))[start:]
                    for start in (0, 25, 0)
                ]
            ).dt.date,
        }
    )
    rows = rows.assign(lag_01=random.normal(size=len(rows)), body=random.normal(size=len(rows)))
    rows = rows.assign(
        lag_02=-rows["lag_01"], late=[1 if t == "C" else None for t in rows["ticker"]]
    )
    folder = str(tmp_path_factory.mktemp("table") / "rows")
    schema = "ticker string, session date, lag_01 float, body double, lag_02 float, late int"
    DeltaDataset(table=folder, schema=schema).save(rows.sample(frac=1, random_state=1))
    return DeltaDataset(table=folder, as_pandas=True)


def test_many_rows_are_collected_in_order_into_one_block(table, monkeypatch):
    frame = DeltaDataset(table=table.address).load()
    at_once = to_pandas(frame).sort_values(["session", "ticker"], ignore_index=True)
    monkeypatch.setattr(frames, "AT_ONCE", 10)
    in_parts = to_pandas(frame, frame.count())
    pd.testing.assert_frame_equal(in_parts, at_once)
    assert list(in_parts) == ["ticker", "session", "lag_01", "body", "lag_02", "late"]
    assert in_parts["late"].notna().sum() == 15
    blocks = in_parts[["lag_01", "lag_02"]].dtypes.unique()
    assert [str(kind) for kind in blocks] == ["float32"]


def test_a_sample_depends_on_ticker_session_and_seed(table, caplog):
    frame = DeltaDataset(table=table.address).load()
    rows = frame.count()
    assert sample_rows(frame, rows, rows, 1) is frame
    with caplog.at_level(logging.WARNING, "candlecast"):
        sample = to_pandas(sample_rows(frame, rows, 50, 1))
    assert "50" in caplog.text and str(rows) in caplog.text
    assert 30 < len(sample) < 70  # each row by its own hash
    again = to_pandas(sample_rows(frame.orderBy("body").repartition(3), rows, 50, 1))
    keys = ["ticker", "session"]
    assert set(map(tuple, sample[keys].to_numpy())) == set(map(tuple, again[keys].to_numpy()))
    other = to_pandas(sample_rows(frame, rows, 50, 2))
    assert not sample.equals(other)


def test_a_table_with_more_rows_than_fit_is_sampled(table, caplog):
    small = DeltaDataset(table=table.address, as_pandas=True, max_rows=50, seed=1)
    assert 30 < len(small.load()) < 70
    whole = DeltaDataset(table=table.address, as_pandas=True, max_rows=95, seed=1)
    assert len(whole.load()) == 95


@pytest.mark.parametrize("most", [50, 95])
def test_columns_that_are_not_wanted_are_not_loaded(table, most):
    lean = DeltaDataset(
        table=table.address, as_pandas=True, max_rows=most, without=["body", "late"]
    )
    columns = DeltaDataset(table=table.address).load().columns
    assert list(lean.load()) == [name for name in columns if name not in ("body", "late")]
