"""The forecast pipeline's functions on hand-made frames."""

import datetime as dt
import json
import logging
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier

from browsing import EVIL
from candlecast.errors import NotEnoughDataError
from candlecast.evaluation.drift import make_profile, measure_drift
from candlecast.evaluation.metrics import compute_metrics
from candlecast.evaluation.significance import intervals
from candlecast.evaluation.track_record import made_late, predictions_of
from candlecast.parameters import Evaluation, Monitoring
from candlecast.pipelines import data_engineering
from candlecast.pipelines.forecast import create_pipeline
from candlecast.pipelines.forecast.nodes import (
    MADE,
    OUTCOME,
    describe_champion,
    evaluate_champion,
    make_forecasts,
    measure_input_drift,
    merge_forecasts,
    predict_newest,
)
from candlecast.registry.entities import Champion
from candlecast.reporting import track_record
from candlecast.reporting.track_record import write_track_record

MONITORING = Monitoring(max_psi=0.25, max_share_up_shift=0.1, min_sessions=20)
EVALUATION = Evaluation(repetitions=1000, cost_bps=5.0)
NOW = "2024-01-04T22:15:00+00:00"
SCHEMA = "ticker string, session date, open double, close double"


def train(rows: int = 400) -> pd.DataFrame:
    random = np.random.default_rng(1)
    lags = random.normal(0, 0.02, (rows, 2)).astype(np.float32)
    frame = pd.DataFrame(lags, columns=["lag_01", "lag_02"])
    return frame.assign(up=(random.random(rows) < 0.5).astype(np.int8))


def champion(last_known: str = "2024-01-03", **others: Any) -> Champion:
    frame = train()
    forest = RandomForestClassifier(10, min_weight_fraction_leaf=0.1, random_state=1)
    forest.fit(frame[["lag_01", "lag_02"]], frame["up"])
    facts: dict[str, Any] = {
        **{"version": 3, "candidate": "seven", "columns": ("lag_01", "lag_02"), "window": 2},
        **{
            "estimator": "forest_10",
            "body": "return",
            "profile": make_profile(frame),
            "last_trained": "2023-12-29",
        },
        "features": ["lags"],
        "tags": {"promoted_at": "2024-01-04T08:00:00+00:00", "approver": "Ada"},
    }
    return Champion(model=forest, last_known=last_known, **facts | others)


def newest(*rows: tuple[str, str]) -> pd.DataFrame:
    """Predictions of the next sessions, one row per ticker."""
    frame = pd.DataFrame(rows, columns=["ticker", "session"])
    return frame.assign(session=pd.to_datetime(frame["session"]), previous_day=1, probability=0.52)


def table(*rows: dict[str, Any], sessions: int = 1) -> pd.DataFrame:
    """Forecasts of version 3 as the table holds them, each row repeated on so many weekdays."""
    frames = [
        pd.DataFrame(
            {
                **{"ticker": "AAPL", "session": pd.bdate_range("2024-01-04", periods=sessions)},
                **{"model_version": 3, "candidate": "seven", "body_kind": "return"},
                **{"probability": 0.52, "previous_day": 1, "base_rate": 0.51},
                **{"made_at": pd.Timestamp("2024-01-04 01:00", tz="UTC"), "prices_version": 7},
                **{"up": None, "body": np.nan, "return_": np.nan},
            }
            | row,
            index=range(sessions),
        )
        for row in rows
    ]
    return pd.concat(frames, ignore_index=True).astype({"up": "Int8"})[[*MADE, *OUTCOME]]


# --- Predicting -----------------------------------------------------------------------------------


def test_newest_predictions_are_made_from_windows_of_the_champions_size(spark):
    bodies = {"A": [0.01, -0.02, 0.03], "B": [0.02, 0.01, -0.01], "short": [0.01]}
    rows = [
        (ticker, dt.date(2024, 1, number), 100.0, 100.0 * (1 + body))
        for ticker, series in bodies.items()
        for number, body in enumerate(series, start=1)
    ]
    found = predict_newest(spark.createDataFrame(rows, SCHEMA), champion(), None)
    assert found["ticker"].tolist() == ["A", "B"]
    assert found["session"].tolist() == [pd.Timestamp("2024-01-04")] * 2
    assert found["previous_day"].tolist() == [1, 0]
    lags = pd.DataFrame([[0.03, -0.02], [-0.01, 0.01]], columns=["lag_01", "lag_02"])
    expected = champion().model.predict_proba(lags.astype(np.float32))[:, 1]
    assert found["probability"].to_numpy() == pytest.approx(expected, abs=1e-12)


# --- Making ---------------------------------------------------------------------------------------


def test_a_forecast_is_for_the_next_session_of_its_exchange(spark):
    tickers = ["AAPL", "BTC-USD", "7203.T"]
    days = (dt.date(2024, 1, number) for number in (3, 4, 5))
    rows = [(ticker, day, 100.0, 101.0) for day in days for ticker in tickers]
    predictions = predict_newest(spark.createDataFrame(rows, SCHEMA), champion(), None)
    made = make_forecasts(predictions, champion(), tickers, NOW, 9)
    assert list(made) == MADE
    assert dict(zip(made["ticker"], made["session"], strict=True)) == {
        "AAPL": pd.Timestamp("2024-01-08"),
        "BTC-USD": pd.Timestamp("2024-01-06"),
        "7203.T": pd.Timestamp("2024-01-09"),  # the 8th is a holiday there
    }
    (row,) = made[made["ticker"] == "AAPL"].to_dict("records")
    assert row == {
        **{"ticker": "AAPL", "session": pd.Timestamp("2024-01-08"), "model_version": 3},
        **{"candidate": "seven", "body_kind": "return", "previous_day": 1},
        **{"probability": predictions.set_index("ticker")["probability"]["AAPL"]},
        **{"base_rate": train()["up"].mean(), "made_at": pd.Timestamp(NOW), "prices_version": 9},
    }


def test_a_session_that_the_champion_knows_gets_no_forecast(caplog):
    predictions = newest(("AAPL", "2024-01-04"), ("IBM", "2024-01-03"))
    with caplog.at_level(logging.WARNING):
        made = make_forecasts(predictions, champion("2024-01-03"), ["AAPL", "FB", "IBM"], NOW, 9)
    assert made["ticker"].tolist() == ["AAPL"]
    void, known = [record.getMessage() for record in caplog.records]
    assert "FB" in void
    assert "IBM" in known and known.count("2024-01-03") == 2  # the session, and the last known


def test_without_a_new_session_the_error_names_the_next_and_the_last_known():
    predictions = newest(("AAPL", "2024-01-03"), ("IBM", "2023-12-29"))
    with pytest.raises(NotEnoughDataError, match="version 3, candidate seven") as error:
        make_forecasts(predictions, champion("2024-01-05"), ["AAPL", "IBM"], NOW, 9)
    assert "2024-01-03" in str(error.value) and "2024-01-05" in str(error.value)
    with pytest.raises(NotEnoughDataError, match="none"):
        make_forecasts(newest().astype({"ticker": str}), champion(), ["AAPL"], NOW, 9)


# --- Merging --------------------------------------------------------------------------------------


def prices(spark, *rows: tuple[str, int, float | None, float | None]):
    days = [(ticker, dt.date(2024, 1, number), *candle) for ticker, number, *candle in rows]
    return spark.createDataFrame(days, SCHEMA)


def test_outcomes_are_filled_in_when_prices_hold_them(spark):
    new = table({"ticker": "AAPL"}, {"ticker": "IBM"}, {"ticker": "KO"}, {"ticker": "GE"})[MADE]
    candles = [("AAPL", 4, 10.0, 11.0), ("IBM", 4, 10.0, 10.0), ("KO", 4, 10.0, None)]
    merged = merge_forecasts(new, None, prices(spark, *candles, ("GE", 3, 10.0, 11.0)))
    assert list(merged) == [*MADE, *OUTCOME]
    known = merged.set_index("ticker")[OUTCOME]
    assert known.loc["AAPL"].tolist() == [1, 11.0 / 10.0 - 1, 11.0 / 10.0 - 1]
    assert known.loc["IBM"].tolist() == [0, 0.0, 0.0]  # an equal close is not up
    assert known.loc[["KO", "GE"]].isna().all(axis=None)


def test_each_version_gets_the_body_that_it_was_trained_on(spark):
    new = table({"body_kind": "delta"}, {"model_version": 4})[MADE]
    merged = merge_forecasts(new, None, prices(spark, ("AAPL", 4, 10.0, 12.0)))
    assert merged["body"].tolist() == [2.0, 12.0 / 10.0 - 1]
    assert merged["return_"].tolist() == [12.0 / 10.0 - 1] * 2


def test_the_first_forecast_of_a_ticker_session_and_version_stays(spark):
    again = table({"probability": 0.6, "made_at": pd.Timestamp(NOW), "prices_version": 8})[MADE]
    other = table({"model_version": 4, "probability": 0.7})[MADE]
    none = prices(spark, ("AAPL", 3, 10.0, 11.0))
    merged = merge_forecasts(pd.concat([again, other]), table({}), none)
    assert merged["model_version"].tolist() == [3, 4]
    assert merged["probability"].tolist() == [0.52, 0.7]
    assert merged["made_at"].tolist() == [pd.Timestamp("2024-01-04 01:00", tz="UTC")] * 2
    assert merged["prices_version"].tolist() == [7, 7]
    pd.testing.assert_frame_equal(merge_forecasts(again, merged, none), merged)


def test_an_outcome_stays_when_prices_lose_the_session_and_follows_a_correction(spark):
    stored = table({"up": 1, "body": 0.1, "return_": 0.1}, {"ticker": "IBM", "up": 0}, sessions=2)
    stored.loc[stored["ticker"] == "IBM", ["body", "return_"]] = -0.2
    new = table({"ticker": "AAPL", "session": pd.Timestamp("2024-01-09")})[MADE]
    corrected = prices(spark, ("AAPL", 5, 10.0, 9.0))
    merged = merge_forecasts(new, stored, corrected).set_index(["ticker", "session"])[OUTCOME]
    rows = {(name, f"{day:%d}"): tuple(row) for (name, day), *row in merged.itertuples()}
    assert rows.pop(("AAPL", "09"))[0] is pd.NA
    assert rows == {
        ("AAPL", "04"): (1, 0.1, 0.1),
        ("AAPL", "05"): (0, 9.0 / 10.0 - 1, 9.0 / 10.0 - 1),
        ("IBM", "04"): (0, -0.2, -0.2),
        ("IBM", "05"): (0, -0.2, -0.2),
    }


# --- Evaluating -----------------------------------------------------------------------------------


def known(sessions: int, hit_share: float, tickers: tuple[str, ...] = ("AAPL", "IBM")):
    """Forecasts with outcomes, ups and downs in turn; about `hit_share` of them are right."""
    random = np.random.default_rng(4284)
    rows = []
    for ticker in tickers:
        up = np.arange(sessions) % 2
        right = random.random(sessions) < hit_share
        predicted = np.where(right, up, 1 - up)
        body = np.where(up == 1, 0.01, -0.01)
        probability = 0.5 + np.where(predicted == 1, 1, -1) * random.uniform(0.01, 0.05, sessions)
        rows.append(
            {"ticker": ticker, "up": up, "body": body, "return_": body}
            | {"probability": probability, "previous_day": np.arange(sessions) // 2 % 2}
        )
    return table(*rows, sessions=sessions)


def drift_of(sessions: int, scale: float = 1.0, up: float = 0.5) -> dict[str, Any]:
    random = np.random.default_rng(2)
    lags = random.normal(0, 0.02 * scale, (sessions, 2)).astype(np.float32)
    frame = pd.DataFrame(lags, columns=["lag_01", "lag_02"]).assign(
        session=pd.bdate_range("2024-01-04", periods=sessions),
        up=(np.linspace(0, 1, sessions, endpoint=False) < up).astype(np.int8),
    )
    return measure_drift(make_profile(train(2000)), frame, MONITORING)


def evaluated(forecasts: pd.DataFrame, drift: dict[str, Any]) -> dict[str, Any]:
    facts = describe_champion(champion())
    record = evaluate_champion(forecasts, facts, drift, MONITORING, EVALUATION, 4284)
    json.dumps(record, allow_nan=False)
    return record


def few(code: str, sessions: int) -> dict[str, Any]:
    return {"code": code, "sessions": sessions, "required": 20}


def test_it_is_too_early_below_the_required_sessions():
    record = evaluated(known(19, 0.0), drift_of(19, scale=5, up=1.0))
    assert record["retrain"] is None
    assert record["reasons"] == [few("too_few_outcomes", 19), few("too_few_inputs", 19)]
    record = evaluated(table({}), drift_of(0))
    assert record["retrain"] is None
    assert record["metrics"] == {}
    assert record["reasons"] == [few("too_few_outcomes", 0), few("too_few_inputs", 0)]
    assert evaluated(known(1, 1.0), drift_of(250))["reasons"] == [few("too_few_outcomes", 1)]


def test_no_reason_to_retrain():
    record = evaluated(known(250, 0.5), drift_of(250))
    assert record["retrain"] is False
    assert record["reasons"] == []
    assert record["metrics"]["accuracy_minus_best_baseline.high"] >= 0


def test_drifted_inputs_are_a_reason():
    drift = drift_of(250, scale=2)
    record = evaluated(known(250, 0.5), drift)
    most = max(drift["features"], key=lambda each: each["psi"])
    numbers = {"drifted": 2, "features": 2, "name": most["name"], "psi": most["psi"], "limit": 0.25}
    assert record["retrain"] is True
    assert record["reasons"] == [{"code": "inputs_drifted", **numbers}]


def test_a_shifted_share_of_ups_is_a_reason_also_with_few_outcomes():
    record = evaluated(known(5, 0.5), drift_of(250, up=0.8))
    shares = {"share_up_trained": train(2000)["up"].mean(), "share_up": 0.8}
    assert record["retrain"] is True
    assert record["reasons"] == [{"code": "share_up_shifted", **shares}]


def test_predictions_that_are_clearly_worse_than_a_simple_rule_are_a_reason():
    record = evaluated(known(250, 0.3), drift_of(250))
    metrics, name = record["metrics"], "accuracy_minus_best_baseline"
    assert record["retrain"] is True
    ends = {"low": metrics[f"{name}.low"], "high": metrics[f"{name}.high"]}
    assert record["reasons"] == [{"code": "worse_than_baseline", "value": metrics[name], **ends}]
    assert ends["high"] < 0


def test_several_reasons_are_listed():
    record = evaluated(known(250, 0.3), drift_of(250, scale=2, up=0.8))
    codes = [reason["code"] for reason in record["reasons"]]
    assert codes == ["inputs_drifted", "share_up_shifted", "worse_than_baseline"]


def test_metrics_are_those_of_the_predictions_of_this_version_alone():
    own, other = known(30, 0.6), known(30, 0.0).assign(model_version=2)
    record = evaluated(pd.concat([other, own], ignore_index=True), drift_of(30))
    predictions = own[["ticker", "session", "body", "return_", "probability"]].assign(
        up=own["up"].astype(int),
        always_up=1.0,
        majority=1.0,  # a base rate of 0.51
        previous_day=own["previous_day"].astype(float),
        base_rate=0.51,
    )
    pd.testing.assert_frame_equal(predictions_of(own), predictions)
    assert record["metrics"] == {
        **compute_metrics(predictions),
        **intervals(predictions, repetitions=1000, seed=4284),
    }
    assert not [name for name in record["metrics"] if name.startswith("logistic")]
    assert record["metrics"]["sessions"] == 30


def test_forecasts_are_counted_by_what_became_of_them():
    late, early = pd.Timestamp("2024-01-05 00:00", tz="UTC"), pd.Timestamp("2024-01-04 23:59:59Z")
    rows = table(
        {"ticker": "A", "up": 1, "made_at": early},
        {"ticker": "B", "up": 0, "made_at": late},
        {"ticker": "C", "made_at": late},  # a later session of it has an outcome, this one has none
        {"ticker": "C", "session": pd.Timestamp("2024-01-08"), "up": 1, "made_at": early},
        {"ticker": "D", "made_at": early},
    ).assign(body=0.0)
    assert made_late(rows).tolist() == [False, True, True, False, False]
    assert evaluated(rows, drift_of(0))["forecasts"] == {
        **{"made": 5, "outcome": 3, "waiting": 1, "without_session": 1, "made_late": 2}
    }


def test_only_windows_that_are_new_to_the_champion_are_measured(spark):
    days = pd.bdate_range("2024-01-01", periods=8)
    rows = [("AAPL", day.date(), 100.0, 100.0 + n) for n, day in enumerate(days)]
    found = measure_input_drift(
        spark.createDataFrame(rows, SCHEMA), champion("2024-01-05"), MONITORING
    )
    assert (found["sessions"], found["rows"]) == (3, 3)
    assert (found["first_session"], found["last_session"]) == ("2024-01-08", "2024-01-10")
    assert found["share_up"] == 1.0


# --- The page -------------------------------------------------------------------------------------


def page_of(forecasts: pd.DataFrame, drift: dict[str, Any]) -> str:
    return write_track_record(evaluated(forecasts, drift), forecasts)


def test_the_page_shows_the_record():
    forecasts = pd.concat(
        [known(40, 0.3), table({"session": pd.Timestamp("2024-03-04")}, {"ticker": EVIL})],
        ignore_index=True,
    )
    record = evaluated(forecasts, drift_of(40, scale=6, up=0.8))
    page = write_track_record(record, forecasts)
    [lede] = re.findall('<p class="lede">(.*?)</p>', page)
    psi = max(each["psi"] for each in record["drift"]["features"])
    high = record["metrics"]["accuracy_minus_best_baseline.high"]
    for value in ("2 of 2 features", f"{psi:.2f}", "80.0%", f"{high:.3f}"):
        assert value in lede
    assert "82 made, 80 with an outcome, 2 waiting" in page
    assert page.count("<svg") == 3
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in page
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert "2024-03-04</td>" in page


@pytest.mark.parametrize(
    ("codes", "expected"),
    [("b", "Retrain: b."), ("ab", "Retrain: a and b."), ("abc", "Retrain: a, b, and c.")],
)
def test_reasons_are_joined(monkeypatch, codes, expected):
    monkeypatch.setattr(track_record, "REASONS", {"a": "a", "b": "b", "c": "c"})
    assert track_record.advice_text(True, [{"code": code} for code in codes]) == expected


def test_the_page_shows_how_few_outcomes_there_are():
    page = page_of(known(1, 1.0), drift_of(0))
    [numbers] = re.findall('<p class="numbers">(.*?)</p>', page)
    for value in ("1 session ", "2 forecasts", "100.0%"):
        assert value in numbers
    [lede] = re.findall('<p class="lede">(.*?)</p>', page)
    assert "1 of the 20" in lede and "0 of the 20" in lede
    assert page.count("<svg") == 1


def test_the_page_before_any_outcome():
    page = page_of(table({}), drift_of(0))
    assert '<p class="numbers">' not in page
    assert "<svg" not in page
    [lede] = re.findall('<p class="lede">(.*?)</p>', page)
    assert lede.count("0 of the 20") == 2  # outcomes and inputs


def test_the_page_shows_how_many_were_made_late():
    late = table({"made_at": pd.Timestamp("2024-02-01", tz="UTC")}, {"ticker": "IBM"})
    assert "1 made late" in page_of(late, drift_of(0))
    assert "made late" not in page_of(table({}), drift_of(0))


# --- The pipeline ---------------------------------------------------------------------------------


def test_prices_are_fetched_and_checked_as_for_training():
    shared = {node.name for node in data_engineering.create_pipeline().nodes}
    names = {node.name for node in create_pipeline().nodes}
    assert {"fetch_prices", "merge_prices", "tabulate_quality", "select_prices"} <= names
    assert not {"make_windows", "split_by_date", "audit_leakage"} & names
    assert names - shared == {
        *("describe_champion", "predict_newest", "make_forecasts", "merge_forecasts"),
        *("measure_input_drift", "evaluate_champion", "write_track_record"),
    }
