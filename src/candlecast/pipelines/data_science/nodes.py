"""Functions of the data_science pipeline.

Frames of windows have the columns of `candlecast.features.windows`, in any order of their rows.
"""

from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score

from candlecast.errors import LeakageError
from candlecast.evaluation.drift import make_profile
from candlecast.evaluation.metrics import log_losses
from candlecast.features.windows import Body, make_windows
from candlecast.frames import extent, to_pandas
from candlecast.models.baselines import add_baselines
from candlecast.models.estimators import (
    as_input,
    fit_all,
    make_estimators,
    predict,
    predict_all,
)
from candlecast.models.forests import Rows, features, in_order, thin_out
from candlecast.models.selection import walk_forward
from candlecast.progress import progress
from candlecast.registry.entities import Champion

F1_ROWS = 200_000
"""Rows that the training F1 is measured on, at most: it is shown and decides nothing."""


def collect_training(train: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return what is fitted on, sorted by session and ticker, and what these rows cover.

    The latter is described by `candlecast.frames.extent`.
    """
    return in_order(train), extent(train)


def validate_estimators(
    train: pd.DataFrame,
    estimators: list[Any],
    min_weight_fraction_leaf: float,
    max_samples: int,
    seed: int,
    folds: int,
    purge: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Evaluate every estimator by walk-forward validation within the training period.

    Args:
        train: windows.
        estimators: see `candlecast.models.estimators.make_estimators`, as for the next two.
        min_weight_fraction_leaf: of the forests.
        max_samples: of the forests.
        seed: of the estimators.
        folds: see `candlecast.models.selection.walk_forward`, as for `purge`.
        purge: sessions.

    Returns:
        The metrics, one row per fold (from 1) and estimator: ``fold``, ``estimator``, ``log_loss``,
        ``accuracy`` and ``roc_auc`` (NaN where the fold validated one class only). And one row per
        validated session date: ``session``, the mean log loss of the fold's training base rate
        (``base_rate``) and of each estimator (under its name).
    """
    unfitted = make_estimators(estimators, min_weight_fraction_leaf, max_samples, seed)
    train = in_order(train)
    metrics, losses = [], []
    # The training period grows by the same number of dates from fold to fold.
    with progress("walk-forward validation", folds * (folds + 1) / 2) as begin:
        parts = walk_forward(train, folds, purge)
        for fold in range(1, folds + 1):
            begin(f"fold {fold} of {folds}", weight=fold)
            of_fold, by_date = _validate(unfitted, train, *next(parts))
            metrics += [{"fold": fold, **row} for row in of_fold]
            losses.append(by_date)
    return pd.DataFrame(metrics), pd.concat(losses).reset_index()


def _validate(
    unfitted: dict[str, Any], train: pd.DataFrame, past: Rows, validated: Rows
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Return the metrics of a fold by estimator, and the mean log losses by session date."""
    rows = train.iloc[validated]
    up, base_rate = rows["up"], train["up"].iloc[past].mean()
    predicted = predict_all(fit_all(unfitted, train, past), rows)
    metrics = [
        {
            "estimator": name,
            "log_loss": log_loss(up, probability, labels=[0, 1]),
            "accuracy": accuracy_score(up, probability > 0.5),
            "roc_auc": roc_auc_score(up, probability) if up.nunique() == 2 else np.nan,
        }
        for name, probability in predicted.items()
    ]
    probabilities = {"base_rate": np.full(len(up), base_rate), **predicted}
    by_row = {name: log_losses(up.to_numpy(), each) for name, each in probabilities.items()}
    return metrics, pd.DataFrame(by_row, index=rows["session"]).groupby("session").mean()


def fit_estimators(
    train: pd.DataFrame,
    estimators: list[Any],
    min_weight_fraction_leaf: float,
    max_samples: int,
    seed: int,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Fit every estimator on the whole training set.

    Returns:
        The models, and the weighted F1 of each on the training set (at most `F1_ROWS` of it), by
        name.
    """
    unfitted = make_estimators(estimators, min_weight_fraction_leaf, max_samples, seed)
    fitted = fit_all(unfitted, train)
    some = thin_out(in_order(train), F1_ROWS)
    return fitted, {
        name: float(f1_score(some["up"], probability > 0.5, average="weighted"))
        for name, probability in predict_all(fitted, some).items()
    }


def select_model(
    fitted_estimators: dict[str, Any],
    chosen_estimator: str,
    train: pd.DataFrame,
    test: pd.DataFrame,
    window: int,
    body: Body,
    feature_names: list[str],
    leakage_audit: dict[str, Any],
) -> tuple[Any, pd.DataFrame, dict[str, Any]]:
    """Make the model: the chosen estimator, fitted on all of `train`.

    Returns:
        The model; its input for the first five rows of `train` by session and ticker; and what
        later processes must know about it: ``estimator``, ``window``, ``body``, ``features``,
        ``profile``, ``last_trained`` and ``last_known`` (see
        `candlecast.registry.entities.Champion`).

    Raises:
        LeakageError: the inputs of the model are not the columns that were audited.
    """
    model = fitted_estimators[chosen_estimator]
    inputs, audited = list(model.feature_names_in_), leakage_audit["features"]
    if inputs != audited:
        raise LeakageError([f"the model's inputs are {inputs}, audited were {audited}"])
    return (
        model,
        as_input(model, features(in_order(train).head(5))),
        {
            "estimator": chosen_estimator,
            "window": window,
            "body": body,
            "features": feature_names,
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
    windows = make_windows(tested, champion.window, champion.body, champion.features)
    new = windows.where(F.col("session") > F.lit(champion.last_trained).cast("date"))
    frame = to_pandas(new.select("ticker", "session", *champion.columns), len(test))
    predicted = frame[["ticker", "session"]].assign(champion=predict(champion.model, frame))
    return rows.merge(predicted, on=["ticker", "session"], how="left").assign(
        champion_version=pd.array([champion.version] * len(rows), "Int32")
    )


def predict_test(
    model: Any,
    logistic: Any,
    training_extent: dict[str, Any],
    test: pd.DataFrame,
    champion_predictions: pd.DataFrame,
) -> pd.DataFrame:
    """Predict the test set with the model and with every baseline, beside the champion.

    Args:
        model: what `select_model` returned.
        logistic: the fitted baseline.
        training_extent: what `collect_training` returned.
        test: windows.
        champion_predictions: what `predict_champion` returned.

    Returns:
        One row per row of `test`, sorted by session and ticker: ``ticker``, ``session``, ``body``,
        ``return_``, ``up``, ``probability`` (the model's P(up)), P(up) by each rule of
        `candlecast.models.baselines.add_baselines` and by a logistic regression on the same
        features (``logistic``), and ``champion`` and ``champion_version`` of `predict_champion`. Up
        is predicted where P(up) > 0.5.
    """
    test = in_order(test)
    predictions = add_baselines(
        test[["ticker", "session", "body", "return_", "up"]].assign(
            probability=predict(model, test)
        ),
        base_rate=training_extent["share_up"],
        previous_up=test["previous_up"] == 1,
    ).assign(logistic=predict(logistic, test))
    return predictions.merge(champion_predictions, on=["ticker", "session"], validate="one_to_one")
