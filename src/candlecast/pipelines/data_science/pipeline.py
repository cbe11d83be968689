"""Train → estimators → model; model, champion, test → test_scores."""

from kedro.pipeline import Pipeline, node

from candlecast.models.baselines import fit_logistic
from candlecast.models.selection import choose_estimator
from candlecast.pipelines.data_science.nodes import (
    collect_training,
    fit_estimators,
    predict_champion,
    predict_test,
    select_model,
    validate_estimators,
)


def create_pipeline() -> Pipeline:
    """Validate estimators, choose one, refit it, predict the test set (tag ``train``)."""
    return Pipeline(
        [
            node(
                collect_training,
                "train@pandas",
                ["training_rows", "training_extent"],
                name="collect_training",
            ),
            node(
                validate_estimators,
                {
                    "train": "training_rows",
                    "estimators": "params:estimators",
                    "min_weight_fraction_leaf": "params:min_weight_fraction_leaf",
                    "max_samples": "params:max_samples",
                    "seed": "params:seed",
                    "folds": "params:folds",
                    "purge": "params:purge",
                },
                ["fold_metrics", "validation_losses"],
                name="validate_estimators",
            ),
            node(
                fit_estimators,
                {
                    "train": "training_rows",
                    "estimators": "params:estimators",
                    "min_weight_fraction_leaf": "params:min_weight_fraction_leaf",
                    "max_samples": "params:max_samples",
                    "seed": "params:seed",
                },
                ["fitted_estimators", "training_f1"],
                name="fit_estimators",
            ),
            node(fit_logistic, "training_rows", "logistic", name="fit_logistic"),
            node(
                choose_estimator,
                ["fold_metrics", "training_f1"],
                ["model_selection", "chosen_estimator"],
                name="choose_estimator",
            ),
            node(
                select_model,
                {
                    "fitted_estimators": "fitted_estimators",
                    "chosen_estimator": "chosen_estimator",
                    "train": "training_rows",
                    "test": "test@pandas",
                    "window": "params:window",
                    "body": "params:body",
                    "feature_names": "params:features",
                    "leakage_audit": "leakage_audit",
                },
                "model",
                name="select_model",
            ),
            node(
                predict_champion,
                {"test": "test@pandas", "champion": "champion_if_any", "prices": "prices"},
                "champion_predictions",
                name="predict_champion",
            ),
            node(
                predict_test,
                {
                    "model": "model",
                    "logistic": "logistic",
                    "training_extent": "training_extent",
                    "test": "test@pandas",
                    "champion_predictions": "champion_predictions",
                },
                "test_scores",
                name="predict_test",
            ),
        ],
        tags="train",
    )
