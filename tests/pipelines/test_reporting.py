"""The reporting pipeline on small hand-made frames, run as a whole and function by function."""

import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from jinja2 import UndefinedError

from browsing import EVIL
from candlecast.evaluation.gate import apply_gate
from candlecast.evaluation.significance import evaluate_model
from candlecast.frames import extent
from candlecast.pipelines.reporting.nodes import build_tables
from candlecast.reporting.html import accuracies, metric_text, number, p_value, percent, whole
from candlecast.reporting.report import describe_training, write_summary
from reports import ESTIMATORS, EVALUATION, GATE, LINEAGE, losses, make_report, predicted, rewrite

UNDEFINED = "undefined: only one class occurred"
PAGES = ("report", "model_card", "summary")
ALTERNATING = predicted([1, 0] * 20, [0.6, 0.4] * 20)


@pytest.fixture(scope="module")
def alternating() -> dict[str, Any]:
    """What the pipeline makes of a model that is right every day."""
    return make_report(ALTERNATING)


def text_of(report: str) -> str:
    """The report with every white space as one blank."""
    return " ".join(report.split())


def row_of(report: str, header: str) -> str:
    """The table row that begins with `header`."""
    return report.split(f'<th scope="row">{header}', 1)[1].split("</tr>", 1)[0]


def test_evaluation_gives_flat_valid_numbers() -> None:
    metrics = evaluate_model(
        predicted([1, 1, 0, 0], [0.6, 0.4, 0.4, 0.3]), losses(), EVALUATION, seed=1
    )
    assert metrics["accuracy"] == 0.75
    assert metrics["always_up.accuracy"] == 0.5
    assert metrics["trading_trials"] == 2
    assert metrics["spa_estimators"] == 2
    assert metrics["spa_sessions"] == 30
    assert metrics["bootstrap_repetitions"] == 100
    assert "accuracy.low" not in metrics  # four sessions are too few for an interval
    json.dumps(metrics, allow_nan=False)


def test_evaluation_refuses_nan_predictions() -> None:
    predictions = predicted([1, 0, 1], [0.6, np.nan, 0.4])
    with pytest.raises(ValueError, match=r"'probability' .* 1 of 3 rows"):
        evaluate_model(predictions, losses(), EVALUATION, seed=1)


def test_the_decision_holds_the_rule() -> None:
    metrics = {"sessions": 10.0, "classes": 2.0, "distinct_probabilities": 5.0}
    metrics |= {"predicted_up_share": 0.5, "accuracy_minus_best_baseline": 0.02}
    ends = {"accuracy_minus_best_baseline.low": 0.01, "accuracy_minus_best_baseline.high": 0.03}
    decision = apply_gate(metrics | ends | {"bootstrap_confidence": 0.95}, GATE)
    assert decision == {
        "metric": "accuracy",
        "threshold": 0.0,
        "min_sessions": 20,
        "champion_margin": 0.03,
        "max_roc_auc": 1.0,
        "passed": False,
        "reasons": [{"code": "too_few_sessions", "sessions": 10, "required": 20}],
    }


def test_tables_hold_the_numbers_behind_the_figures() -> None:
    predictions = predicted([1, 1, 0, 0], [0.8, 0.8, 0.2, 0.8])
    tables = build_tables(predictions, losses(), ESTIMATORS, [], EVALUATION, seed=1)
    assert tables["confusion"][["down", "up"]].to_numpy().tolist() == [[1, 1], [0, 2]]
    calibration = tables["calibration"]
    assert calibration["share_up"].round(4).tolist() == [0.0, 0.6667]
    assert calibration["high"].isna().all()  # four sessions are too few for an interval
    assert tables["estimators"]["gain"].round(4).tolist() == [0.01, 0.02]
    roc = tables["roc"]
    assert len(roc) == 101
    assert roc.loc[[0, 50, 100], "true_up"].tolist() == [0.0, 1.0, 1.0]
    table = accuracies(evaluate_model(predictions, losses(), EVALUATION, seed=1))
    assert table["name"].tolist() == [
        *("model", "always up", "always down", "majority", "previous day"),
        *("base rate", "logistic"),
    ]
    assert table["accuracy"].tolist() == [0.75, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_results_are_grouped_by_ticker_year_and_volatility() -> None:
    other = predicted([1] * 9, [0.6] * 9, ticker="B")
    other["session"] += pd.DateOffset(years=1)
    predictions = pd.concat([ALTERNATING, other], ignore_index=True)
    tables = build_tables(predictions, losses(), ESTIMATORS, [], EVALUATION, seed=1)
    rows = {key: tables[key].set_index(key)["rows"] for key in ("ticker", "year", "volatility")}
    assert rows["ticker"].to_dict() == {"A": 40, "B": 9}
    assert tables["ticker"]["holm_p_value"].tolist() == [pytest.approx(0, abs=1e-6), 1.0]
    assert rows["year"].to_dict() == {2024: 40, 2025: 9}
    assert rows["volatility"].index.tolist() == ["low", "middle", "high"]
    assert rows["volatility"].sum() == 35 + 4  # but the first five of each ticker


def test_numbers_look_the_same_everywhere() -> None:
    assert number(-0.0002) == "0.000"
    assert number(0.0143, signed=True) == "+0.014"
    assert percent(0.49857) == "49.9%"
    assert whole(3270.0) == "3,270"
    assert (p_value(0.0312), p_value(1e-9)) == ("0.031", "<0.001")
    edge = {"brier_skill": 0.002, "brier_skill.low": -0.001, "brier_skill.high": 0.0061}
    assert metric_text(edge, "brier_skill") == "+0.002 [-0.001, +0.006]"
    assert metric_text({"f1": 0.5}, "f1") == "0.500"
    assert metric_text({"classes": 2.0}, "brier_skill") == "undefined"


def test_a_model_that_is_right_every_day_passes(alternating: dict[str, Any]) -> None:
    assert alternating["gate_decision"]["passed"] is True
    context = alternating["report_context"]
    for value in ("40 sessions", "100.0%", "“always up” (50.0%)"):
        assert value in context["plain"]
    for name in PAGES:
        assert context["headline"] in alternating[name]
        assert "1.000 [1.000, 1.000]" in alternating[name]
        assert LINEAGE["candidate"] in alternating[name]
    report = alternating["report"]
    assert '<section class="gate passed"' in report
    assert "<small>chosen</small>" in row_of(report, "forest_50")
    assert "<small>original rule</small>" in row_of(report, "boosting")
    assert "would have chosen gradient boosting" in text_of(report)
    assert "seed 1, 100 repetitions" in text_of(report)
    assert "test version 3, train version 2" in report


@pytest.mark.parametrize(("dirty", "named"), [("true", 1), ("false", 0), ("unknown", 0)])
def test_uncommitted_changes_are_named_beside_the_commit(
    alternating: dict[str, Any], dirty: str, named: int
) -> None:
    result = rewrite(alternating, lineage={**LINEAGE, "git_dirty": dirty})
    commit = LINEAGE["git_commit"]
    changes = "(with uncommitted changes)"
    assert result["report"].count(f"<code>{commit}</code> {changes}") == named
    assert result["model_card"].count(f"`{commit[:12]}` {changes}") == named
    for name in PAGES:
        assert ("uncommitted" in result[name]) is (named == 1 and name != "summary")


def test_the_report_compares_with_the_champion_as_the_gate_does() -> None:
    """The candidate is right every day, the champion wrong every second day that is new to it."""
    new = [float("nan")] * 10 + [0.6] * 30
    version = pd.array([4] * 40, "Int32")
    result = make_report(ALTERNATING.assign(champion=new, champion_version=version))
    assert result["metrics"]["champion.sessions"] == 30
    assert result["metrics"]["accuracy_minus_champion"] == 0.5
    assert result["gate_decision"]["passed"]
    assert result["gate_decision"]["reasons"][1]["value"] == 0.5
    assert result["gate_decision"]["reasons"][1]["champion_version"] == 4
    comparison = row_of(result["report"], "Champion")
    assert "version 4" in comparison and "<td>50.0%</td><td>0.500</td>" in "".join(
        comparison.split("\n")
    )
    assert "on the 30 of 40 sessions" in result["report"]
    assert "+0.500 [" in row_of(result["report"], "Accuracy minus champion")
    for name in ("model_card", "summary"):
        [line] = [line for line in result[name].splitlines() if "inus champion version 4" in line]
        assert "accuracy +0.500 [" in line


def test_a_champion_that_knows_the_test_set_fails_the_gate() -> None:
    version = pd.array([4] * 40, "Int32")
    result = make_report(ALTERNATING.assign(champion=float("nan"), champion_version=version))
    assert not result["gate_decision"]["passed"]
    assert "version 4, was trained on every session" in text_of(result["report"])
    assert '<th scope="row">Champion' not in result["report"]
    assert "Minus champion" not in result["model_card"]


def test_without_a_champion_none_is_mentioned(alternating: dict[str, Any]) -> None:
    assert alternating["gate_decision"]["passed"]
    for name in PAGES:
        assert "hampion" not in alternating[name]


def test_the_original_rule_may_have_chosen_the_same(alternating: dict[str, Any]) -> None:
    chosen = alternating["report_context"]["estimator"]
    report = rewrite(alternating, original_estimator=chosen)["report"]
    assert "would have chosen the same" in text_of(report)


def test_the_features_worth_is_in_report_and_card(alternating: dict[str, Any]) -> None:
    useful, unused = alternating["importance"]
    assert (useful["feature"], unused["feature"]) == ("lag_01", "lag_02")
    for name in ("report", "model_card"):
        assert "Of 2 features, 1 has an interval above zero: lag_01." in alternating[name]
    interval = metric_text(useful, "log_loss_increase", 4)
    assert f"<td>{interval}</td>" in row_of(alternating["report"], "lag_01")
    assert f"| lag_01 | {interval} |" in alternating["model_card"]


def test_features_that_do_not_help_are_said_not_to() -> None:
    result = make_report(predicted([1, 0] * 15, [0.55] * 30))
    for name in ("report", "model_card"):
        assert "None of the 2 features has an interval above zero" in result[name]


def test_one_class_in_the_test_set_is_undefined_not_an_error() -> None:
    result = make_report(predicted([1] * 30, [0.6, 0.4] * 15))
    assert "roc_auc" not in result["metrics"]
    assert result["gate_decision"]["passed"] is False
    assert result["report_context"]["headline"] == "Not good enough to use"
    assert "<text style" in result["report_figures"]["roc"]
    assert UNDEFINED in result["report_figures"]["roc"]
    assert f'<td class="model">{UNDEFINED}</td>' in row_of(result["report"], "ROC AUC")
    assert f"| ROC AUC | {UNDEFINED} |" in result["model_card"]
    assert f"| ROC AUC | {UNDEFINED} |" in result["summary"]
    assert '<section class="gate failed"' in result["report"]


def test_fault_21_one_class_in_every_fold_is_undefined_in_the_report() -> None:
    tried = [{k: v for k, v in row.items() if k != "roc_auc"} for row in ESTIMATORS]
    report = make_report(predicted([0] * 30, [0.4] * 30), model_selection=tried)["report"]
    for row in tried:
        assert UNDEFINED in row_of(report, row["estimator"])


def test_the_report_names_constant_predictions() -> None:
    result = make_report(predicted([1, 0] * 15, [0.55] * 30))
    codes = [reason["code"] for reason in result["gate_decision"]["reasons"]]
    assert codes[0] == "constant_probability"
    assert result["report_context"]["gate"]["reasons"][0] in result["report"]
    assert "the same probability for every row" in result["report"]


def test_a_ticker_with_three_sessions_has_its_row() -> None:
    few = predicted([1, 1, 1], [0.6, 0.6, 0.4], ticker="NEW")
    both = pd.concat([ALTERNATING, few], ignore_index=True)
    report = make_report(both, training_extent=extent(ALTERNATING))["report"]
    row = row_of(report, "NEW</th>")
    assert "<td>3</td>" in row
    assert "0.667" in row
    assert UNDEFINED in row
    assert "not in training: NEW" in report


def test_html_in_a_ticker_is_shown_as_text() -> None:
    result = make_report(ALTERNATING.assign(ticker=EVIL))
    for name in PAGES:
        assert "<script" not in result[name]
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in result[name]


def test_a_bar_in_a_ticker_does_not_break_a_markdown_table() -> None:
    result = make_report(ALTERNATING.assign(ticker="A|B"))
    assert "| trained on | A\\|B, 2022-11-27 to" in result["summary"]


def test_many_tickers_are_counted_not_listed() -> None:
    """The worst ones have rows: of 40 tickers, T07 is wrong every day."""
    tickers = [f"T{place:02d}" for place in range(40)]
    predictions = pd.concat([ALTERNATING.assign(ticker=ticker) for ticker in tickers])
    wrong = predictions["ticker"] == "T07"
    predictions.loc[wrong, "probability"] = 1 - predictions.loc[wrong, "probability"]
    report = make_report(predictions)["report"]
    assert "T10, T11 and 28 more" in report
    groups = report.split('id="groups"', 1)[1].split("By year", 1)[0]
    assert "Of 40 tickers, 39 have a higher" in groups
    assert re.findall(r'row">(T\d\d)<', groups) == ["T07", *(t for t in tickers if t != "T07")][:30]
    quality = report.split('id="quality"', 1)[1].split("<details", 1)[0]
    assert "<td>40</td><td>80</td>" in row_of(quality, "no open or close")
    assert len(re.findall(r'row">T\d\d<', quality)) == 30


def test_bodies_in_currency_are_named() -> None:
    result = make_report(ALTERNATING, **{"params:body": "delta"})
    assert "close - open" in result["report"] and "close - open" in result["model_card"]
    assert "later split" in result["report"] and "later split" in result["model_card"]
    assert "later split" not in rewrite(result, body="return")["report"]


def test_report_and_card_say_what_the_model_sees() -> None:
    result = make_report(ALTERNATING, **{"params:features": ["lags", "volatility", "weekday"]})
    for name in ("report", "model_card"):
        for sentence in ("of the 14 sessions before", "of the 20 sessions before", "the weekday"):
            assert sentence in result[name]


def test_a_simpler_model_that_is_as_good_is_named(alternating: dict[str, Any]) -> None:
    better = make_report(ALTERNATING.assign(logistic=ALTERNATING["probability"].round()))
    for name in PAGES:
        assert better[name].count("Logistic regression on the same features") == 1
        assert "Logistic regression on the same features" not in alternating[name]


def test_a_sample_of_the_training_rows_is_named(alternating: dict[str, Any]) -> None:
    part = make_report(ALTERNATING, training_extent=extent(ALTERNATING.iloc[::3]))
    for name in ("report", "model_card"):
        assert f"sample of {len(ALTERNATING)}" in part[name]
        assert "sample of" not in alternating[name]


def test_what_is_too_good_is_said_first() -> None:
    result = make_report(
        ALTERNATING, **{"params:gate": GATE.model_copy(update={"max_roc_auc": 0.75})}
    )
    decision = result["gate_decision"]
    assert not decision["passed"]
    assert decision["reasons"][0] == {"code": "too_good", "roc_auc": 1.0, "limit": 0.75}
    assert result["report_context"]["headline"] == "Too good to be true"
    for name in ("report", "model_card", "summary"):
        assert "Above 0.7500" in result[name]


def test_figures_leave_their_colours_to_the_page(alternating: dict[str, Any]) -> None:
    report_figures = alternating["report_figures"]
    assert list(report_figures) == [
        *("accuracy", "roc", "calibration", "validation", "importance", "equity")
    ]
    for name, text in report_figures.items():
        assert 'style="fill: #' not in text
        assert "stroke: #" not in text
        assert "font-family" not in text
        assert f'role="img" aria-labelledby="{name}-title {name}-desc"' in text
    assert '<desc id="roc-desc">ROC AUC: 1.000 [1.000, 1.000].</desc>' in report_figures["roc"]
    assert report_figures == make_report(ALTERNATING)["report_figures"]


def test_the_summary_fits_a_summary_page(alternating: dict[str, Any]) -> None:
    assert 10 <= len(alternating["summary"].splitlines()) <= 20


def test_what_a_template_names_must_be_there(alternating: dict[str, Any]) -> None:
    context = {name: x for name, x in alternating["report_context"].items() if name != "tested"}
    with pytest.raises(UndefinedError, match="tested"):
        write_summary(context)


def test_what_was_trained_is_described() -> None:
    summary = describe_training(
        extent(ALTERNATING.head(10)), ESTIMATORS, ["lags"], window=14, body="return"
    )
    assert summary["trained"] == {
        "tickers": ["A"],
        "first": "2024-01-01",
        "last": "2024-01-10",
        "sessions": 10,
        "rows": 10,
        "share_up": 0.5,
    }
    assert summary["estimator"] == "random forest of 50 trees"
    assert summary["original_estimator"] == "gradient boosting"
    assert summary["estimators"] == 2
