"""Functions of the data_science pipeline.

Frames of windows have the columns of `candlecast.features.windows`, in any order of their rows.
"""

from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from candlecast.evaluation.drift import profile
from candlecast.evaluation.metrics import log_losses
from candlecast.features.windows import Body, make_windows
from candlecast.frames import to_pandas
from candlecast.models.forests import (
    Floats,
    features,
    first_trees,
    fit_forest,
    in_order,
    probabilities,
    probabilities_by_size,
)
from candlecast.models.selection import walk_forward
from candlecast.registry.entities import Champion


def validate_estimators(
    train: pd.DataFrame,
    forest_sizes: list[int],
    min_weight_fraction_leaf: float,
    seed: int,
    folds: int,
    purge: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score every forest size by walk-forward validation inside the training period.

    Returns:
        Scores, one row per fold and size: ``fold`` (from 1), ``trees``, ``log_loss``, ``accuracy``,
        ``roc_auc`` (NaN where the fold saw one class), and ``first_session``, ``last_session`` and
        ``rows`` of what was scored.
        Losses, one row per validated session date: ``session``, the mean log loss of the fold's
        training base rate (``base_rate``) and of each size (``trees_<size>``).
    """
    scores, losses = [], []
    for fold, (past, scored) in enumerate(walk_forward(train, folds, purge), start=1):
        forest = fit_forest(past, max(forest_sizes), min_weight_fraction_leaf, seed)
        up = scored["up"].to_numpy()
        date_losses = {"base_rate": log_losses(up, np.full(len(up), past["up"].mean()))}
        for trees, probability in probabilities_by_size(forest, scored, forest_sizes):
            date_losses[f"trees_{trees}"] = log_losses(up, probability)
            scores.append(
                {
                    "fold": fold,
                    "trees": trees,
                    "log_loss": log_loss(up, probability, labels=[0, 1]),
                    "accuracy": accuracy_score(up, probability > 0.5),
                    "roc_auc": roc_auc_score(up, probability) if 0 < up.mean() < 1 else np.nan,
                    "first_session": scored["session"].min(),
                    "last_session": scored["session"].max(),
                    "rows": len(scored),
                }
            )
        losses.append(pd.DataFrame(date_losses).groupby(scored["session"].to_numpy()).mean())
    return pd.DataFrame(scores), pd.concat(losses).rename_axis("session").reset_index()


def fit_largest_forest(
    train: pd.DataFrame, forest_sizes: list[int], min_weight_fraction_leaf: float, seed: int
) -> tuple[RandomForestClassifier, dict[int, float]]:
    """Grow the largest candidate on the whole training set; the others are its first trees.

    Returns:
        The forest, and the weighted F1 of each size on the rows that it was trained on: what the
        original project chose by, shown and never used.
    """
    forest = fit_forest(train, max(forest_sizes), min_weight_fraction_leaf, seed)
    training_f1 = {
        trees: float(f1_score(train["up"], probability > 0.5, average="weighted"))
        for trees, probability in probabilities_by_size(forest, train, forest_sizes)
    }
    return forest, training_f1


def choose_estimator(
    fold_metrics: pd.DataFrame, training_f1: dict[int, float]
) -> tuple[list[dict[str, float | bool]], int]:
    """Choose by the one-standard-error rule (Breiman et al., Classification and Regression Trees).

    It is the fewest trees whose mean log loss is at most that of the best size and one standard
    error of it; of equals, too, the fewest.

    Args:
        fold_metrics: one row per fold and size, from `validate_estimators`.
        training_f1: by size, from `fit_largest_forest`.

    Returns:
        One row per size, ascending: ``trees``, the means over the folds of ``log_loss``,
        ``accuracy`` and ``roc_auc`` (not there when no fold has one), ``log_loss_se`` (the standard
        error of the mean), ``training_f1``, ``fold_<n>.log_loss``, ``chosen`` and ``original_rule``
        (what the highest training F1 would have chosen; of equals the smaller). And the chosen
        size.
    """
    by_size = fold_metrics.groupby("trees")
    means = by_size[["log_loss", "accuracy", "roc_auc"]].mean()
    sizes, losses = [int(trees) for trees in means.index], means["log_loss"].to_numpy()
    errors = by_size["log_loss"].sem().fillna(0.0).to_numpy()
    best = losses.argmin()
    limit = losses[best] + errors[best]
    chosen = min(trees for trees, loss in zip(sizes, losses, strict=True) if loss <= limit)
    original = max(training_f1, key=lambda trees: (training_f1[trees], -trees))
    folds = fold_metrics.pivot(index="trees", columns="fold", values="log_loss")
    table = [
        {
            "trees": trees,
            **{name: value for name, value in mean.items() if not np.isnan(value)},
            "log_loss_se": float(error),
            "training_f1": training_f1[trees],
            **{f"fold_{fold}.log_loss": loss for fold, loss in by_fold.items()},
            "chosen": trees == chosen,
            "original_rule": trees == original,
        }
        for trees, mean, error, by_fold in zip(
            sizes, means.to_dict("records"), errors, folds.to_dict("records"), strict=True
        )
    ]
    return table, chosen


def select_model(
    forest: RandomForestClassifier,
    chosen_trees: int,
    train: pd.DataFrame,
    test: pd.DataFrame,
    window: int,
    body: Body,
) -> tuple[RandomForestClassifier, pd.DataFrame, dict[str, Any]]:
    """Make the model: the first `chosen_trees` trees of the forest grown on all of `train`.

    Returns:
        The forest; its input for the first five rows of `train` by session and ticker; and what a
        later process must know of it (see `candlecast.registry.entities.Champion`): ``window``,
        ``body``, ``profile``, ``last_trained`` and ``last_known``.
    """
    return (
        first_trees(forest, chosen_trees),
        features(in_order(train).head(5)),
        {
            "window": window,
            "body": body,
            "profile": profile(train),
            "last_trained": f"{train['session'].max():%Y-%m-%d}",
            "last_known": f"{test['session'].max():%Y-%m-%d}",
        },
    )


def predict_champion(
    test: pd.DataFrame, champion: Champion | None, prices: DataFrame
) -> pd.DataFrame:
    """Score the test set by the champion, with windows as it sees them.

    Args:
        test: one row per ticker and session.
        champion: None when there is none yet.
        prices: one row per ticker and session; those that `test` was made of.

    Returns:
        One row per ticker and session of `test`: ``ticker``, ``session``, ``champion`` (its P(up),
        missing where it was trained on the row or has no whole window) and ``champion_version``.
        Both are missing everywhere when there is no champion.
    """
    rows = test[["ticker", "session"]]
    if champion is None:
        none = pd.array([pd.NA] * len(rows), "Int32")
        return rows.assign(champion=np.nan, champion_version=none)
    windows = make_windows(
        prices.where(F.col("ticker").isin(sorted(test["ticker"].unique()))),
        champion.window,
        champion.body,
    ).where(F.col("session") > F.lit(champion.last_trained).cast("date"))
    scored = to_pandas(windows.select("ticker", "session", *champion.features))
    scores = scored[["ticker", "session"]].assign(champion=probabilities(champion.model, scored))
    rows = rows.merge(scores, on=["ticker", "session"], how="left")
    return rows.assign(champion_version=pd.array([champion.version] * len(rows), "Int32"))


def predict_test(
    model: RandomForestClassifier,
    train: pd.DataFrame,
    test: pd.DataFrame,
    champion_predictions: pd.DataFrame,
) -> pd.DataFrame:
    """Score the test set, once, by the model and by every baseline, beside the champion.

    Returns:
        One row per ticker and session of `test`, sorted by session and ticker: ``ticker``,
        ``session``, ``body``, ``return_``, ``up``, ``probability`` (the model's P(up)) and a P(up)
        of each baseline: ``always_up``, ``majority`` (of the training labels), ``previous_day``
        (the direction of the session before), ``base_rate`` (the training share of ups) and
        ``logistic`` (a logistic regression on the same features). It is up that is predicted where
        P(up) > 0.5. ``champion`` and ``champion_version`` are those of `predict_champion`.
    """
    train, test = in_order(train), in_order(test)
    base_rate = float(train["up"].mean())
    scores = test[["ticker", "session", "body", "return_", "up"]].assign(
        probability=probabilities(model, test),
        always_up=1.0,
        majority=float(base_rate > 0.5),
        previous_day=(features(test).iloc[:, 0] > 0).astype(float),
        base_rate=base_rate,
        logistic=_logistic(train, test),
    )
    return scores.merge(champion_predictions, on=["ticker", "session"], validate="one_to_one")


def _logistic(train: pd.DataFrame, test: pd.DataFrame) -> Floats:
    """P(up) of a logistic regression on the lags; the one class there is, when there is one."""
    if train["up"].nunique() == 1:
        return np.full(len(test), float(train["up"].iloc[0]))
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    regression.fit(features(train).astype(float), train["up"])
    probability: Floats = regression.predict_proba(features(test).astype(float))[:, 1]
    return probability
