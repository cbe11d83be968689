"""Walk-forward validation within the training period, and the choice among estimators."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from sklearn.model_selection import TimeSeriesSplit

from candlecast.errors import NotEnoughDataError
from candlecast.features.split import purge_before
from candlecast.models.forests import Rows


def walk_forward(frame: pd.DataFrame, folds: int, purge: int) -> Iterator[tuple[Rows, Rows]]:
    """Make expanding walk-forward folds on the distinct session dates.

    scikit-learn's ``gap`` would count rows, which is wrong with several tickers; the purge here is
    that of the split.

    >>> days = pd.DataFrame({"ticker": "A", "session": range(1, 8)})
    >>> for fold in walk_forward(days, folds=2, purge=1):
    ...     print(*(days["session"].iloc[rows].tolist() for rows in fold))
    [1, 2] [4, 5]
    [1, 2, 3, 4] [6, 7]

    Args:
        frame: windows, sorted by session.
        folds: how many; each validates the same number of dates.
        purge: sessions of each ticker that are left out before the first date validated.

    Yields:
        The rows that a fold trains on and those that it validates, by position in `frame`.

    Raises:
        NotEnoughDataError: there are too few session dates.
    """
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
    ends = [
        (dates[validated[0]], dates[validated[-1]])
        for _, validated in TimeSeriesSplit(n_splits=folds).split(dates)
    ]
    if not len(purge_before(frame, ends[0][0], purge)):  # the smallest
        raise too_few
    for first, last in ends:
        start = frame["session"].searchsorted(first)
        end = frame["session"].searchsorted(last, "right")
        yield purge_before(frame, first, purge), slice(start, end)


def choose_estimator(
    fold_metrics: pd.DataFrame, training_f1: dict[str, float]
) -> tuple[list[dict[str, Any]], str]:
    """Choose by the one-standard-error rule (Breiman et al., Classification and Regression Trees).

    The first estimator is chosen whose mean log loss is at most the lowest mean plus that one's
    standard error, so they are to be given simplest first.

    Args:
        fold_metrics: one row per fold and estimator (``fold``, ``estimator``), with ``log_loss``,
            ``accuracy`` and ``roc_auc``.
        training_f1: weighted F1 on the training rows by estimator: the original project's
            criterion, shown and never used.

    Returns:
        One row per estimator, in the order of `training_f1`: ``estimator``, the means over the
        folds of ``log_loss``, ``accuracy`` and ``roc_auc`` (left out when no fold has one),
        ``log_loss_se`` (the standard error of the mean), ``training_f1``, ``fold_<n>.log_loss``,
        ``chosen`` and ``original_rule`` (the highest training F1). And the chosen estimator.
    """
    by_estimator = fold_metrics.groupby("estimator")
    folds = fold_metrics.pivot(index="estimator", columns="fold", values="log_loss")
    table = (
        by_estimator[["log_loss", "accuracy", "roc_auc"]]
        .mean()
        .assign(
            log_loss_se=by_estimator["log_loss"].sem().fillna(0.0),
            training_f1=pd.Series(training_f1),
        )
        .join(folds.add_prefix("fold_").add_suffix(".log_loss"))
        .loc[list(training_f1)]
        .rename_axis("estimator")
    )
    best = table["log_loss"].argmin()
    limit = table["log_loss"].iloc[best] + table["log_loss_se"].iloc[best]
    chosen = str(table.index[table["log_loss"] <= limit][0])
    original = table["training_f1"].idxmax()
    table = table.assign(chosen=table.index == chosen, original_rule=table.index == original)
    rows = table.reset_index().to_dict("records")
    return [{str(k): v for k, v in row.items() if not pd.isna(v)} for row in rows], chosen
