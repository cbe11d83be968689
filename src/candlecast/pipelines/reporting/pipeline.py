"""Test scores → metrics → gate decision, importance, tables, figures → report, card, summary."""

from kedro.pipeline import Pipeline, node

from candlecast.evaluation.gate import apply_gate
from candlecast.evaluation.importance import measure_importance
from candlecast.evaluation.significance import evaluate_model
from candlecast.pipelines.reporting.nodes import build_tables
from candlecast.reporting.report import (
    build_context,
    describe_training,
    draw_figures,
    write_card,
    write_report,
    write_summary,
)


def create_pipeline() -> Pipeline:
    """Evaluate the model on the test set, apply the gate, write the report (tag ``evaluate``)."""
    return Pipeline(
        [
            node(
                evaluate_model,
                {
                    "test_scores": "test_scores",
                    "validation_losses": "validation_losses",
                    "evaluation": "params:evaluation",
                    "seed": "params:seed",
                },
                "metrics",
                name="evaluate_model",
            ),
            node(
                measure_importance,
                {
                    "model": "model",
                    "test": "test@pandas",
                    "evaluation": "params:evaluation",
                    "seed": "params:seed",
                },
                "importance",
                name="measure_importance",
            ),
            node(apply_gate, ["metrics", "params:gate"], "gate_decision", name="apply_gate"),
            node(
                build_tables,
                {
                    "test_scores": "test_scores",
                    "validation_losses": "validation_losses",
                    "model_selection": "model_selection",
                    "importance": "importance",
                    "evaluation": "params:evaluation",
                    "seed": "params:seed",
                },
                "report_tables",
                name="build_tables",
            ),
            node(
                draw_figures,
                ["report_tables", "metrics"],
                ["report_figures", "roc_curve", "calibration_curve", "equity_curve"],
                name="draw_figures",
            ),
            node(
                describe_training,
                {
                    "training_extent": "training_extent",
                    "model_selection": "model_selection",
                    "features": "params:features",
                    "window": "params:window",
                    "body": "params:body",
                },
                "training_summary",
                name="describe_training",
            ),
            node(
                build_context,
                {
                    "metrics": "metrics",
                    "gate_decision": "gate_decision",
                    "importance": "importance",
                    "training_summary": "training_summary",
                    "test_scores": "test_scores",
                    "leakage_audit": "leakage_audit",
                    "lineage": "lineage",
                },
                "report_context",
                name="build_context",
            ),
            node(
                write_report,
                {
                    "context": "report_context",
                    "report_tables": "report_tables",
                    "report_figures": "report_figures",
                    "quality": "quality",
                    "tickers": "params:tickers",
                    "prices_from": "params:prices",
                },
                "report",
                name="write_report",
            ),
            node(write_card, "report_context", "model_card", name="write_card"),
            node(write_summary, "report_context", "summary", name="write_summary"),
        ],
        tags="evaluate",
    )
