"""Train → candidates → model; model, champion, test → test_scores."""

from kedro.pipeline import Pipeline, node

from candlecast.pipelines.data_science.nodes import (
    choose_estimator,
    fit_largest_forest,
    predict_champion,
    predict_test,
    select_model,
    validate_estimators,
)


def create_pipeline() -> Pipeline:
    """Try, choose, refit and test forests (tag ``train``)."""
    forest = ["params:forest_sizes", "params:min_weight_fraction_leaf", "params:seed"]
    return Pipeline(
        [
            node(
                validate_estimators,
                ["train@pandas", *forest, "params:folds", "params:purge"],
                ["fold_metrics", "validation_losses"],
                name="validate_estimators",
            ),
            node(
                fit_largest_forest,
                ["train@pandas", *forest],
                ["forest", "training_f1"],
                name="fit_largest_forest",
            ),
            node(
                choose_estimator,
                ["fold_metrics", "training_f1"],
                ["model_selection", "chosen_trees"],
                name="choose_estimator",
            ),
            node(
                select_model,
                [
                    "forest",
                    "chosen_trees",
                    "train@pandas",
                    "test@pandas",
                    "params:window",
                    "params:body",
                ],
                "model",
                name="select_model",
            ),
            node(
                predict_champion,
                ["test@pandas", "champion_if_any", "prices"],
                "champion_predictions",
                name="predict_champion",
            ),
            node(
                predict_test,
                ["model", "train@pandas", "test@pandas", "champion_predictions"],
                "test_scores",
                name="predict_test",
            ),
        ],
        tags="train",
    )
