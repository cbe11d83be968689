"""Functions of the reporting pipeline.

Frames of test scores are predictions frames, see `candlecast.evaluation.metrics`. Evaluation and
gate themselves are `candlecast.evaluation.significance.evaluate_model` and
`candlecast.evaluation.gate.apply_gate`.
"""

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from sklearn.metrics import roc_curve

from candlecast.evaluation.gate import verdict
from candlecast.evaluation.metrics import by_group, classification_table, confusion
from candlecast.evaluation.significance import calibration, ticker_tests
from candlecast.evaluation.trading import equity_curve
from candlecast.parameters import Evaluation
from candlecast.reporting import figures, wording
from candlecast.reporting.html import accuracies, metric_text, render


def build_tables(
    test_scores: pd.DataFrame,
    validation_losses: pd.DataFrame,
    model_selection: list[dict[str, Any]],
    evaluation: Evaluation,
    seed: int,
) -> dict[str, pd.DataFrame]:
    """Return the tables of the report, also those behind its figures.

    Args:
        test_scores: the predictions frame.
        validation_losses: one row per validated session date: ``session``, ``base_rate`` and one
            column ``trees_<size>`` per estimator.
        model_selection: one row per estimator.
        evaluation: repetitions of the bootstrap, and the cost of a trade.
        seed: of the bootstrap.

    Returns:
        ``classes`` and ``confusion``; ``roc`` (101 points; empty when only one class occurred);
        ``calibration``; ``ticker``, ``year`` and ``volatility``; ``equity`` (one row per session);
        and ``estimators``: `model_selection` with ``gain``, the log loss saved by date against the
        base rate.
    """
    tests = ticker_tests(test_scores).drop(columns="sessions")
    losses = validation_losses.drop(columns="session").mean()
    gains = [losses["base_rate"] - losses[f"trees_{row['trees']}"] for row in model_selection]
    return {
        "classes": classification_table(test_scores),
        "confusion": confusion(test_scores).reset_index(),
        "roc": _roc(test_scores),
        "calibration": calibration(test_scores, repetitions=evaluation.repetitions, seed=seed),
        "ticker": by_group(test_scores, "ticker").merge(tests, on="ticker"),
        "year": by_group(test_scores, "year"),
        "volatility": by_group(test_scores, "volatility"),
        "equity": equity_curve(test_scores, cost_bps=evaluation.cost_bps),
        "estimators": pd.DataFrame(model_selection).assign(gain=gains),
    }


def _roc(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the ROC curve at 101 shares of downs predicted up."""
    if predictions["up"].nunique() < 2:
        return pd.DataFrame()
    false_up, true_up, _ = roc_curve(predictions["up"], predictions["probability"])
    grid = np.linspace(0, 1, 101)
    curve = pd.DataFrame({"false_up": grid, "true_up": np.interp(grid, false_up, true_up)})
    curve.loc[0, "true_up"] = 0.0
    return curve


def draw_figures(
    report_tables: dict[str, pd.DataFrame], metrics: dict[str, float]
) -> tuple[dict[str, str], Any, Any, Any]:
    """Draw the figures.

    Returns:
        All of them as SVG for the report, by name; and the ROC curve, the calibration curve and
        the equity curve as matplotlib's figures.
    """
    accuracy, estimators = accuracies(metrics), report_tables["estimators"]
    calibrated, equity = report_tables["calibration"], report_tables["equity"]
    roc = figures.draw_roc(report_tables["roc"])
    calibration_curve = figures.draw_calibration(calibrated)
    equity_figure = figures.draw_equity(equity)
    svg_texts = figures.svg_texts(
        {
            "accuracy": (
                figures.draw_accuracy(accuracy, metrics["best_baseline.accuracy"]),
                "Accuracy of the model and of every baseline",
                wording.listing(accuracy, "{name} {accuracy:.3f}")
                + f" Model with interval: {metric_text(metrics, 'accuracy')}.",
            ),
            "roc": (roc, "ROC curve", f"ROC AUC: {metric_text(metrics, 'roc_auc')}."),
            "calibration": (
                calibration_curve,
                "Calibration",
                wording.listing(calibrated, "probability {probability:.3f}, up {share_up:.3f}"),
            ),
            "validation": (
                figures.draw_validation(estimators),
                "Log loss of every estimator in walk-forward validation",
                wording.listing(estimators, "{trees} trees {log_loss:.4f}"),
            ),
            "equity": (
                equity_figure,
                "Equity curve, illustrative",
                "At the end: "
                + wording.listing(
                    equity.tail(1), "strategy, net of costs, {strategy:.2f}, holding {holding:.2f}"
                ),
            ),
        }
    )
    return svg_texts, roc, calibration_curve, equity_figure


def describe_training(
    train: pd.DataFrame, model_selection: list[dict[str, Any]], window: int, body: str
) -> dict[str, Any]:
    """Describe what was trained, and on what.

    Returns:
        ``trained`` (see `_extent`), ``window``, ``body`` (in words), ``trees`` of the chosen
        forest, ``original_trees`` that the original rule would have chosen, and ``estimators``,
        how many were tried.
    """
    return {
        "trained": _extent(train),
        "window": window,
        "body": wording.body_text(body),
        "trees": next(row["trees"] for row in model_selection if row["chosen"]),
        "original_trees": next(row["trees"] for row in model_selection if row["original_rule"]),
        "estimators": len(model_selection),
    }


def build_context(
    metrics: dict[str, float],
    gate_decision: dict[str, Any],
    training_summary: dict[str, Any],
    test_scores: pd.DataFrame,
    lineage: dict[str, Any],
) -> dict[str, Any]:
    """Gather what report, card and summary share: verdict, gate, what was trained and tested.

    Returns:
        ``headline``, ``plain`` and ``numbers`` (the verdict in words), ``gate`` with its
        ``reasons`` in words, ``tested`` (see `_extent`), ``new`` (tickers that it was not trained
        on), what `describe_training` returns, ``metrics`` and ``lineage``.
    """
    outcome = verdict(metrics)
    tested = _extent(test_scores)
    return {
        **training_summary,
        "headline": wording.verdict_headline(outcome),
        "plain": wording.plain_verdict(outcome, metrics),
        "numbers": wording.verdict_numbers(outcome, gate_decision["metric"]),
        "gate": {**gate_decision, "reasons": wording.gate_reasons(gate_decision["reasons"])},
        "tested": tested,
        "new": sorted(set(tested["tickers"]) - set(training_summary["trained"]["tickers"])),
        "metrics": metrics,
        "lineage": lineage,
    }


def _extent(frame: pd.DataFrame) -> dict[str, Any]:
    """Return ``tickers``, ``first`` and ``last`` session, ``sessions``, ``rows``, ``share_up``."""
    return {
        "tickers": sorted(frame["ticker"].unique()),
        "first": f"{frame['session'].min():%Y-%m-%d}",
        "last": f"{frame['session'].max():%Y-%m-%d}",
        "sessions": frame["session"].nunique(),
        "rows": len(frame),
        "share_up": float(frame["up"].mean()),
    }


def write_report(
    context: dict[str, Any],
    report_tables: dict[str, pd.DataFrame],
    report_figures: dict[str, str],
    quality: pd.DataFrame,
    tickers: list[str],
    leakage_audit: dict[str, Any],
) -> str:
    """Write the report: one HTML page that needs nothing else."""
    quality = quality[quality["ticker"].isin(tickers)]
    return render(
        "report.html.j2",
        **context,
        tables={name: table.to_dict("records") for name, table in report_tables.items()},
        report_figures={name: Markup(text) for name, text in report_figures.items()},
        quality=quality.sort_values(["ticker", "rule"]).to_dict("records"),
        found=_found(quality),
        audit=leakage_audit,
    )


def _found(quality: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return one row per ticker: rows in, kept and dropped, and how much each rule found."""
    rows = quality.groupby("ticker").agg(
        rows_in=("rows_in", "max"),
        rows_kept=("rows_kept", "min"),
        rows_dropped=("rows_dropped", "max"),
    )
    rules = quality[~quality["rule"].isin(["requested", "stored"])]
    found = rules.pivot_table(index="ticker", columns="rule", values="found", aggfunc="sum")
    return rows.join(found).reset_index().to_dict("records")


def write_card(context: dict[str, Any]) -> str:
    """Write the model card: Markdown, the description of a registered version."""
    return render("model_card.md.j2", **context)


def write_summary(context: dict[str, Any]) -> str:
    """Write a summary of some 15 lines of Markdown."""
    return render("summary.md.j2", **context)
