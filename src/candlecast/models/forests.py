"""Forests of several sizes from one: its first trees are the small forest, to the bit.

scikit-learn draws the seeds of a forest's trees one after the other from ``random_state``, so a
forest of 50 trees is the first 50 of the forest of 1000 with the same seed. One fit gives all
candidates, and one pass over its trees scores them all.
"""

import copy
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import RandomForestClassifier

PARALLEL_ROWS = 3000
"""Below this many rows one thread is faster than two (measured)."""

Floats = npt.NDArray[np.float64]


def features(frame: pd.DataFrame) -> pd.DataFrame:
    """Take the lags of a windows frame by name, newest first.

    >>> list(features(pd.DataFrame({"lag_02": [0.1], "up": [1], "lag_01": [0.2]})))
    ['lag_01', 'lag_02']

    Returns:
        One row per ticker and session, in the order of `frame`: ``lag_01`` … ``lag_NN``, float32.
    """
    names = sorted(str(name) for name in frame if str(name).startswith("lag_"))
    return frame[names].astype(np.float32)


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort by session and ticker, so that no result depends on the order in which rows came."""
    return frame.sort_values(["session", "ticker"], ignore_index=True)


def fit_forest(
    frame: pd.DataFrame, trees: int, min_weight_fraction_leaf: float, seed: int
) -> RandomForestClassifier:
    """Fit a forest (gini, bootstrap) on windows.

    It is fitted on all cores when that is worth it, which changes nothing, but predicts on one:
    scikit-learn's threads add the trees' votes in whatever order they end, and the last bit of a
    probability with it.

    Args:
        frame: windows with ``up``, one row per ticker and session, in any order.
        trees: how many.
        min_weight_fraction_leaf: smallest share of the rows in a leaf.
        seed: of the bootstrap and of the features tried.

    Returns:
        The fitted forest; the same to the bit for the same rows and seed.
    """
    frame = in_order(frame)
    forest = RandomForestClassifier(
        n_estimators=trees,
        min_weight_fraction_leaf=min_weight_fraction_leaf,
        random_state=seed,
        n_jobs=-1 if len(frame) >= PARALLEL_ROWS else 1,
    )
    return forest.fit(features(frame), frame["up"].astype(int)).set_params(n_jobs=1)


def first_trees(forest: RandomForestClassifier, trees: int) -> RandomForestClassifier:
    """Cut a forest down to its first `trees` trees.

    Returns:
        A forest equal to one grown with that size and the same seed. It shares its trees with
        `forest`, which is unchanged.
    """
    small = copy.copy(forest)
    small.n_estimators, small.estimators_ = trees, forest.estimators_[:trees]
    return small


def probabilities_by_size(
    forest: RandomForestClassifier, frame: pd.DataFrame, sizes: Sequence[int]
) -> Iterator[tuple[int, Floats]]:
    """Score all sizes in one pass over the trees, large frames on all cores.

    Args:
        forest: a forest of at least ``max(sizes)`` trees.
        frame: windows, one row per ticker and session.
        sizes: forest sizes, ascending.

    Yields:
        A size, and P(up) of each row by the forest of that size: equal to the bit to its
        ``predict_proba`` on one thread. It is 0 when the forest never saw an up.
    """
    lags = np.ascontiguousarray(features(frame).to_numpy())
    votes = _votes(forest, max(sizes))
    parts = np.array_split(lags, (os.cpu_count() or 1) if len(lags) >= PARALLEL_ROWS else 1)
    with ThreadPoolExecutor(len(parts)) as pool:
        scored = list(pool.map(partial(_up_by_size, votes, sizes), parts))
    yield from zip(sizes, np.concatenate(scored, axis=1), strict=True)


def probabilities(forest: RandomForestClassifier, frame: pd.DataFrame) -> Floats:
    """Score a frame of windows, a large one on all cores: P(up) of each row, as above."""
    ((_, probability),) = probabilities_by_size(forest, frame, [len(forest.estimators_)])
    return probability


def probability_of_up(forest: RandomForestClassifier, lags: npt.NDArray[np.float32]) -> Floats:
    """Score a matrix of lags on this thread alone.

    Args:
        forest: fitted on as many lags.
        lags: one row per ticker and session, one column per lag, newest first.

    Returns:
        P(up) of each row, equal to the bit to the forest's ``predict_proba`` on one thread.
    """
    size = len(forest.estimators_)
    return np.asarray(_up_by_size(_votes(forest, size), [size], lags)[0])


def _votes(forest: RandomForestClassifier, trees: int) -> list[tuple[Any, Floats]]:
    """The first trees, each with the share of ups in each leaf: 0 if it never saw an up."""
    classes = list(forest.classes_)
    first = [tree.tree_ for tree in forest.estimators_[:trees]]
    up = classes.index(1) if 1 in classes else None
    nothing = np.zeros(max(tree.node_count for tree in first))
    return [(tree, nothing if up is None else tree.value[:, 0, up]) for tree in first]


def _up_by_size(
    votes: Sequence[tuple[Any, Floats]], sizes: Sequence[int], lags: npt.NDArray[np.float32]
) -> Floats:
    """P(up) by the first trees, one row per size; `votes` are trees and the share of ups a leaf."""
    total, by_size = np.zeros(len(lags)), []
    for trees, (tree, up) in enumerate(votes, start=1):
        total += up.take(tree.apply(lags))
        if trees in sizes:
            by_size.append(total / trees)
    return np.stack(by_size)
