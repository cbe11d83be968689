"""Functions of the reporting pipeline. Scores frames are as `candlecast.metrics` has them."""

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from sklearn.metrics import roc_curve

from candlecast.evaluation import significance as inference
from candlecast.evaluation.gate import apply_gate, verdict
from candlecast.evaluation.metrics import (
    by_group,
    classification_table,
    confusion,
    reliability,
)
from candlecast.evaluation.significance import superior_ability, ticker_tests
from candlecast.evaluation.trading import equity_curve
from candlecast.parameters import Gate
from candlecast.reporting import figures
from candlecast.reporting.html import accuracies, metric_text, render
from candlecast.reporting.wording import (
    body_text,
    gate_reasons,
    plain_verdict,
    verdict_headline,
    verdict_numbers,
)


def evaluate(
    test_scores: pd.DataFrame,
    validation_losses: pd.DataFrame,
    evaluation: dict[str, Any],
    seed: int,
) -> dict[str, float]:
    """Give every figure of the predictions, intervals and tests among them, as flat numbers.

    Args:
        test_scores: one row per ticker and session.
        validation_losses: one row per validated session date: ``session``, ``base_rate`` and a
            column ``trees_<size>`` a candidate.
        evaluation: ``repetitions`` of the bootstrap, ``cost_bps`` of one side of a trade.
        seed: of the bootstrap.

    Returns:
        The numbers of `candlecast.evaluation.significance.evaluate` and `superior_ability`; what is
        undefined is left out.
    """
    losses = validation_losses.set_index("session")
    tried = losses.filter(like="trees_")
    repetitions = evaluation["repetitions"]
    return {
        **inference.evaluate(test_scores, **evaluation, seed=seed, trials=tried.shape[1]),
        **superior_ability(tried, losses["base_rate"], repetitions=repetitions, seed=seed),
    }


def judge(metrics: dict[str, float], gate: Gate) -> dict[str, Any]:
    """Decide by the gate; returns its parameters with ``passed`` and ``reasons`` (codes)."""
    return {**gate.model_dump(), **apply_gate(metrics, gate)}


def build_tables(test_scores: pd.DataFrame, metrics: dict[str, float]) -> dict[str, pd.DataFrame]:
    """Give the tables behind the report's figures.

    Returns:
        ``accuracy`` (one row per rule), ``classes``, ``confusion``, ``roc`` (101 points),
        ``calibration``, ``ticker``, ``year``, ``volatility`` and ``equity`` (one row per session).
        A table of what is undefined is empty.
    """
    tests = ticker_tests(test_scores).drop(columns="sessions")
    return {
        "accuracy": accuracies(metrics),
        "classes": pd.DataFrame(classification_table(test_scores)).T.rename_axis("class"),
        "confusion": confusion(test_scores),
        "roc": _roc(test_scores),
        "calibration": figures.with_chance(reliability(test_scores)),
        "ticker": by_group(test_scores, "ticker").merge(tests, on="ticker"),
        "year": by_group(test_scores, "year"),
        "volatility": by_group(test_scores, "volatility"),
        "equity": equity_curve(test_scores, cost_bps=metrics["trading_cost_bps"]),
    }


def _roc(predictions: pd.DataFrame) -> pd.DataFrame:
    if predictions["up"].nunique() < 2:
        return pd.DataFrame()
    false_up, true_up, _ = roc_curve(predictions["up"], predictions["probability"])
    grid = np.linspace(0, 1, 101)
    curve = pd.DataFrame({"false_up": grid, "true_up": np.interp(grid, false_up, true_up)})
    curve.loc[0, "true_up"] = 0.0
    return curve


def draw_figures(
    report_tables: dict[str, pd.DataFrame],
    model_selection: list[dict[str, Any]],
    metrics: dict[str, float],
) -> tuple[dict[str, str], Any, Any, Any]:
    """Draw the figures.

    Returns:
        All of them as SVG for the report, by name; and the ROC curve, the calibration curve and
        the equity curve as matplotlib's figures.
    """
    accuracy, calibration, equity = (
        report_tables[name] for name in ("accuracy", "calibration", "equity")
    )
    roc_figure = figures.draw_roc(report_tables["roc"])
    calibration_figure = figures.draw_calibration(calibration)
    equity_figure = figures.draw_equity(equity)
    rules = "; ".join(f"{row.name} {row.accuracy:.3f}" for row in accuracy.itertuples(index=False))
    sizes = "; ".join(f"{row['trees']} trees {row['log_loss']:.4f}" for row in model_selection)
    low, high = calibration.iloc[0], calibration.iloc[-1]
    grown = (
        f"1 grew to {equity['strategy'].iloc[-1]:.2f} with the strategy, net of costs, "
        f"and to {equity['holding'].iloc[-1]:.2f} by holding."
    )
    report_figures = {
        "accuracy": (
            figures.draw_accuracy(accuracy, metrics["best_baseline.accuracy"]),
            "Accuracy of the model and of every baseline",
            f"Accuracy on the test set: {rules}. Model with interval: "
            f"{metric_text(metrics, 'accuracy')}.",
        ),
        "roc": (roc_figure, "ROC curve", f"ROC AUC: {metric_text(metrics, 'roc_auc')}."),
        "calibration": (
            calibration_figure,
            "Calibration",
            f"From probability {low['probability']:.3f}, share up {low['share_up']:.3f}, "
            f"to probability {high['probability']:.3f}, share up {high['share_up']:.3f}.",
        ),
        "validation": (
            figures.draw_validation(model_selection),
            "Walk-forward log loss of every candidate",
            f"Mean log loss: {sizes}.",
        ),
        "equity": (equity_figure, "Equity curve, illustrative", grown),
    }
    return figures.svg_texts(report_figures), roc_figure, calibration_figure, equity_figure


def build_context(
    metrics: dict[str, float],
    gate: dict[str, Any],
    train: pd.DataFrame,
    test_scores: pd.DataFrame,
    model_selection: list[dict[str, Any]],
    lineage: dict[str, Any],
    window: int,
    body: str,
) -> dict[str, Any]:
    """Gather what report, card and summary all begin with: verdict, gate, and what was trained."""
    outcome = verdict(metrics)
    return {
        "headline": verdict_headline(outcome),
        "plain": plain_verdict(outcome, metrics),
        "numbers": verdict_numbers(outcome),
        "gate": {**gate, "reasons": gate_reasons(gate["reasons"])},
        "trained": _extent(train),
        "tested": _extent(test_scores),
        "new": ", ".join(sorted(set(test_scores["ticker"]) - set(train["ticker"]))),
        "window": window,
        "body": body_text(body),
        "trees": next(row["trees"] for row in model_selection if row["chosen"]),
        "original_trees": next(row["trees"] for row in model_selection if row["original_rule"]),
        "sizes": len(model_selection),
        "lineage": lineage,
    }


def _extent(frame: pd.DataFrame) -> dict[str, Any]:
    tickers = sorted(frame["ticker"].unique())
    more = f" and {len(tickers) - 12} more" if len(tickers) > 12 else ""
    return {
        "tickers": ", ".join(tickers[:12]) + more,
        "first": f"{frame['session'].min():%Y-%m-%d}",
        "last": f"{frame['session'].max():%Y-%m-%d}",
        "sessions": frame["session"].nunique(),
        "rows": len(frame),
        "share_up": float(frame["up"].mean()),
    }


def write_report(
    facts: dict[str, Any],
    metrics: dict[str, float],
    report_tables: dict[str, pd.DataFrame],
    report_figures: dict[str, str],
    model_selection: list[dict[str, Any]],
    validation_losses: pd.DataFrame,
    quality: pd.DataFrame,
    tickers: list[str],
    leakage_audit: dict[str, Any],
) -> str:
    """Write the report: one HTML page that needs nothing else."""
    quality = quality[quality["ticker"].isin(tickers)]
    losses = validation_losses.drop(columns="session").mean()
    return render(
        "report.html.j2",
        metrics,
        facts=facts,
        tables={
            name: table.reset_index().to_dict("records") for name, table in report_tables.items()
        },
        report_figures={name: Markup(text) for name, text in report_figures.items()},
        model_selection=model_selection,
        gains={
            row["trees"]: losses["base_rate"] - losses[f"trees_{row['trees']}"]
            for row in model_selection
        },
        quality=quality.sort_values(["ticker", "rule"]).to_dict("records"),
        found=_found(quality),
        audit=leakage_audit,
    )


def _found(quality: pd.DataFrame) -> list[dict[Any, Any]]:
    """One row per ticker: rows in, kept and dropped, and how much each other rule found."""
    rows = quality.groupby("ticker").agg(
        rows_in=("rows_in", "max"),
        rows_kept=("rows_kept", "min"),
        rows_dropped=("rows_dropped", "max"),
    )
    rules = quality[~quality["rule"].isin(["asked", "stored"])]
    found = rules.pivot_table(index="ticker", columns="rule", values="found", aggfunc="sum")
    return rows.join(found).reset_index().to_dict("records")


def write_card(facts: dict[str, Any], metrics: dict[str, float]) -> str:
    """Write the model card: Markdown, the description of a registered version."""
    return render("model_card.md.j2", metrics, facts=facts)


def write_summary(facts: dict[str, Any], metrics: dict[str, float]) -> str:
    """Write a summary of some 15 lines of Markdown."""
    return render("summary.md.j2", metrics, facts=facts)
