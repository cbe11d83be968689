"""Test_scores → metrics → gate, figures → report, model_card, summary."""

from kedro.pipeline import Pipeline, node

from candlecast.pipelines.reporting.nodes import (
    break_down,
    draw_figures,
    evaluate,
    gather_facts,
    judge,
    write_card,
    write_report,
    write_summary,
)


def create_pipeline() -> Pipeline:
    """Evaluate the scored test set, judge it by the gate and report it (tag ``evaluate``)."""
    return Pipeline(
        [
            node(
                evaluate,
                ["test_scores", "validation_losses", "params:evaluation", "params:seed"],
                "metrics",
                name="evaluate",
            ),
            node(judge, ["metrics", "params:gate"], "gate", name="judge"),
            node(break_down, ["test_scores", "metrics"], "breakdown", name="break_down"),
            node(
                draw_figures,
                ["breakdown", "candidates", "metrics"],
                ["drawings", "roc_curve", "calibration_curve", "equity_curve"],
                name="draw_figures",
            ),
            node(
                gather_facts,
                {
                    "metrics": "metrics",
                    "gate": "gate",
                    "train": "train@pandas",
                    "test_scores": "test_scores",
                    "candidates": "candidates",
                    "lineage": "lineage",
                    "window": "params:window",
                    "feature": "params:feature",
                },
                "facts",
                name="gather_facts",
            ),
            node(
                write_report,
                {
                    "facts": "facts",
                    "metrics": "metrics",
                    "breakdown": "breakdown",
                    "drawings": "drawings",
                    "candidates": "candidates",
                    "validation_losses": "validation_losses",
                    "quality": "quality",
                    "tickers": "params:tickers",
                    "leakage_audit": "leakage_audit",
                },
                "report",
                name="write_report",
            ),
            node(write_card, ["facts", "metrics"], "model_card", name="write_card"),
            node(write_summary, ["facts", "metrics"], "summary", name="write_summary"),
        ],
        tags="evaluate",
    )
