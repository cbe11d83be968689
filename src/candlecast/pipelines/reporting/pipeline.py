"""Test_scores → metrics → gate, figures → report, model_card, summary."""

from kedro.pipeline import Pipeline, node

from candlecast.pipelines.reporting.nodes import (
    build_context,
    build_tables,
    draw_figures,
    evaluate,
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
            node(build_tables, ["test_scores", "metrics"], "report_tables", name="build_tables"),
            node(
                draw_figures,
                ["report_tables", "model_selection", "metrics"],
                ["report_figures", "roc_curve", "calibration_curve", "equity_curve"],
                name="draw_figures",
            ),
            node(
                build_context,
                {
                    "metrics": "metrics",
                    "gate": "gate",
                    "train": "train@pandas",
                    "test_scores": "test_scores",
                    "model_selection": "model_selection",
                    "lineage": "lineage",
                    "window": "params:window",
                    "body": "params:body",
                },
                "facts",
                name="build_context",
            ),
            node(
                write_report,
                {
                    "facts": "facts",
                    "metrics": "metrics",
                    "report_tables": "report_tables",
                    "report_figures": "report_figures",
                    "model_selection": "model_selection",
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
