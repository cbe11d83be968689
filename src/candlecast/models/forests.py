"""Forests of several sizes from one fit.

scikit-learn draws the seeds of a forest's trees one after the other from ``random_state``, so a
forest of 50 trees is, bit for bit, the first 50 trees of the forest of 1000 with the same seed. One
fit gives every size, and one pass over its trees gives the predictions of every size.
"""

import copy
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import RandomForestClassifier

from candlecast.features.computing import NOT_FEATURES
from candlecast.progress import progress

PARALLEL_ROWS = 3000
"""Below this many rows one thread is faster than two (measured)."""

Floats = npt.NDArray[np.float64]


def features(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the features of a windows frame as float32; rows and columns stay in order.

    >>> list(features(pd.DataFrame({"lag_01": [0.2], "lag_02": [0.1], "up": [1]})))
    ['lag_01', 'lag_02']
    """
    return frame.drop(columns=[*NOT_FEATURES], errors="ignore").astype(np.float32)


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort by session and ticker, so that no result depends on the order of the rows."""
    return frame.sort_values(["session", "ticker"], ignore_index=True)


def fit_forest(
    frame: pd.DataFrame, trees: int, min_weight_fraction_leaf: float, seed: int
) -> RandomForestClassifier:
    """Fit a forest (gini, bootstrap) on windows.

    Large frames are fitted on all cores, which changes no bit. The forest predicts on one core:
    threads add the votes of trees in the order in which they end, which changes the last bit of a
    probability.

    Args:
        frame: windows, one row per ticker and session, in any order.
        trees: how many.
        min_weight_fraction_leaf: smallest share of the rows in a leaf.
        seed: of the bootstrap and of the features tried.

    Returns:
        The fitted forest, bit for bit the same for the same rows and seed.
    """
    frame = in_order(frame)
    forest = RandomForestClassifier(
        n_estimators=trees,
        min_weight_fraction_leaf=min_weight_fraction_leaf,
        random_state=seed,
        n_jobs=-1 if len(frame) >= PARALLEL_ROWS else 1,
    )
    with progress(f"fit of {trees:,} trees on {len(frame):,} rows"):
        forest.fit(features(frame), frame["up"].astype(int))
    return forest.set_params(n_jobs=1)


def first_trees(forest: RandomForestClassifier, trees: int) -> RandomForestClassifier:
    """Return a forest of the first `trees` trees of `forest`, which it shares with it."""
    small = copy.copy(forest)
    small.n_estimators, small.estimators_ = trees, forest.estimators_[:trees]
    return small


def predict_sizes(
    forest: RandomForestClassifier, frame: pd.DataFrame, sizes: Sequence[int]
) -> dict[int, Floats]:
    """Predict with the first trees of a forest, for several sizes in one pass.

    Args:
        forest: a forest of at least ``max(sizes)`` trees.
        frame: windows, one row per ticker and session; large frames are predicted on all cores.
        sizes: forest sizes, ascending.

    Returns:
        By size, P(up) of each row, bit for bit that of ``predict_proba`` of the forest of that size
        on one core; 0 when the forest never saw an up.
    """
    inputs = frame[[*forest.feature_names_in_]].astype(np.float32)
    lags = np.ascontiguousarray(inputs.to_numpy())
    parts = np.array_split(lags, (os.cpu_count() or 1) if len(lags) >= PARALLEL_ROWS else 1)
    with ThreadPoolExecutor(len(parts)) as pool:
        predicted = list(pool.map(lambda part: predict_matrix(forest, part, sizes), parts))
    return dict(zip(sizes, np.concatenate(predicted, axis=1), strict=True))


def predict(forest: RandomForestClassifier, frame: pd.DataFrame) -> Floats:
    """Return P(up) of each row of a windows frame; see `predict_sizes`."""
    size = len(forest.estimators_)
    return predict_sizes(forest, frame, [size])[size]


def predict_matrix(
    forest: RandomForestClassifier, lags: npt.NDArray[np.float32], sizes: Sequence[int]
) -> Floats:
    """Predict on this thread: return P(up), one row per size and one column per row of `lags`."""
    votes = np.zeros((len(lags), len(forest.classes_)))
    by_size = []
    for trees, tree in enumerate(forest.estimators_[: max(sizes)], start=1):
        votes += tree.predict_proba(lags, check_input=False)
        if trees in sizes:
            by_size.append(votes @ (forest.classes_ == 1) / trees)
    return np.stack(by_size)
