"""Whole forecast runs of a champion trained in June 2012, and their page in a browser."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser

from browsing import CONTRASTS, EVIL, SIZES, open_page
from candlecast.errors import NoChampionError, NotEnoughDataError
from candlecast.evaluation.drift import make_profile, measure_drift
from candlecast.evaluation.metrics import compute_metrics
from candlecast.evaluation.significance import intervals
from candlecast.features.definitions import lag_columns
from candlecast.parameters import Evaluation, Monitoring
from candlecast.pipelines.forecast.nodes import MADE, OUTCOME, evaluate_champion
from candlecast.reporting.track_record import write_track_record
from conftest import SMALL, register

TRAINED = "2012-06-29"
WINDOW = 5
TINY = {**SMALL, "estimators": "forest_5", "window": WINDOW}


def promote(run, candidate: str, end: str) -> None:
    """Train a candidate on sessions up to a day, and make it champion."""
    run(**TINY, candidate=candidate, end=end)
    register(run, candidate)


def forecast(run, end: str, **parameters: str) -> None:
    run(**TINY, pipeline_names=["forecast"], end=end, **parameters)


def table(spark, tmp_path, name: str = "forecasts") -> pd.DataFrame:
    frame = spark.read.format("delta").load(str(tmp_path / "data/tables" / name))
    order = [key for key in ("session", "ticker", "model_version") if key in frame.columns]
    return frame.orderBy(order).toPandas()


def record(tmp_path):
    return json.loads((tmp_path / "data/reporting/track_record.json").read_text())


def keys(frame: pd.DataFrame) -> list[tuple[str, str, int]]:
    columns = frame[["ticker", "session", "model_version"]].itertuples(index=False)
    return [(ticker, str(session), version) for ticker, session, version in columns]


def test_forecasts_of_a_champion_day_by_day(run, spark, tmp_path):
    promote(run, "june", TRAINED)

    # The day before: two forecasts of the next session, no outcome.
    forecast(run, TRAINED, now="2012-07-01T18:00:00+00:00")
    before = table(spark, tmp_path)
    assert keys(before) == [("AAPL", "2012-07-02", 1), ("IBM", "2012-07-02", 1)]
    assert before["candidate"].tolist() == ["june", "june"]
    assert before[["up", "body", "return_"]].isna().all(axis=None)
    assert record(tmp_path)["retrain"] is None
    assert record(tmp_path)["forecasts"] == {
        **{"made": 2, "outcome": 0, "waiting": 2, "without_session": 0, "late": 0}
    }
    assert set(before["made_at"]) == {pd.Timestamp("2012-07-01 18:00")}
    assert set(before["opens_at"]) == {pd.Timestamp("2012-07-02 13:30")}
    assert before["late"].tolist() == [False, False]
    forest = mlflow.sklearn.load_model("models:/candlecast@champion")
    newest = table(spark, tmp_path, "prices").groupby("ticker").tail(WINDOW)
    bodies = (newest["close"] / newest["open"] - 1).astype("float32").groupby(newest["ticker"])
    lags = pd.DataFrame([each.tolist()[::-1] for _, each in bodies], columns=lag_columns(WINDOW))
    assert before["probability"].tolist() == pytest.approx(
        forest.predict_proba(lags)[:, 1].tolist(), abs=1e-12
    )
    assert before["previous_day"].tolist() == (lags["lag_01"] > 0).astype(int).tolist()

    # Two sessions later: outcomes are known; 4 July is not a session.
    forecast(run, "2012-07-03")
    days = table(spark, tmp_path)
    assert keys(days) == [
        (ticker, day, 1) for day in ("2012-07-02", "2012-07-05") for ticker in ("AAPL", "IBM")
    ]
    assert days["prices_version"].tolist() == sorted(days["prices_version"])
    assert days["prices_version"].nunique() == 2
    pd.testing.assert_frame_equal(
        days.head(2).drop(columns=["up", "body", "return_"]),
        before.drop(columns=["up", "body", "return_"]),
    )
    priced = prices_by_key(table(spark, tmp_path, "prices"))
    for row in days.head(2).itertuples(index=False):
        opened, closed = priced[row.ticker, str(row.session)]
        assert (row.up, row.return_) == (int(closed > opened), closed / opened - 1)
        assert row.body == row.return_
    assert days.tail(2)[["up", "body", "return_"]].isna().all(axis=None)

    # Running it again changes nothing.
    forecast(run, "2012-07-03")
    pd.testing.assert_frame_equal(table(spark, tmp_path), days)

    # Every metric follows from the table.
    known = days.head(2)
    predictions = known[
        ["ticker", "session", "body", "probability", "previous_day", "base_rate"]
    ].assign(
        up=known["up"].astype(int),
        session=pd.to_datetime(known["session"]),
        always_up=1.0,
        majority=float(known["base_rate"].iloc[0] > 0.5),
    )
    found = record(tmp_path)
    assert found["metrics"] == {
        **compute_metrics(predictions),
        **intervals(predictions, repetitions=1000, seed=4284),
    }
    assert days["late"].tolist() == [False, False, True, True]  # the new ones are made now
    assert found["forecasts"]["late"] == 2
    assert found["champion"]["version"] == 1
    assert found["drift"]["sessions"] == 2
    assert found["forecasts"]["outcome"] == 2
    assert found["replayed"]["metrics"] == {}
    few = {reason["code"]: reason["sessions"] for reason in found["reasons"]}
    assert few == {"too_few_outcomes": 1, "too_few_inputs": 2}
    page = (tmp_path / "data/reporting/track_record.html").read_text()
    assert '<section id="replayed">' in page and "2 late" in page

    days = catch_up(run, spark, tmp_path, days)
    replace_champion(run, spark, tmp_path, days)


def catch_up(run, spark, tmp_path, days: pd.DataFrame) -> pd.DataFrame:
    # Catching up makes what is missing, of the sessions since, and changes nothing else. Seen from
    # the morning of the 10th, the sessions after it do not exist, though the sample has them.
    forecast(run, "2012-12-31", since="2012-07-05", now="2012-07-10T13:29:59+00:00")
    caught_up = table(spark, tmp_path)
    assert [day for ticker, day, _ in keys(caught_up) if ticker == "IBM"] == [
        *("2012-07-02", "2012-07-05", "2012-07-06", "2012-07-09", "2012-07-10")
    ]
    new = caught_up.tail(6)
    assert new["late"].tolist() == [True] * 4 + [False] * 2
    assert new["up"].notna().tolist() == [True] * 4 + [False] * 2
    pd.testing.assert_frame_equal(caught_up.head(4)[MADE], days[MADE])
    assert record(tmp_path)["metrics"]["rows"] == 2
    assert record(tmp_path)["replayed"]["metrics"]["rows"] == 6
    return caught_up


def replace_champion(run, spark, tmp_path, days: pd.DataFrame) -> None:
    # A new champion starts a new record; forecasts of the old one still get outcomes.
    promote(run, "july", "2012-07-10")
    with pytest.raises(NotEnoughDataError, match=r"2012-07-10.*2012-07-10"):
        forecast(run, "2012-07-09")
    pd.testing.assert_frame_equal(table(spark, tmp_path), days)
    forecast(run, "2012-07-10")
    later = table(spark, tmp_path)
    assert keys(later)[8:] == [
        *(("AAPL", "2012-07-10", 1), ("IBM", "2012-07-10", 1)),
        *(("AAPL", "2012-07-11", 2), ("IBM", "2012-07-11", 2)),
    ]
    assert later["up"].notna().tolist() == [True] * 10 + [False] * 2
    assert record(tmp_path)["champion"]["version"] == 2
    assert record(tmp_path)["metrics"] == {}
    [former] = record(tmp_path)["former"]
    assert (former["version"], former["metrics"]["rows"]) == (1, 4)


def prices_by_key(prices: pd.DataFrame) -> dict[tuple[str, str], tuple[float, float]]:
    return {
        (row.ticker, str(row.session)): (row.open, row.close)
        for row in prices.itertuples(index=False)
    }


def test_without_a_champion_nothing_is_fetched(run, tmp_path):
    with pytest.raises(NoChampionError, match="candlecast"):
        run(tickers=["AAPL", "IBM"], pipeline_names=["forecast"])
    assert not (tmp_path / "data/fetched").exists()
    assert not (tmp_path / "data/tables").exists()


# --- The page in a browser ------------------------------------------------------------------------


def simulate(sessions: int, scale: float, replayed: int) -> str:
    """The page of five tickers, one of them HTML; new inputs are `scale` times as wide.

    The first `replayed` sessions were forecast late; if there are any, there is a former champion.
    """
    random = np.random.default_rng(7)

    def windows(count: int, width: float) -> pd.DataFrame:
        lags = random.normal(0, 0.02 * width, (5 * count, 14)).astype(np.float32)
        up = (random.random(5 * count) < 0.5).astype(np.int8)
        days = np.repeat(pd.bdate_range("2013-01-01", periods=count), 5)
        return pd.DataFrame(lags, columns=lag_columns(14)).assign(session=days, up=up)

    profile = make_profile(windows(2000, 1.0))
    rows = 5 * (sessions + 1)
    days = np.repeat(pd.bdate_range("2013-01-01", periods=sessions + 1), 5)
    body = random.normal(0, 0.01, rows)
    forecasts = pd.DataFrame(
        {
            **{"ticker": ["AAPL", "FB", "IBM", "MSFT", EVIL] * (sessions + 1), "session": days},
            **{"model_version": 3, "candidate": "seven", "body_kind": "return"},
            "probability": 0.5 + random.normal(0, 0.03, rows),
            **{"previous_day": random.integers(0, 2, rows), "base_rate": profile["share_up"]},
            **{"made_at": pd.Timestamp("2013-01-02 06:00", tz="UTC"), "prices_version": 7},
            **{"opens_at": pd.Timestamp("2013-01-02 14:30", tz="UTC"), "late": False},
            **{"up": (body > 0).astype(int), "body": body, "return_": body},
        }
    ).astype({"up": "Int8"})[[*MADE, *OUTCOME]]
    forecasts.loc[forecasts["session"] < days[5 * replayed], "late"] = True
    old = forecasts.assign(model_version=2, candidate=EVIL, late=False)
    forecasts.loc[forecasts["session"] == days.max(), OUTCOME] = [pd.NA, np.nan, np.nan]
    facts = {
        **{"version": 3, "candidate": "github-1234567890-1", "window": 14},
        **{
            "estimator": "forest_100",
            "features": ["lags"],
            "body": "return",
            "last_trained": "2012-06-08",
            "last_known": "2012-06-29",
        },
        **{"rows_trained": profile["rows"], "promoted_at": "2012-06-30T09:12:33+00:00"},
        **{"approver": EVIL, "override_reason": EVIL},
    }
    monitoring = Monitoring(max_psi=0.25, max_share_up_shift=0.1, min_sessions=20, grace_minutes=60)
    evaluation = Evaluation(repetitions=1000, cost_bps=5.0)
    drift = measure_drift(profile, windows(sessions, scale), monitoring)
    if replayed:
        forecasts = pd.concat([forecasts, old], ignore_index=True)
    record = evaluate_champion(forecasts, facts, drift, monitoring, evaluation, 4284)
    return write_track_record(record, forecasts)


PAGES = {
    "early": (3, 1.0, 0, 0),
    "fine": (120, 1.0, 0, 4),
    "drifted": (120, 2.0, 40, 7),
}
"""Sessions, width of the inputs, sessions that were replayed, figures on the page."""


@pytest.fixture(scope="module", params=PAGES)
def page_file(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A page, and how many figures it has."""
    *simulated, report_figures = PAGES[request.param]
    file = tmp_path_factory.mktemp(request.param) / "track_record.html"
    file.write_text(simulate(*simulated), encoding="utf-8")
    return file, report_figures


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_is_complete_and_can_be_read(
    browser: Browser, page_file: tuple[Path, int], theme: str, size: str
) -> None:
    file, report_figures = page_file
    watched = open_page(browser, file, theme, size)
    page = watched.page
    sections = ["advice", "newest", "results", "drift", "outcomes", "limits"]
    sections += ["replayed", "former"] if report_figures == 7 else []
    shown = [page.locator(f"#{name} >> visible=true").count() for name in sections]
    assert shown == [1] * len(sections)
    assert page.locator("svg[role=img]").count() == report_figures
    assert page.get_by_role("rowheader", name=EVIL).first.inner_text() == EVIL
    assert page.evaluate("document.scripts.length") == 0
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 60
    assert [text for text, contrast in contrasts if contrast < 4.5] == []  # WCAG 2, level AA
    assert watched.problems == []
    page.close()
