"""Forests of several sizes from one: the first trees of a large forest are the small forest, to the
bit.

scikit-learn draws the seeds of a forest's trees one after the other from ``random_state``, so a
forest of 50 trees is the first 50 of the forest of 1000 with the same seed. One fit gives all
candidates, and one pass over its trees scores them all.
"""

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import TimeSeriesSplit

from candlecast.windows import purge_before

PARALLEL_ROWS = 3000
"""Below this many rows one thread is faster than two (measured)."""


def features(frame: pd.DataFrame) -> pd.DataFrame:
    """The lags of a windows frame, by name and in order, newest first; float32, one row a ticker
    and session.
    """
    names = sorted(name for name in frame if str(name).startswith("lag_"))
    return frame[names].astype(np.float32)


def grow(
    frame: pd.DataFrame, trees: int, min_weight_fraction_leaf: float, seed: int
) -> RandomForestClassifier:
    """Fit a forest (gini, bootstrap) on the windows of `frame`, in the order of their sessions
    whatever order they are in.
    """
    frame = frame.sort_values(["session", "ticker"])
    forest = RandomForestClassifier(
        n_estimators=trees,
        min_weight_fraction_leaf=min_weight_fraction_leaf,
        random_state=seed,
        n_jobs=-1 if len(frame) >= PARALLEL_ROWS else 1,
    )
    return forest.fit(features(frame), frame["up"].astype(int))


def first_trees(forest: RandomForestClassifier, trees: int) -> RandomForestClassifier:
    """The forest of the first `trees` trees, equal to one grown with that size and the same
    seed.
    """
    small = copy.copy(forest)
    small.n_estimators, small.estimators_ = trees, forest.estimators_[:trees]
    return small


def probabilities_by_size(
    forest: RandomForestClassifier, frame: pd.DataFrame, sizes: Sequence[int]
) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """Score all sizes in one pass over the trees.

    Args:
        forest: a forest of at least ``max(sizes)`` trees.
        frame: windows, one row a ticker and session.
        sizes: forest sizes, ascending.

    Yields:
        A size, and P(up) of each row by the forest of that size.
    """
    lags = np.ascontiguousarray(features(frame).to_numpy())
    classes = list(forest.classes_)
    total = np.zeros((len(lags), len(classes)))
    for count, tree in enumerate(forest.estimators_[: max(sizes)], start=1):
        total += tree.predict_proba(lags, check_input=False)
        if count in sizes:
            yield (
                count,
                (total / count)[:, classes.index(1)] if 1 in classes else np.zeros(len(lags)),
            )


def walk_forward(
    frame: pd.DataFrame, folds: int, purge: int
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Expanding walk-forward folds on the distinct session dates, mapped back to rows.

    scikit-learn's ``gap`` would count rows, wrong with several tickers; the purge here is that of the split.

    Yields:
        What a fold trains on and what it scores, both with the grain of `frame`.
    """
    dates = np.sort(frame["session"].unique())
    for _, scored in TimeSeriesSplit(n_splits=folds).split(dates):
        first, last = dates[scored[0]], dates[scored[-1]]
        yield purge_before(frame, first, purge), frame[frame["session"].between(first, last)]
