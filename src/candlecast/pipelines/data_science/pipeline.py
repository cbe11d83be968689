"""Train → candidates → model; model, champion, test → test_scores."""

from kedro.pipeline import Pipeline, node

from candlecast.pipelines.data_science.nodes import (
    choose_candidate,
    cut_forest,
    grow_forest,
    score_champion,
    score_test,
    try_candidates,
)


def create_pipeline() -> Pipeline:
    """Try, choose, refit and test forests (tag ``train``)."""
    forest = ["params:candidate_trees", "params:min_weight_fraction_leaf", "params:seed"]
    return Pipeline(
        [
            node(
                try_candidates,
                ["train@pandas", *forest, "params:folds", "params:purge"],
                ["fold_scores", "validation_losses"],
                name="try_candidates",
            ),
            node(
                grow_forest,
                ["train@pandas", *forest],
                ["forest", "training_f1"],
                name="grow_forest",
            ),
            node(
                choose_candidate,
                ["fold_scores", "training_f1"],
                ["candidates", "chosen_trees"],
                name="choose_candidate",
            ),
            node(
                cut_forest,
                [
                    "forest",
                    "chosen_trees",
                    "train@pandas",
                    "test@pandas",
                    "params:window",
                    "params:feature",
                ],
                "model",
                name="cut_forest",
            ),
            node(
                score_champion,
                ["test@pandas", "champion_if_any", "prices"],
                "champion_scores",
                name="score_champion",
            ),
            node(
                score_test,
                ["model", "train@pandas", "test@pandas", "champion_scores"],
                "test_scores",
                name="score_test",
            ),
        ],
        tags="train",
    )
