"""The report, the model card and the summary of a candidate: their contents and figures."""

from typing import Any

import pandas as pd
from markupsafe import Markup

from candlecast.evaluation.gate import verdict
from candlecast.frames import extent
from candlecast.reporting import figures, wording
from candlecast.reporting.html import LONGEST, accuracies, metric_text, render
from candlecast.sources.table import select_quality, source_name


def draw_figures(
    report_tables: dict[str, pd.DataFrame], metrics: dict[str, float]
) -> tuple[dict[str, Markup], Any, Any, Any]:
    """Draw the figures.

    Returns:
        All of them as SVG for the report, by name; and the ROC curve, the calibration curve and
        the equity curve as matplotlib's figures.
    """
    accuracy, estimators = accuracies(metrics), report_tables["estimators"]
    calibrated, equity = report_tables["calibration"], report_tables["equity"]
    roc_figure = figures.draw_roc(report_tables["roc"])
    calibration_figure = figures.draw_calibration(calibrated)
    equity_figure = figures.draw_equity(equity)
    drawn = {
        "accuracy": (
            figures.draw_accuracy(accuracy, metrics["best_baseline.accuracy"]),
            "Accuracy of the model and of every baseline",
            wording.listing(accuracy, "{name} {accuracy:.3f}")
            + f" Model with interval: {metric_text(metrics, 'accuracy')}.",
        ),
        "roc": (roc_figure, "ROC curve", f"ROC AUC: {metric_text(metrics, 'roc_auc')}."),
        "calibration": (
            calibration_figure,
            "Calibration",
            wording.listing(calibrated, "probability {probability:.3f}, up {share_up:.3f}"),
        ),
        "validation": (
            figures.draw_validation(estimators),
            "Log loss of every estimator in walk-forward validation",
            wording.listing(estimators, "{estimator} {log_loss:.4f}"),
        ),
        "importance": (
            figures.draw_importance(report_tables["importance"]),
            "Importance of the features",
            wording.listing(report_tables["importance"], "{feature} {log_loss_increase:+.4f}"),
        ),
        "equity": (
            equity_figure,
            "Equity curve, illustrative",
            wording.listing(
                equity.tail(1), "At the end: strategy, net, {strategy:.2f}, holding {holding:.2f}"
            ),
        ),
    }
    texts = {name: figures.svg(name, *drawing) for name, drawing in drawn.items()}
    return texts, roc_figure, calibration_figure, equity_figure


def describe_training(
    training_extent: dict[str, Any],
    model_selection: list[dict[str, Any]],
    features: list[str],
    window: int,
    body: str,
) -> dict[str, Any]:
    """Describe what was trained, and on what.

    Returns:
        ``trained`` (see `candlecast.frames.extent`), ``sees`` (its features in words), ``body``,
        ``estimator``: the chosen one in words, ``original_estimator``: the one that the original
        rule would have chosen, and ``estimators``, how many were tried.
    """
    chosen, original = (
        next(row["estimator"] for row in model_selection if row[flag])
        for flag in ("chosen", "original_rule")
    )
    return {
        "trained": training_extent,
        "sees": wording.features_text(features, window, body),
        "body": body,
        "estimator": wording.estimator_text(chosen),
        "original_estimator": wording.estimator_text(original),
        "estimators": len(model_selection),
    }


def build_context(
    metrics: dict[str, float],
    gate_decision: dict[str, Any],
    importance: list[dict[str, Any]],
    training_summary: dict[str, Any],
    test_scores: pd.DataFrame,
    leakage_audit: dict[str, Any],
    lineage: dict[str, Any],
) -> dict[str, Any]:
    """Gather what report, card and summary share: verdict, gate, what was trained and tested.

    Returns:
        ``headline`` and ``plain`` (the verdict in words), ``simpler`` and ``champion`` (see
        `wording.simpler_text` and `wording.champion_text`), ``best_rule`` (the baseline's
        name; ``best_rule_text`` in words),
        ``gate`` with ``reasons`` in words, ``importance`` (one row per feature) and ``helping``
        (what it means, in words), ``tested`` (see `_extent`), ``new`` (tickers that the
        model was not trained on), ``sampled`` (of how many rows those that it was trained on are a
        sample; None: they are all), what `describe_training` returns, ``audit``, ``metrics`` and
        ``lineage``.
    """
    outcome = verdict(metrics)
    trained, tested = training_summary["trained"], extent(test_scores)
    in_training = leakage_audit["rows_audited"] - tested["rows"]
    return {
        **training_summary,
        "headline": wording.headline(outcome, gate_decision),
        "plain": wording.summary_text(outcome, metrics),
        "simpler": wording.simpler_text(metrics),
        "champion": wording.champion_text(metrics),
        "best_rule": outcome["best_baseline"],
        "best_rule_text": wording.rule_text(outcome["best_baseline"]),
        "gate": {**gate_decision, "reasons": wording.gate_reasons(gate_decision["reasons"])},
        "importance": importance,
        "helping": wording.importance_text(importance),
        "tested": tested,
        "new": sorted(set(tested["tickers"]) - set(trained["tickers"])),
        "sampled": in_training if in_training > trained["rows"] else None,
        "audit": leakage_audit,
        "metrics": metrics,
        "lineage": lineage,
    }


def write_report(
    context: dict[str, Any],
    report_tables: dict[str, pd.DataFrame],
    report_figures: dict[str, Markup],
    quality: pd.DataFrame,
    tickers: list[str],
    prices_from: str,
) -> str:
    """Write the report: one HTML page that needs nothing else."""
    quality = select_quality(quality, tickers, prices_from)
    columns = report_tables["estimators"].columns
    found = _found(quality)
    shown = quality[quality["ticker"].isin(found["ticker"][:LONGEST])]
    return render(
        "report.html.j2",
        **context,
        tables={name: table.to_dict("records") for name, table in report_tables.items()},
        report_figures=report_figures,
        longest=LONGEST,
        folds=[name.removesuffix(".log_loss") for name in columns if name.endswith(".log_loss")],
        quality=shown.sort_values(["ticker", "rule"]).to_dict("records"),
        found=found[:LONGEST].to_dict("records"),
        checked=len(found),
        rule_counts=_count_by_rule(quality),
        source=source_name(prices_from),
    )


def _found(quality: pd.DataFrame) -> pd.DataFrame:
    """Return one row per ticker: rows in, kept and dropped, and how much each rule found.

    The tickers that most rows were dropped of, or that most sessions are missing of, come first.
    """
    rows = quality.groupby("ticker").agg(
        rows_in=("rows_in", "max"),
        rows_kept=("rows_kept", "min"),
        rows_dropped=("rows_dropped", "max"),
    )
    rules = quality[~quality["rule"].isin(["requested", "stored"])]
    found = rows.join(
        rules.pivot_table(index="ticker", columns="rule", values="found", aggfunc="sum")
    )
    worst = [name for name in ("rows_dropped", "missing sessions") if name in found]
    return found.sort_values(worst, ascending=False, kind="stable").reset_index()


def _count_by_rule(quality: pd.DataFrame) -> list[dict[Any, Any]]:
    """Return one row per rule that found something: ``tickers``, ``found``, ``most`` (in which)."""
    some = quality[(quality["found"] > 0) & ~quality["rule"].isin(["requested", "stored"])]
    most = some.sort_values("found", ascending=False).groupby("rule")
    counts = most.agg(
        tickers=("ticker", "nunique"), found=("found", "sum"), most=("ticker", "first")
    )
    return counts.sort_values("tickers", ascending=False).reset_index().to_dict("records")


def write_card(context: dict[str, Any]) -> str:
    """Write the model card: Markdown, the description of a registered version."""
    return render("model_card.md.j2", **context)


def write_summary(context: dict[str, Any]) -> str:
    """Write a summary of some 15 lines of Markdown."""
    return render("summary.md.j2", **context)
