"""Functions of the data_science pipeline.

Frames of windows have the columns of `candlecast.features.windows`, in any order of their rows.
"""

from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score

from candlecast.evaluation.drift import make_profile
from candlecast.evaluation.metrics import log_losses
from candlecast.features.windows import Body, make_windows
from candlecast.frames import to_pandas
from candlecast.models.baselines import add_baselines, predict_logistic
from candlecast.models.forests import (
    features,
    first_trees,
    fit_forest,
    in_order,
    predict,
    predict_sizes,
)
from candlecast.models.selection import walk_forward
from candlecast.progress import progress
from candlecast.registry.entities import Champion


def validate_estimators(
    train: pd.DataFrame,
    forest_sizes: list[int],
    min_weight_fraction_leaf: float,
    seed: int,
    folds: int,
    purge: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Evaluate every forest size by walk-forward validation within the training period.

    Returns:
        The metrics, one row per fold (from 1) and size: ``fold``, ``trees``, ``log_loss``,
        ``accuracy`` and ``roc_auc`` (NaN where the fold validated one class only). And one row per
        validated session date: ``session``, the mean log loss of the fold's training base rate
        (``base_rate``) and of each size (``trees_<size>``).
    """
    metrics, losses = [], []
    # The training period grows by the same number of dates from fold to fold.
    with progress("walk-forward validation", folds * (folds + 1) / 2) as begin:
        for fold, (past, validated) in enumerate(walk_forward(train, folds, purge), start=1):
            begin(f"fold {fold} of {folds}", weight=fold)
            forest = fit_forest(past, max(forest_sizes), min_weight_fraction_leaf, seed)
            up = validated["up"]
            probabilities = {"base_rate": np.full(len(up), past["up"].mean())}
            for trees, probability in predict_sizes(forest, validated, forest_sizes).items():
                probabilities[f"trees_{trees}"] = probability
                metrics.append(
                    {
                        "fold": fold,
                        "trees": trees,
                        "log_loss": log_loss(up, probability, labels=[0, 1]),
                        "accuracy": accuracy_score(up, probability > 0.5),
                        "roc_auc": roc_auc_score(up, probability) if up.nunique() == 2 else np.nan,
                    }
                )
            by_row = {name: log_losses(up.to_numpy(), each) for name, each in probabilities.items()}
            losses.append(
                pd.DataFrame(by_row, index=validated["session"]).groupby("session").mean()
            )
    return pd.DataFrame(metrics), pd.concat(losses).reset_index()


def fit_largest_forest(
    train: pd.DataFrame, forest_sizes: list[int], min_weight_fraction_leaf: float, seed: int
) -> tuple[RandomForestClassifier, dict[int, float]]:
    """Fit the largest forest on the whole training set; the others are its first trees.

    Returns:
        The forest, and the weighted F1 of each size on the training set.
    """
    forest = fit_forest(train, max(forest_sizes), min_weight_fraction_leaf, seed)
    by_size = predict_sizes(forest, train, forest_sizes)
    return forest, {
        trees: float(f1_score(train["up"], probability > 0.5, average="weighted"))
        for trees, probability in by_size.items()
    }


def select_model(
    forest: RandomForestClassifier,
    chosen_trees: int,
    train: pd.DataFrame,
    test: pd.DataFrame,
    window: int,
    body: Body,
) -> tuple[RandomForestClassifier, pd.DataFrame, dict[str, Any]]:
    """Make the model: the first `chosen_trees` trees of the forest fitted on all of `train`.

    Returns:
        The model; its input for the first five rows of `train` by session and ticker; and what
        later processes must know about it: ``window``, ``body``, ``profile``, ``last_trained`` and
        ``last_known`` (see `candlecast.registry.entities.Champion`).
    """
    return (
        first_trees(forest, chosen_trees),
        features(in_order(train).head(5)),
        {
            "window": window,
            "body": body,
            "profile": make_profile(train),
            "last_trained": f"{train['session'].max():%Y-%m-%d}",
            "last_known": f"{test['session'].max():%Y-%m-%d}",
        },
    )


def predict_champion(
    test: pd.DataFrame, champion: Champion | None, prices: DataFrame
) -> pd.DataFrame:
    """Predict the test set with the champion, from windows of its own size and body.

    Args:
        test: windows.
        champion: None when there is none yet.
        prices: those that `test` was made from.

    Returns:
        One row per row of `test`: ``ticker``, ``session``, ``champion`` (its P(up), missing where
        it was trained on the session or has no whole window) and ``champion_version``. Without a
        champion both are missing everywhere.
    """
    rows = test[["ticker", "session"]]
    if champion is None:
        none = pd.array([pd.NA] * len(rows), "Int32")
        return rows.assign(champion=np.nan, champion_version=none)
    tested = prices.where(F.col("ticker").isin(sorted(test["ticker"].unique())))
    windows = make_windows(tested, champion.window, champion.body)
    new = windows.where(F.col("session") > F.lit(champion.last_trained).cast("date"))
    frame = to_pandas(new.select("ticker", "session", *champion.features))
    predicted = frame[["ticker", "session"]].assign(champion=predict(champion.model, frame))
    return rows.merge(predicted, on=["ticker", "session"], how="left").assign(
        champion_version=pd.array([champion.version] * len(rows), "Int32")
    )


def predict_test(
    model: RandomForestClassifier,
    train: pd.DataFrame,
    test: pd.DataFrame,
    champion_predictions: pd.DataFrame,
) -> pd.DataFrame:
    """Predict the test set with the model and with every baseline, beside the champion.

    Returns:
        One row per row of `test`, sorted by session and ticker: ``ticker``, ``session``, ``body``,
        ``return_``, ``up``, ``probability`` (the model's P(up)), P(up) by each rule of
        `candlecast.models.baselines.add_baselines` and by a logistic regression on the same
        features (``logistic``), and ``champion`` and ``champion_version`` of `predict_champion`. Up
        is predicted where P(up) > 0.5.
    """
    train, test = in_order(train), in_order(test)
    predictions = add_baselines(
        test[["ticker", "session", "body", "return_", "up"]].assign(
            probability=predict(model, test)
        ),
        base_rate=float(train["up"].mean()),
        previous_up=features(test).iloc[:, 0] > 0,
    ).assign(logistic=predict_logistic(train, test))
    return predictions.merge(champion_predictions, on=["ticker", "session"], validate="one_to_one")
