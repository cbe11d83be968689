"""What a model sees of windows, and forests of several sizes from one."""

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pandas as pd
import sklearn
from joblib import cpu_count
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import check_random_state

from candlecast.features.computing import NOT_FEATURES
from candlecast.frames import release_memory

PARALLEL_ROWS = 800
"""Below this many rows one thread is about as fast as two (measured)."""

BLOCK = 16_384
"""Rows that are predicted at once, so that they stay in the processor's cache."""

GRID = 32
"""Steps of the grid in the interquartile range of a feature, at least; at most twice as many."""

TREES_AT_ONCE = 100
"""Trees after which freed memory is given back: each leaves a gap that no other one fits in."""

IN_A_ROW = 10
"""Trees that a thread grows before it looks for more: with one at once, threads of small trees wait
for one another."""

Floats = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]
Rows = slice | npt.NDArray[np.intp]
"""Positions of rows in a frame, ascending."""


def features(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the features of a windows frame as float32; rows and columns stay in order.

    If they are float32 and stand side by side, no value is copied.

    >>> list(features(pd.DataFrame({"lag_01": [0.2], "lag_02": [0.1], "up": [1]})))
    ['lag_01', 'lag_02']
    """
    places = np.flatnonzero(~frame.columns.isin(NOT_FEATURES))
    if len(places) and np.ptp(places) == len(places) - 1:
        return as_type(frame.iloc[:, places[0] : places[-1] + 1], np.float32)
    return as_type(frame.iloc[:, places], np.float32)


def as_type(frame: pd.DataFrame, kind: type[np.float32 | np.float64]) -> pd.DataFrame:
    """Return the numbers in this type, themselves if they have it already."""
    return frame if (frame.dtypes == kind).all() else frame.astype(kind)


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort by session and ticker, so that no result depends on the order of the rows.

    No value is copied if they are sorted already.
    """
    session, ticker = frame["session"].to_numpy(), frame["ticker"].to_numpy()
    same = session[1:] == session[:-1]
    if not (session[1:] >= session[:-1]).all() or not (ticker[1:] >= ticker[:-1])[same].all():
        return frame.sort_values(["session", "ticker"], ignore_index=True)
    ordered = frame.copy(deep=False)
    ordered.index = pd.RangeIndex(len(frame))
    return ordered


def thin_out(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return at most so many rows, at equal distances."""
    return frame.iloc[:: max(1, -(-len(frame) // most))]


def fit_forest(
    forest: RandomForestClassifier, inputs: pd.DataFrame, up: "pd.Series[int]", rows: Rows
) -> RandomForestClassifier:
    """Fit a forest: bit for bit as scikit-learn does, and faster.

    Its own fit spends as long on a tree's settings and checks as a small tree takes to grow, and
    its threads wait for one another at each tree; here a thread grows several in a row.

    With an integer ``max_samples`` below the number of rows, a tree draws only so many. Its own fit
    gives every tree all rows, most of them with the weight 0, and sorts values most of the time;
    here a tree gets its own rows alone, no copy of all is made, and features are rounded, as equal
    values are sorted faster: to a grid of at least `GRID` steps in their interquartile range, so
    that splits lie between its points. A row that a tree draws is in the same leaf as without
    rounding, and the trees are those of scikit-learn's own fit on rounded features.

    Args:
        forest: with ``bootstrap``, and ``max_samples`` either an integer or None.
        inputs: float32.
        up: the labels of the rows to fit on.
        rows: where these are in `inputs`.
    """
    values, labels = inputs.to_numpy(), up.to_numpy().astype(int)
    places = np.arange(len(inputs))[rows] if isinstance(rows, slice) else rows
    count = min(forest.max_samples or len(labels), len(labels))
    examples = np.sort(np.unique(labels, return_index=True)[1])
    settings = {name: getattr(forest, name) for name in forest.estimator_params}
    random = check_random_state(forest.random_state)
    seeds = [random.randint(np.iinfo(np.int32).max) for _ in range(forest.n_estimators)]
    if is_sampled := count < len(labels):
        steps = _grid_steps(values[places[:: max(1, len(places) // 100_000)]])
        for name in ("min_samples_leaf", "min_samples_split"):
            if isinstance(settings[name], float):  # a share of all rows, not of a tree's own
                settings[name] = math.ceil(settings[name] * len(labels))
    else:
        values = values[places]

    def fit_tree(seed: int) -> DecisionTreeClassifier:
        drawn = check_random_state(seed).randint(0, len(labels), count, dtype=np.int32)
        tree = DecisionTreeClassifier(**{**settings, "random_state": seed})
        if not is_sampled:
            weights = np.bincount(drawn, minlength=len(labels)).astype(np.float64)
            return tree.fit(values, labels, sample_weight=weights, check_input=False)
        # Every tree knows all classes: the examples have the weight 0 if they are not drawn.
        found, times = np.unique(np.concatenate([examples, drawn]), return_counts=True)
        weights = times.astype(np.float64)
        weights[np.searchsorted(found, examples)] -= 1
        rounded = round_down(values[places[found]], steps)
        return tree.fit(rounded, labels[found], sample_weight=weights, check_input=False)

    def fit_trees(some: Sequence[int]) -> list[DecisionTreeClassifier]:
        with sklearn.config_context(skip_parameter_validation=True):  # done for the forest below
            trees = [fit_tree(seed) for seed in some]
        for tree in trees:  # skops writes once what they share
            tree.classes_, tree.n_classes_ = template.classes_, template.n_classes_
        return trees

    fitted = clone(forest).set_params(n_estimators=1, max_samples=None)
    fitted.fit(inputs.iloc[places[examples]], labels[examples])
    (template,) = fitted.estimators_
    fitted.set_params(n_estimators=forest.n_estimators, max_samples=forest.max_samples)
    fitted.estimators_ = []
    fitted._n_samples, fitted._n_samples_bootstrap = len(labels), count  # not the examples'
    threads = count_threads(len(labels))
    share = min(IN_A_ROW, -(-TREES_AT_ONCE // threads))
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(seeds), TREES_AT_ONCE):
            some = seeds[first : first + TREES_AT_ONCE]
            shares = [some[n : n + share] for n in range(0, len(some), share)]
            fitted.estimators_ += itertools.chain.from_iterable(pool.map(fit_trees, shares))
            release_memory()
    return fitted


def count_threads(rows: int) -> int:
    """Return how many threads to fit or predict so many rows on."""
    return int(cpu_count()) if rows >= PARALLEL_ROWS else 1


def _grid_steps(values: Matrix) -> Matrix:
    """Return the distance of the grid's points for each feature, a power of two; 0: no grid."""
    low, high = np.quantile(values, [0.25, 0.75], axis=0)
    with np.errstate(divide="ignore"):
        steps: Matrix = np.exp2(np.floor(np.log2((high - low) / GRID))).astype(np.float32)
    return steps


def round_down(values: Matrix, steps: Matrix) -> Matrix:
    """Round values to the nearest multiple of a step; halves are rounded down, as trees split.

    >>> round_down(np.float32([[0.125, 0.3], [0.376, 0.3]]), np.float32([0.25, 0]))
    array([[0. , 0.3],
           [0.5, 0.3]], dtype=float32)
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rounded = values / steps
        rounded -= np.float32(0.5)
        np.ceil(rounded, out=rounded)
        rounded *= steps
    np.copyto(rounded, values, where=~np.isfinite(rounded))
    return rounded


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
    names, threads = [*forest.feature_names_in_], count_threads(len(frame))
    size = max(1, min(BLOCK, -(-len(frame) // threads)))

    def predict_part(part: pd.DataFrame) -> Floats:
        return predict_matrix(forest, part[names].to_numpy(np.float32), sizes)

    with ThreadPoolExecutor(threads) as pool:
        predicted = [*pool.map(predict_part, blocks(frame, size))]
    return dict(zip(sizes, np.concatenate(predicted, axis=1), strict=True))


def blocks(frame: pd.DataFrame, size: int = BLOCK) -> Iterator[pd.DataFrame]:
    """Yield successive rows, at most `size` at once."""
    for first in range(0, len(frame), size):
        yield frame.iloc[first : first + size]


def predict_matrix(forest: RandomForestClassifier, inputs: Matrix, sizes: Sequence[int]) -> Floats:
    """Predict on this thread: return P(up), one row per size and one column per row of `inputs`."""
    inputs = np.ascontiguousarray(inputs)
    ups = forest.classes_ == 1
    total, by_size = np.zeros(len(inputs)), []
    for trees, tree in enumerate(forest.estimators_[: max(sizes)], start=1):
        if ups.any():
            total += tree.tree_.value[:, 0, ups][tree.tree_.apply(inputs), 0]
        if trees in sizes:
            by_size.append(total / trees)
    return np.stack(by_size)
