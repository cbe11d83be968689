"""What a model sees of windows, and forests of several sizes from one."""

import copy
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import RandomForestClassifier

from candlecast.features.computing import NOT_FEATURES

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
    inputs = frame[[*forest.feature_names_in_]].to_numpy(np.float32)
    parts = np.array_split(inputs, (os.cpu_count() or 1) if len(inputs) >= PARALLEL_ROWS else 1)
    with ThreadPoolExecutor(len(parts)) as pool:
        predicted = list(pool.map(lambda part: predict_matrix(forest, part, sizes), parts))
    return dict(zip(sizes, np.concatenate(predicted, axis=1), strict=True))


def predict_matrix(
    forest: RandomForestClassifier, inputs: npt.NDArray[np.float32], sizes: Sequence[int]
) -> Floats:
    """Predict on this thread: return P(up), one row per size and one column per row of `inputs`."""
    inputs = np.ascontiguousarray(inputs)
    votes = np.zeros((len(inputs), len(forest.classes_)))
    by_size = []
    for trees, tree in enumerate(forest.estimators_[: max(sizes)], start=1):
        votes += tree.predict_proba(inputs, check_input=False)
        if trees in sizes:
            by_size.append(votes @ (forest.classes_ == 1) / trees)
    return np.stack(by_size)
