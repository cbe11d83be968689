"""The reporting pipeline on small hand-made frames, run as a whole and function by function."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from jinja2 import UndefinedError
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from candlecast.parameters import Gate
from candlecast.pipelines.reporting import create_pipeline
from candlecast.pipelines.reporting.nodes import (
    build_context,
    build_tables,
    evaluate,
    judge,
    write_summary,
)
from candlecast.reporting.html import metric_text, number, p_value, percent

EVALUATION = {"repetitions": 100, "cost_bps": 5.0}
GATE = Gate(metric="accuracy", threshold=0.0, min_sessions=20, champion_margin=0.03)
UNDEFINED = "undefined: only one class occurred"
CANDIDATES = [
    {"trees": 50, "log_loss": 0.6931, "log_loss_se": 0.0010, "accuracy": 0.51, "roc_auc": 0.52}
    | {"training_f1": 0.55, "fold_1.log_loss": 0.6930, "fold_2.log_loss": 0.6932}
    | {"chosen": True, "original_rule": False},
    {"trees": 1000, "log_loss": 0.6930, "log_loss_se": 0.0020, "accuracy": 0.52}
    | {"training_f1": 0.56, "fold_1.log_loss": 0.6929, "fold_2.log_loss": 0.6931}
    | {"chosen": False, "original_rule": True},
]
LINEAGE = {
    "candidate": "candidate-7",
    "run_id": "0f3a",
    "experiment": "candlecast",
    "started": "2024-03-01 12:00 UTC",
    "git_commit": "1234567890abcdef",
    "candlecast": "0.1.0",
    "packages": {"numpy": "2.4.6"},
    "versions": {"test": 3, "train": 2},
    "parameters": {"window": "14"},
}


def scored(up: list[int], probability: list[float], ticker: str = "A") -> pd.DataFrame:
    """Predictions of one ticker on successive weekdays; a candle moves by 1 to 3 % up or down."""
    move = np.where(np.array(up) == 1, 0.01, -0.01) * np.resize([1, 2, 3], len(up))
    return pd.DataFrame(
        {
            "ticker": ticker,
            "session": pd.bdate_range("2024-01-01", periods=len(up)),
            "body": move,
            "return_": move,
            "up": np.array(up, dtype=np.int8),
            "probability": probability,
            "always_up": 1.0,
            "majority": 0.0,
            "previous_day": [0.0, *map(float, up[:-1])],
            "base_rate": 0.5,
            "logistic": 0.5,
        }
    )


def losses(sessions: int = 30) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "session": pd.bdate_range("2023-01-02", periods=sessions),
            "base_rate": 0.70,
            "trees_50": np.tile([0.68, 0.70], sessions // 2),
            "trees_1000": np.tile([0.67, 0.69], sessions // 2),
        }
    )


def quality(tickers: list[str]) -> pd.DataFrame:
    rules = {"asked": 10, "stored": 10, "no open or close": 2, "sessions absent": 1}
    return pd.DataFrame(
        [
            {"ticker": ticker, "rule": rule, "found": found, "detail": "kept"}
            | {"rows_in": 10, "rows_kept": 10, "rows_dropped": 0}
            for ticker in tickers
            for rule, found in rules.items()
        ]
    )


class Kept(MemoryDataset):
    """A dataset that the runner does not empty when no node needs it any more."""

    def _release(self) -> None:
        pass


def pages(predictions: pd.DataFrame, trained: pd.DataFrame | None = None, **inputs: Any) -> dict:
    """Run the pipeline; what it gives, by name."""
    train = (predictions if trained is None else trained).assign(
        session=lambda frame: frame["session"] - pd.Timedelta(days=400)
    )
    given = {
        "test_scores": predictions,
        "train@pandas": train,
        "validation_losses": losses(),
        "model_selection": CANDIDATES,
        "leakage_audit": {
            "last_training_session": "2020-01-02",
            "first_test_session": "2020-02-03",
            "purged_sessions": 14,
            "rows_in_both": 0,
            "rows_audited": 1234,
            "rows_with_wrong_lags": 0,
        },
        "quality": quality(sorted(predictions["ticker"].unique())),
        "lineage": LINEAGE,
        "params:evaluation": EVALUATION,
        "params:gate": GATE,
        "params:window": 14,
        "params:tickers": sorted(predictions["ticker"].unique()),
        "params:body": "return",
        "params:seed": 1,
        **inputs,
    }
    kept = ("metrics", "gate", "facts", "report", "model_card", "summary", "report_figures")
    catalog = DataCatalog(
        {name: MemoryDataset(value) for name, value in given.items()}
        | {name: Kept() for name in kept}
    )
    SequentialRunner().run(create_pipeline(), catalog)
    return {name: catalog.load(name) for name in kept}


ALTERNATING = scored([1, 0] * 20, [0.6, 0.4] * 20)


def test_evaluate_gives_flat_valid_numbers() -> None:
    metrics = evaluate(scored([1, 1, 0, 0], [0.6, 0.4, 0.4, 0.3]), losses(), EVALUATION, seed=1)
    assert metrics["accuracy"] == 0.75
    assert metrics["always_up.accuracy"] == 0.5
    assert metrics["trading_trials"] == 2
    assert metrics["spa_estimators"] == 2
    assert metrics["spa_sessions"] == 30
    assert metrics["bootstrap_repetitions"] == 100
    assert "accuracy.low" not in metrics  # four sessions are too few for an interval
    json.dumps(metrics, allow_nan=False)


def test_evaluate_refuses_nan_scores() -> None:
    predictions = scored([1, 0, 1], [0.6, np.nan, 0.4])
    with pytest.raises(ValueError, match=r"'probability' .* 1 of 3 rows"):
        evaluate(predictions, losses(), EVALUATION, seed=1)


def test_judge_keeps_the_rule_beside_the_decision() -> None:
    metrics = {"sessions": 10.0, "classes": 2.0, "distinct_probabilities": 5.0}
    metrics |= {"predicted_up_share": 0.5, "accuracy_minus_best_baseline": 0.02}
    ends = {"accuracy_minus_best_baseline.low": 0.01, "accuracy_minus_best_baseline.high": 0.03}
    decision = judge(metrics | ends | {"bootstrap_confidence": 0.95}, GATE)
    assert decision == {
        "metric": "accuracy",
        "threshold": 0.0,
        "min_sessions": 20,
        "champion_margin": 0.03,
        "passed": False,
        "reasons": [{"code": "too_few_sessions", "sessions": 10, "required": 20}],
    }


def test_break_down_gives_the_numbers_behind_the_figures() -> None:
    predictions = scored([1, 1, 0, 0], [0.8, 0.8, 0.2, 0.8])
    tables = build_tables(predictions, evaluate(predictions, losses(), EVALUATION, seed=1))
    assert tables["confusion"].to_numpy().tolist() == [[1, 1], [0, 2]]
    calibration = tables["calibration"]
    assert calibration["share_up"].round(4).tolist() == [0.0, 0.6667]
    assert calibration["high"].round(4).tolist() == [0.0, 1.2001]
    roc = tables["roc"]
    assert len(roc) == 101
    assert roc.loc[[0, 50, 100], "true_up"].tolist() == [0.0, 1.0, 1.0]
    assert tables["accuracy"]["name"].tolist() == [
        *("model", "always up", "always down", "majority", "previous day"),
        *("base rate", "logistic"),
    ]
    assert tables["accuracy"]["accuracy"].tolist() == [0.75, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_numbers_look_the_same_everywhere() -> None:
    assert number(-0.0002) == "0.000"
    assert number(0.0143, signed=True) == "+0.014"
    assert percent(0.49857) == "49.9%"
    assert (p_value(0.0312), p_value(1e-9)) == ("0.031", "<0.001")
    edge = {"brier_skill": 0.002, "brier_skill.low": -0.001, "brier_skill.high": 0.0061}
    assert metric_text(edge, "brier_skill") == "+0.002 [-0.001, +0.006]"
    assert metric_text({"f1": 0.5}, "f1") == "0.500"
    assert metric_text({"classes": 2.0}, "brier_skill") == "undefined"


def test_a_model_that_is_right_every_day_passes_and_is_said_to() -> None:
    result = pages(ALTERNATING)
    assert result["gate"]["passed"] is True
    for text in ("40 sessions", "100.0%", "“always up”, 50.0%"):
        assert text in result["facts"]["plain"]
    for name in ("report", "model_card", "summary"):
        assert "Evidence of skill." in result[name]
        assert "1.000 [1.000, 1.000]" in result[name]
    assert "Gate passed" in result["report"]
    assert "A person may now approve or refuse candidate <code>candidate-7</code>" in (
        " ".join(result["report"].split())
    )
    assert "would have chosen 1,000; it is shown and never used" in (
        " ".join(result["report"].split())
    )
    assert "seed 1, 100 repetitions" in " ".join(result["report"].split())
    assert "test version 3, train version 2" in result["report"]


def test_the_champion_is_shown_beside_and_asked_about_by_the_gate() -> None:
    """The candidate is right every day, the champion wrong every second day that is new to it."""
    new = [float("nan")] * 10 + [0.6] * 30
    version = pd.array([4] * 40, "Int32")
    shown = pages(ALTERNATING.assign(champion=new, champion_version=version))
    assert shown["metrics"]["champion.sessions"] == 30
    assert shown["metrics"]["accuracy_minus_champion"] == 0.5
    assert shown["gate"]["passed"]
    assert shown["gate"]["reasons"][1]["value"] == 0.5
    assert shown["gate"]["reasons"][1]["champion_version"] == 4
    for words in ("Against the champion", "version 4,", "30 of 40 sessions", "<td>0.500</td>"):
        assert words in shown["report"]
    assert "champion version 4 on 30 of these sessions: accuracy +0.500 [" in shown["model_card"]
    assert "| less champion version 4 | accuracy +0.500 [" in shown["summary"]


def test_a_champion_that_knows_the_test_set_fails_the_gate() -> None:
    version = pd.array([4] * 40, "Int32")
    shown = pages(ALTERNATING.assign(champion=float("nan"), champion_version=version))
    assert not shown["gate"]["passed"]
    assert "was trained on every session of this test set" in shown["report"]
    assert "Less that of champion" not in shown["model_card"]


def test_without_a_champion_none_is_mentioned() -> None:
    shown = pages(ALTERNATING)
    assert shown["gate"]["passed"]
    for name in ("report", "model_card", "summary"):
        assert "hampion" not in shown[name]


def test_the_original_rule_may_have_chosen_the_same() -> None:
    candidates = [{**row, "original_rule": row["chosen"]} for row in CANDIDATES]
    report = " ".join(pages(ALTERNATING, model_selection=candidates)["report"].split())
    assert "would have chosen the same; it is shown and never used" in report


def test_one_class_in_the_test_set_is_undefined_not_an_error() -> None:
    result = pages(scored([1] * 30, [0.6, 0.4] * 15))
    assert "roc_auc" not in result["metrics"]
    assert result["gate"]["passed"] is False
    assert result["facts"]["headline"] == "No evidence of skill."
    assert "<text style" in result["report_figures"]["roc"]
    assert UNDEFINED in result["report_figures"]["roc"]
    assert f'<td class="model">{UNDEFINED}</td>' in result["report"]
    assert f"| ROC AUC | {UNDEFINED} |" in result["model_card"]
    assert f"| ROC AUC | {UNDEFINED} |" in result["summary"]
    assert "Gate not passed" in result["report"]


def test_constant_predictions_are_said_to_be_constant() -> None:
    result = pages(scored([1, 0] * 15, [0.55] * 30))
    assert "It gives every row the same probability." in result["report"]
    assert result["gate"]["passed"] is False
    assert "The model predicts the same probability for every session." in result["report"]


def test_a_ticker_with_three_sessions_has_its_row() -> None:
    few = scored([1, 1, 1], [0.6, 0.6, 0.4], ticker="NEW")
    result = pages(pd.concat([ALTERNATING, few], ignore_index=True), trained=ALTERNATING)
    row = result["report"].split('<th scope="row">NEW</th>', 1)[1].split("</tr>", 1)[0]
    assert "<td>3</td>" in row
    assert "0.667" in row
    assert UNDEFINED in row
    assert "NEW not trained on" in result["report"]


def test_html_in_a_ticker_is_shown_as_text() -> None:
    evil = "<script>alert(1)</script>"
    result = pages(ALTERNATING.assign(ticker=evil))
    for name in ("report", "model_card", "summary"):
        assert "<script" not in result[name]
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in result[name]


def test_a_bar_in_a_ticker_does_not_break_a_markdown_table() -> None:
    result = pages(ALTERNATING.assign(ticker="A|B"))
    assert "| trained on | A\\|B, 2022-11-27 to" in result["summary"]


def test_many_tickers_are_counted_not_listed() -> None:
    tickers = [f"T{place:02d}" for place in range(40)]
    predictions = pd.concat([ALTERNATING.assign(ticker=ticker) for ticker in tickers])
    result = pages(predictions)
    assert result["facts"]["tested"]["tickers"].endswith("T10, T11 and 28 more")
    assert "<summary>40 rows</summary>" in result["report"]


def test_bodies_in_currency_are_named() -> None:
    result = pages(ALTERNATING, **{"params:body": "delta"})
    assert "14 candle bodies (close - open)" in result["report"]


def test_figures_leave_their_colours_to_the_page() -> None:
    report_figures = pages(ALTERNATING)["report_figures"]
    assert list(report_figures) == ["accuracy", "roc", "calibration", "validation", "equity"]
    for name, text in report_figures.items():
        assert 'style="fill: #' not in text
        assert "stroke: #" not in text
        assert "font-family" not in text
        assert f'role="img" aria-labelledby="{name}-title {name}-desc"' in text
    assert '<desc id="roc-desc">ROC AUC: 1.000 [1.000, 1.000].</desc>' in report_figures["roc"]
    assert report_figures == pages(ALTERNATING)["report_figures"]


def test_the_summary_fits_a_summary_page() -> None:
    assert 10 <= len(pages(ALTERNATING)["summary"].splitlines()) <= 20


def test_what_a_template_names_must_be_there() -> None:
    result = pages(ALTERNATING)
    facts = {name: value for name, value in result["facts"].items() if name != "tested"}
    with pytest.raises(UndefinedError, match="tested"):
        write_summary(facts, result["metrics"])


def test_facts_say_what_was_trained() -> None:
    metrics = evaluate(ALTERNATING, losses(), EVALUATION, seed=1)
    facts = build_context(
        metrics,
        judge(metrics, GATE),
        ALTERNATING.head(10),
        ALTERNATING,
        CANDIDATES,
        LINEAGE,
        window=14,
        body="return",
    )
    assert facts["trained"] == {
        "tickers": "A",
        "first": "2024-01-01",
        "last": "2024-01-12",
        "sessions": 10,
        "rows": 10,
        "share_up": 0.5,
    }
    assert (facts["trees"], facts["original_trees"], facts["sizes"]) == (50, 1000, 2)
