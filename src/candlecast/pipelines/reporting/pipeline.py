"""test_scores → metrics → report, model_card."""

from kedro.pipeline import Pipeline, node

from candlecast.pipelines.reporting.nodes import evaluate, write_card, write_report


def create_pipeline() -> Pipeline:
    """Evaluate the scored test set and report it (tag ``evaluate``)."""
    return Pipeline(
        [
            node(evaluate, "test_scores", "metrics", name="evaluate"),
            node(write_report, ["metrics", "candidates"], "report", name="write_report"),
            node(write_card, "metrics", "model_card", name="write_card"),
        ],
        tags="evaluate",
    )
