"""Functions of the data_science pipeline.

Frames of windows are as `candlecast.windows.add_windows` makes them.
"""

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from candlecast.forests import features, first_trees, grow, probabilities_by_size, walk_forward


def try_candidates(
    train: pd.DataFrame,
    candidate_trees: list[int],
    min_weight_fraction_leaf: float,
    seed: int,
    folds: int,
    purge: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score every forest size by walk-forward validation inside the training period.

    Returns:
        Scores, one row a fold and size: ``fold``, ``trees``, ``log_loss``, ``accuracy``, ``roc_auc`` (NaN where the
        fold saw one class), ``first_session``, ``last_session``, ``rows`` of what was scored.
        Losses, one row a validated session date: the mean log loss of each size (columns ``trees_<size>``) and of the
        fold's training base rate (``base_rate``).
    """
    scores, losses = [], []
    for fold, (past, scored) in enumerate(walk_forward(train, folds, purge), start=1):
        forest = grow(past, max(candidate_trees), min_weight_fraction_leaf, seed)
        up = scored["up"].to_numpy()
        date_losses = {"base_rate": _row_losses(up, np.full(len(up), past["up"].mean()))}
        for trees, probability in probabilities_by_size(forest, scored, candidate_trees):
            date_losses[f"trees_{trees}"] = _row_losses(up, probability)
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


def _row_losses(up: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Log loss of each row; a probability of exactly 0 or 1 counts as one double away from it, as
    in scikit-learn."""
    epsilon = np.finfo(np.float64).eps
    right = np.clip(np.where(up == 1, probability, 1 - probability), epsilon, 1 - epsilon)
    return -np.log(right)


def grow_forest(
    train: pd.DataFrame, candidate_trees: list[int], min_weight_fraction_leaf: float, seed: int
) -> tuple[RandomForestClassifier, dict[int, float]]:
    """Grow the largest candidate on the whole training set; the others are its first trees.

    Returns:
        The forest, and the weighted F1 of each size on the rows that it was trained on: what the original project
        chose by, shown and never used.
    """
    forest = grow(train, max(candidate_trees), min_weight_fraction_leaf, seed)
    training_f1 = {
        trees: float(f1_score(train["up"], probability > 0.5, average="weighted"))
        for trees, probability in probabilities_by_size(forest, train, candidate_trees)
    }
    return forest, training_f1


def choose_candidate(
    fold_scores: pd.DataFrame, training_f1: dict[int, float]
) -> tuple[list[dict[str, float | bool]], int]:
    """Choose by the one-standard-error rule: the fewest trees whose mean log loss is within one of
    the best's.

    Args:
        fold_scores: one row a fold and size, from `try_candidates`.
        training_f1: by size, from `grow_forest`.

    Returns:
        One row a size: its mean scores over the folds, the standard error of the mean log loss, the log loss of each
        fold, ``chosen`` and ``original_rule`` (what the highest training F1 would have chosen; of equals the
        smaller). And the chosen size.
    """
    by_size = fold_scores.groupby("trees")
    means = by_size[["log_loss", "accuracy", "roc_auc"]].mean()
    errors = by_size["log_loss"].sem().fillna(0.0)
    best = means["log_loss"].idxmin()
    limit = means.loc[best, "log_loss"] + errors[best]
    chosen = int(min(means.index[means["log_loss"] <= limit]))
    original = max(training_f1, key=lambda trees: (training_f1[trees], -trees))
    folds = fold_scores.pivot(index="trees", columns="fold", values="log_loss")
    table = [
        {
            "trees": int(trees),
            **{str(name): float(value) for name, value in means.loc[trees].dropna().items()},
            "log_loss_se": float(errors[trees]),
            "training_f1": training_f1[trees],
            **{f"fold_{fold}.log_loss": float(value) for fold, value in folds.loc[trees].items()},
            "chosen": bool(trees == chosen),
            "original_rule": bool(trees == original),
        }
        for trees in means.index
    ]
    return table, chosen


def cut_forest(
    forest: RandomForestClassifier, chosen_trees: int, train: pd.DataFrame
) -> tuple[RandomForestClassifier, pd.DataFrame]:
    """The model: the chosen number of trees of the forest grown on all of `train`; and five rows of
    its input."""
    return first_trees(forest, chosen_trees), features(train.head(5))


def score_test(
    model: RandomForestClassifier, train: pd.DataFrame, test: pd.DataFrame
) -> pd.DataFrame:
    """Score the test set, once, by the model and by every baseline.

    Returns:
        One row a ticker and session of `test`: ``ticker``, ``session``, ``body``, ``return_``, ``up``, ``probability`` (the
        model's P(up)) and a P(up) of each baseline: ``always_up``, ``majority`` (of the training labels),
        ``previous_day`` (the direction of the session before), ``base_rate`` (the training share of ups) and
        ``logistic`` (a logistic regression on the same features). It is up that is predicted where P(up) > 0.5.
    """
    classes = list(model.classes_)
    probability = model.predict_proba(features(test))
    base_rate = float(train["up"].mean())
    return test[["ticker", "session", "body", "return_", "up"]].assign(
        probability=probability[:, classes.index(1)] if 1 in classes else 0.0,
        always_up=1.0,
        majority=float(base_rate > 0.5),
        previous_day=(test["lag_01"] > 0).astype(float),
        base_rate=base_rate,
        logistic=_logistic(train, test),
    )


def _logistic(train: pd.DataFrame, test: pd.DataFrame) -> np.ndarray:
    if train["up"].nunique() == 1:
        return np.full(len(test), float(train["up"].iloc[0]))
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    regression.fit(features(train).astype(float), train["up"])
    return regression.predict_proba(features(test).astype(float))[:, 1]
