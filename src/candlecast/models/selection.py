"""Walk-forward validation within the training period, and the choice among forest sizes."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from sklearn.model_selection import TimeSeriesSplit

from candlecast.errors import NotEnoughDataError
from candlecast.features.split import purge_before
from candlecast.models.forests import fit_forest, in_order, predict_sizes


def walk_forward(
    frame: pd.DataFrame, folds: int, purge: int
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Make expanding walk-forward folds on the distinct session dates.

    scikit-learn's ``gap`` would count rows, which is wrong with several tickers; the purge here is
    that of the split.

    >>> days = pd.DataFrame({"ticker": "A", "session": range(1, 8)})
    >>> for past, validated in walk_forward(days, folds=2, purge=1):
    ...     print(past["session"].tolist(), validated["session"].tolist())
    [1, 2] [4, 5]
    [1, 2, 3, 4] [6, 7]

    Args:
        frame: windows, in any order.
        folds: how many; each validates the same number of dates.
        purge: sessions of each ticker that are left out before the first date validated.

    Yields:
        The windows that a fold trains on and those that it validates, sorted by session and ticker.

    Raises:
        NotEnoughDataError: there are too few session dates.
    """
    frame = in_order(frame)
    dates = frame["session"].unique()
    too_few = NotEnoughDataError(
        f"The training set has {len(dates)} session dates with a whole window, too few for {folds} "
        f"walk-forward folds with a purge of {purge}. Request an earlier start, or lower window, "
        "purge or folds.",
        sessions=len(dates),
        folds=folds,
        purge=purge,
    )
    if len(dates) <= folds:
        raise too_few
    for _, validated in TimeSeriesSplit(n_splits=folds).split(dates):
        first, last = dates[validated[0]], dates[validated[-1]]
        past = purge_before(frame, first, purge)
        if past.empty:
            raise too_few
        yield past, frame[frame["session"].between(first, last)]


def validate_sizes(
    train: pd.DataFrame,
    forest_sizes: Sequence[int],
    min_weight_fraction_leaf: float,
    seed: int,
    folds: int,
    purge: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predict every validated session with forests that were fitted on earlier sessions.

    Returns:
        The metrics, one row per fold (from 1) and size: ``fold``, ``trees``, ``log_loss``,
        ``accuracy`` and ``roc_auc`` (NaN where the fold validated one class only). And the
        predictions, one row per validated ticker and session, sorted by session and ticker:
        ``session``, ``up``, and P(up) by the fold's training share of ups (``base_rate``) and by
        each size (``trees_<size>``).
    """
    metrics, predictions = [], []
    for fold, (past, validated) in enumerate(walk_forward(train, folds, purge), start=1):
        forest = fit_forest(past, max(forest_sizes), min_weight_fraction_leaf, seed)
        up = validated["up"]
        part = validated[["session", "up"]].assign(base_rate=past["up"].mean())
        for trees, probability in predict_sizes(forest, validated, forest_sizes).items():
            part[f"trees_{trees}"] = probability
            metrics.append(
                {
                    "fold": fold,
                    "trees": trees,
                    "log_loss": log_loss(up, probability, labels=[0, 1]),
                    "accuracy": accuracy_score(up, probability > 0.5),
                    "roc_auc": roc_auc_score(up, probability) if up.nunique() == 2 else np.nan,
                }
            )
        predictions.append(part)
    return pd.DataFrame(metrics), pd.concat(predictions, ignore_index=True)


def choose_estimator(
    fold_metrics: pd.DataFrame, training_f1: dict[int, float]
) -> tuple[list[dict[str, float | bool]], int]:
    """Choose by the one-standard-error rule (Breiman et al., Classification and Regression Trees).

    The smallest size is chosen whose mean log loss is at most the lowest mean plus that one's
    standard error.

    Args:
        fold_metrics: one row per fold and size, from `validate_sizes`.
        training_f1: weighted F1 on the training rows by size: the original project's criterion,
            shown and never used.

    Returns:
        One row per size, ascending: ``trees``, the means over the folds of ``log_loss``,
        ``accuracy`` and ``roc_auc`` (left out when no fold has one), ``log_loss_se`` (the standard
        error of the mean), ``training_f1``, ``fold_<n>.log_loss``, ``chosen`` and ``original_rule``
        (the highest training F1). And the chosen size.
    """
    by_size = fold_metrics.groupby("trees")
    folds = fold_metrics.pivot(index="trees", columns="fold", values="log_loss")
    table = (
        by_size[["log_loss", "accuracy", "roc_auc"]]
        .mean()
        .assign(
            log_loss_se=by_size["log_loss"].sem().fillna(0.0),
            training_f1=pd.Series(training_f1),
        )
        .join(folds.add_prefix("fold_").add_suffix(".log_loss"))
    )
    best = table["log_loss"].argmin()
    limit = table["log_loss"].iloc[best] + table["log_loss_se"].iloc[best]
    chosen = int(table.index[table["log_loss"] <= limit][0])
    original = table["training_f1"].idxmax()
    table = table.assign(chosen=table.index == chosen, original_rule=table.index == original)
    rows = table.reset_index().to_dict("records")
    return [{str(k): v for k, v in row.items() if not pd.isna(v)} for row in rows], chosen
