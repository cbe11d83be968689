"""Whole forecast runs: a champion of June 2012 lives through the days that follow."""

import json

import mlflow
import pandas as pd
import pytest

from candlecast.inference import intervals
from candlecast.metrics import score
from candlecast.pipelines.forecast.nodes import NothingNewError
from candlecast.windows import newest_windows
from conftest import SMALL, kedro

TRAINED = "2012-06-29"
TINY = {**SMALL, "candidate_trees": [5]}


def promote(run, candidate: str, end: str) -> None:
    """Train a candidate on sessions up to a day, and make it champion."""
    run(**TINY, candidate=candidate, end=end)
    run(
        pipeline_names=["registration"],
        candidate=candidate,
        approver="Ada",
        override_reason="to have a champion",
    )


def forecast(run, end: str) -> None:
    run(**TINY, pipeline_names=["forecast"], end=end)


def table(spark, tmp_path, name: str = "forecasts") -> pd.DataFrame:
    frame = spark.read.format("delta").load(str(tmp_path / "data/tables" / name))
    order = [key for key in ("session", "ticker", "model_version") if key in frame.columns]
    return frame.orderBy(order).toPandas()


def record(tmp_path):
    return json.loads((tmp_path / "data/reporting/track_record.json").read_text())


def keys(frame: pd.DataFrame) -> list[tuple[str, str, int]]:
    columns = frame[["ticker", "session", "model_version"]].itertuples(index=False)
    return [(ticker, str(session), version) for ticker, session, version in columns]


@pytest.mark.slow
def test_a_champions_days(run, spark, tmp_path):
    promote(run, "june", TRAINED)

    # The eve: two forecasts of the next session, no outcome.
    forecast(run, TRAINED)
    eve = table(spark, tmp_path)
    assert keys(eve) == [("AAPL", "2012-07-02", 1), ("IBM", "2012-07-02", 1)]
    assert eve["candidate"].tolist() == ["june", "june"]
    assert eve[["up", "body", "return_"]].isna().all(axis=None)
    assert record(tmp_path)["retrain"] is None
    assert record(tmp_path)["forecasts"] == {
        **{"made": 2, "outcome": 0, "waiting": 2, "without_session": 0, "made_late": 2}
    }
    forest = mlflow.sklearn.load_model("models:/candlecast@champion")
    prices = spark.read.format("delta").load(str(tmp_path / "data/tables/prices"))
    lags = newest_windows(prices, 14, "return").orderBy("ticker").toPandas().filter(like="lag_")
    assert eve["probability"].tolist() == pytest.approx(
        forest.predict_proba(lags)[:, 1].tolist(), abs=1e-12
    )
    assert eve["previous_day"].tolist() == (lags["lag_01"] > 0).astype(int).tolist()

    # The days: outcomes come in, the 4th of July is no session.
    forecast(run, "2012-07-02")
    forecast(run, "2012-07-03")
    days = table(spark, tmp_path)
    assert keys(days) == [
        (ticker, day, 1)
        for day in ("2012-07-02", "2012-07-03", "2012-07-05")
        for ticker in ("AAPL", "IBM")
    ]
    assert days["prices_version"].tolist() == sorted(days["prices_version"])
    assert days["prices_version"].nunique() == 3
    pd.testing.assert_frame_equal(
        days.head(2).drop(columns=["up", "body", "return_"]),
        eve.drop(columns=["up", "body", "return_"]),
    )
    priced = prices_by_key(table(spark, tmp_path, "prices"))
    for row in days.head(4).itertuples(index=False):
        opened, closed = priced[row.ticker, str(row.session)]
        assert (row.up, row.return_) == (int(closed > opened), closed / opened - 1)
        assert row.body == row.return_
    assert days.tail(2)[["up", "body", "return_"]].isna().all(axis=None)

    # The same again changes nothing.
    forecast(run, "2012-07-03")
    pd.testing.assert_frame_equal(table(spark, tmp_path), days)

    # Every figure follows from the table.
    known = days.head(4)
    scores = known[
        ["ticker", "session", "body", "probability", "previous_day", "base_rate"]
    ].assign(
        up=known["up"].astype(int),
        session=pd.to_datetime(known["session"]),
        always_up=1.0,
        majority=float(known["base_rate"].iloc[0] > 0.5),
    )
    said = record(tmp_path)
    assert said["metrics"] == {**score(scores), **intervals(scores, repetitions=2000, seed=4284)}
    assert said["champion"]["version"] == 1
    assert said["drift"]["sessions"] == 2
    assert said["forecasts"]["outcome"] == 4
    page = (tmp_path / "data/reporting/track_record.html").read_text()
    assert said["advice"] in page

    # A new champion starts a record of its own; the old one's forecasts still get outcomes.
    promote(run, "july", "2012-07-05")
    with pytest.raises(NothingNewError, match=r"up to 2012-07-05, and .* this run is 2012-07-05\."):
        forecast(run, "2012-07-03")
    pd.testing.assert_frame_equal(table(spark, tmp_path), days)
    forecast(run, "2012-07-05")
    later = table(spark, tmp_path)
    assert keys(later)[4:] == [
        *(("AAPL", "2012-07-05", 1), ("IBM", "2012-07-05", 1)),
        *(("AAPL", "2012-07-06", 2), ("IBM", "2012-07-06", 2)),
    ]
    assert later["up"].notna().tolist() == [True] * 6 + [False] * 2
    assert record(tmp_path)["champion"]["version"] == 2
    assert record(tmp_path)["metrics"] == {}


def prices_by_key(prices: pd.DataFrame) -> dict[tuple[str, str], tuple[float, float]]:
    return {
        (row.ticker, str(row.session)): (row.open, row.close)
        for row in prices.itertuples(index=False)
    }


def test_without_a_champion_one_error_says_how_to_get_one(project):
    done = kedro(project, "run", "--pipelines", "forecast", "--params", "tickers=AAPL IBM")
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if "  ERROR   " in line]
    assert "There is no champion: no version of the registered model candlecast" in error
    assert "kedro run --pipelines registration --params" in done.stderr
    assert "Traceback" not in done.stderr
    assert "sessions, 20" not in done.stderr  # nothing was fetched
    assert not (project / "data/tables").exists()
