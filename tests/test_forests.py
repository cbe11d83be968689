"""Forests and their first trees against scikit-learn, bit for bit; walk-forward folds."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier

from candlecast.errors import NotEnoughDataError
from candlecast.models import forests
from candlecast.models.estimators import fit, make_estimators, predict
from candlecast.models.forests import (
    GRID,
    PARALLEL_ROWS,
    _grid_steps,
    features,
    first_trees,
    in_order,
    predict_sizes,
    round_down,
)
from candlecast.models.selection import walk_forward

SEED, LEAF, MOST, SIZES = 4284, 0.1, 100_000, [5, 10, 40]


def windows(sessions: int, tickers: str = "AB", seed: int = 1) -> pd.DataFrame:
    """Random windows of four lags, one row per ticker and session."""
    random = np.random.default_rng(seed)
    rows = pd.MultiIndex.from_product(
        [pd.date_range("2020-01-01", periods=sessions), list(tickers)], names=["session", "ticker"]
    ).to_frame(index=False)
    lags = random.normal(0, 0.02, (len(rows), 4)).astype(np.float32)
    return rows.assign(
        up=random.integers(0, 2, len(rows)).astype(np.int8),
        **{f"lag_{lag:02d}": lags[:, lag - 1] for lag in (1, 2, 3, 4)},
    )


def fit_forest(frame: pd.DataFrame, trees: int, leaf: float, seed: int) -> RandomForestClassifier:
    [forest] = make_estimators([f"forest_{trees}"], leaf, MOST, seed).values()
    return fit(forest, frame)


def separate(frame: pd.DataFrame, trees: int, n_jobs: int) -> RandomForestClassifier:
    """A forest of this size, by scikit-learn alone."""
    frame = frame.sort_values(["session", "ticker"])
    forest = RandomForestClassifier(
        n_estimators=trees, min_weight_fraction_leaf=LEAF, random_state=SEED, n_jobs=n_jobs
    )
    lags = frame[["lag_01", "lag_02", "lag_03", "lag_04"]]
    # Threads fit, and one predicts: sums by several differ in the last bit.
    return forest.fit(lags, frame["up"].astype(int)).set_params(n_jobs=1)


def arrays(forest: RandomForestClassifier) -> list[np.ndarray]:
    """Everything that the trees of a forest hold."""
    return [
        getattr(tree.tree_, name)
        for tree in forest.estimators_
        for name in (
            *("children_left", "children_right", "feature", "threshold", "impurity"),
            *("value", "n_node_samples", "weighted_n_node_samples"),
        )
    ]


def assert_same(forest: RandomForestClassifier, other: RandomForestClassifier) -> None:
    assert len(forest.estimators_) == len(other.estimators_) == forest.n_estimators
    for mine, theirs in zip(arrays(forest), arrays(other), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for tree, other_tree in zip(forest.estimators_, other.estimators_, strict=True):
        assert tree.n_classes_ == other_tree.n_classes_
        np.testing.assert_array_equal(tree.classes_, other_tree.classes_)


# --- Bit for bit ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [1, -1])
@pytest.mark.parametrize("size", SIZES)
def test_first_trees_are_the_small_forest_to_the_bit(size, n_jobs):
    train, test = windows(200), windows(60, seed=2)
    small = first_trees(fit_forest(train, max(SIZES), LEAF, SEED), size)
    alone = separate(train, size, n_jobs)
    assert_same(small, alone)
    assert len({id(tree.classes_) for tree in small.estimators_}) == 1  # skops writes it once
    np.testing.assert_array_equal(
        small.predict_proba(features(test)), alone.predict_proba(features(test))
    )


def test_first_trees_are_the_small_forest_in_parallel(monkeypatch):
    train = windows(150)
    monkeypatch.setattr(forests, "PARALLEL_ROWS", 100)
    parallel = fit_forest(train, 20, LEAF, SEED)
    monkeypatch.setattr(forests, "PARALLEL_ROWS", 10_000)
    assert_same(parallel, fit_forest(train, 20, LEAF, SEED))
    assert_same(first_trees(parallel, 7), separate(train, 7, 1))
    assert parallel.n_estimators == len(parallel.estimators_) == 20  # unchanged by the cut
    assert parallel.n_jobs == 1  # it predicts on one thread: every time the same bits


@pytest.mark.parametrize("sessions", [1, 60, PARALLEL_ROWS // 2, PARALLEL_ROWS // 2 + 13])
def test_predictions_of_all_sizes_equal_predict_proba_to_the_bit(sessions):
    train, test = windows(200), windows(sessions, seed=2)
    forest = fit_forest(train, max(SIZES), LEAF, SEED)
    by_size = predict_sizes(forest, test, SIZES)
    assert list(by_size) == SIZES
    for size, probability in by_size.items():
        alone = separate(train, size, 1)
        np.testing.assert_array_equal(probability, alone.predict_proba(features(test))[:, 1])


@pytest.mark.parametrize("only", [None, 1])
@pytest.mark.parametrize("settings", [{}, {"min_samples_leaf": 0.02, "min_samples_split": 0.2}])
def test_trees_that_draw_a_part_are_those_of_scikit_learn_on_the_grid(only, settings):
    train = windows(400).assign(lag_04=np.float32(3), lag_05=np.float32(range(800)) % 5)
    if only is not None:
        train["up"] = np.int8(only)
    [forest] = make_estimators([{"class": "forest_12", **settings}], LEAF, 300, SEED).values()
    sampled = fit(forest, train)
    inputs = features(train)
    values = inputs.to_numpy()
    low, high = np.quantile(values, [0.25, 0.75], axis=0)
    steps = _grid_steps(values)
    assert steps[3] == 0  # a constant
    parts = ((high - low) / np.where(steps, steps, 1))[[0, 1, 2, 4]]
    assert np.all((parts >= GRID) & (parts < 2 * GRID))
    rounded = pd.DataFrame(round_down(values, steps), columns=inputs.columns)
    assert rounded["lag_04"].eq(3).all() and rounded["lag_05"].tolist() == train["lag_05"].tolist()
    alone = RandomForestClassifier(
        12, min_weight_fraction_leaf=LEAF, random_state=SEED, max_samples=300, **settings
    ).fit(rounded, train["up"].astype(int))
    assert_same(sampled, alone)
    np.testing.assert_array_equal(sampled.estimators_samples_, alone.estimators_samples_)
    for tree in sampled.estimators_:  # rounding moves no row that it was fitted on to another leaf
        drawn = np.random.RandomState(tree.random_state).randint(0, 800, 300, dtype=np.int32)
        leaves = [tree.apply(rows.to_numpy()[drawn]) for rows in (inputs, rounded)]
        np.testing.assert_array_equal(*leaves)
    np.testing.assert_array_equal(
        predict(sampled, train), alone.predict_proba(inputs) @ (alone.classes_ == 1)
    )


@pytest.mark.parametrize("most", [100, 1000])
@pytest.mark.parametrize("kind", ["forest_5", "logistic", "boosting"])
def test_some_rows_are_fitted_on_as_if_they_were_all(kind, most):
    train = windows(200)
    rows = np.flatnonzero(np.random.default_rng(2).random(len(train)) < 0.6)
    [estimator] = make_estimators([kind], LEAF, most, SEED).values()
    part = predict(fit(estimator, train.sample(frac=1, random_state=1), rows), train)
    np.testing.assert_array_equal(part, predict(fit(estimator, train.iloc[rows]), train))
    assert (part != predict(fit(estimator, train), train)).any()


@pytest.mark.parametrize("most", [400, 401])
def test_trees_that_may_draw_all_rows_are_those_without_a_limit(most):
    train = windows(200)
    [forest] = make_estimators(["forest_5"], LEAF, most, SEED).values()
    assert_same(fit(forest, train), separate(train, 5, 1))
    assert fit(forest, train).max_samples is None


@pytest.mark.parametrize(
    "settings",
    [
        {"class_weight": "balanced", "max_samples": 100},
        {"max_samples": 0.5},
        {"oob_score": True, "max_samples": 100, "n_estimators": 40},
        {"bootstrap": False, "max_features": 1},
        {"max_depth": 3, "criterion": "entropy", "max_features": None, "ccp_alpha": 0.001},
        {"max_leaf_nodes": 5, "monotonic_cst": [1, 0, 0, -1]},
    ],
)
def test_a_forest_of_any_settings_is_that_of_scikit_learn(settings):
    train = windows(200)
    forest = RandomForestClassifier(**{"n_estimators": 5, "random_state": SEED, **settings})
    alone = clone(forest).fit(features(train), train["up"].astype(int))
    fitted = fit(forest, train)
    assert_same(fitted, alone)
    assert getattr(fitted, "oob_score_", None) == getattr(alone, "oob_score_", None)


@pytest.mark.parametrize("only", [0, 1])
def test_predictions_of_a_forest_with_one_class(only):
    train, test = windows(50).assign(up=np.int8(only)), windows(9, seed=2)
    forest = fit_forest(train, 10, LEAF, SEED)
    assert forest.predict_proba(features(test)).tolist() == [[1.0]] * 18
    for probability in predict_sizes(forest, test, [5, 10]).values():
        assert probability.tolist() == [float(only)] * 18


def test_more_trees_than_there_are_is_an_error():
    forest = fit_forest(windows(50), 10, LEAF, SEED)
    with pytest.raises(ValueError, match="shorter"):
        predict_sizes(forest, windows(9), [5, 20])


def test_order_of_rows_changes_nothing_nor_that_of_columns_a_prediction():
    train, test = windows(200), windows(60, seed=2)
    shuffled = train.sample(frac=1, random_state=3)
    forest, again = fit_forest(train, 10, LEAF, SEED), fit_forest(shuffled, 10, LEAF, SEED)
    assert_same(forest, again)
    mixed = test.sample(frac=1, random_state=4)[[*test.columns[::-1]]]
    np.testing.assert_array_equal(predict(again, mixed), predict(forest, test)[mixed.index])


def test_seed_leaf_and_kind_of_the_forest():
    forest = fit_forest(windows(100), 3, 0.2, 7)
    assert (forest.criterion, forest.bootstrap, forest.random_state) == ("gini", True, 7)
    assert forest.min_weight_fraction_leaf == 0.2
    assert forest.n_jobs == 1
    assert list(forest.feature_names_in_) == ["lag_01", "lag_02", "lag_03", "lag_04"]
    smallest = min(
        tree.tree_.weighted_n_node_samples[tree.tree_.children_left == -1].min()
        for tree in forest.estimators_
    )
    assert smallest >= 0.2 * 200


def test_features_are_named_columns_newest_first():
    frame = windows(2)
    lags = features(frame)
    assert list(lags) == ["lag_01", "lag_02", "lag_03", "lag_04"]
    assert set(lags.dtypes) == {np.dtype("float32")}
    assert lags["lag_03"].tolist() == frame["lag_03"].tolist()


# --- Walk-forward folds ---------------------------------------------------------------------------

DAILY = list(range(1, 15))  # two weeks from a Monday
WEEKDAYS = [1, 2, 3, 4, 5, 8, 9, 10, 11, 12]


def two_tickers() -> pd.DataFrame:
    rows = [("DAILY", number) for number in DAILY] + [("WEEKDAYS", number) for number in WEEKDAYS]
    frame = pd.DataFrame(rows, columns=["ticker", "number"])
    return frame.assign(session=pd.Timestamp("2023-12-31") + pd.to_timedelta(frame["number"], "D"))


def folds_of(frame: pd.DataFrame, folds: int, purge: int) -> list[list[pd.DataFrame]]:
    """The rows that each fold trains on and those that it validates."""
    frame = in_order(frame)
    return [[frame.iloc[rows] for rows in fold] for fold in walk_forward(frame, folds, purge)]


def days(frame: pd.DataFrame) -> dict[str, list[int]]:
    return {str(name): group["number"].tolist() for name, group in frame.groupby("ticker")}


def test_folds_written_out():
    folds = [(days(past), days(validated)) for past, validated in folds_of(two_tickers(), 5, 1)]
    # 14 dates: five blocks of two, and four before the first. Each ticker leaves out one session.
    assert folds == [
        ({"DAILY": [1, 2, 3], "WEEKDAYS": [1, 2, 3]}, {"DAILY": [5, 6], "WEEKDAYS": [5]}),
        ({"DAILY": [*range(1, 6)], "WEEKDAYS": [1, 2, 3, 4]}, {"DAILY": [7, 8], "WEEKDAYS": [8]}),
        (
            {"DAILY": [*range(1, 8)], "WEEKDAYS": [1, 2, 3, 4, 5]},
            {"DAILY": [9, 10], "WEEKDAYS": [9, 10]},
        ),
        (
            {"DAILY": [*range(1, 10)], "WEEKDAYS": [1, 2, 3, 4, 5, 8, 9]},
            {"DAILY": [11, 12], "WEEKDAYS": [11, 12]},
        ),
        (
            {"DAILY": [*range(1, 12)], "WEEKDAYS": [1, 2, 3, 4, 5, 8, 9, 10, 11]},
            {"DAILY": [13, 14]},
        ),
    ]


@pytest.mark.parametrize(("folds", "purge"), [(5, 0), (5, 3), (7, 2)])
def test_folds_expand_and_are_purged(folds, purge):
    frame = windows(60, "ABC").query("ticker != 'B' or session.dt.dayofweek < 5")
    shuffled = frame.sample(frac=1, random_state=1)
    made = folds_of(shuffled, folds, purge)
    assert len(made) == folds
    validated = [part["session"].unique() for _, part in made]
    assert len({len(dates) for dates in validated}) == 1
    assert len(np.unique(np.concatenate(validated))) == sum(len(dates) for dates in validated)
    before = 0
    for past, part in made:
        assert len(past) > before
        before = len(past)
        first = part["session"].min()
        for name, rows in frame.groupby("ticker"):
            latest = past.loc[past["ticker"] == name, "session"].max()
            assert rows["session"].between(latest, first, inclusive="neither").sum() == purge
        dates = frame["session"].between(first, part["session"].max())
        assert len(part) == dates.sum()  # all rows of a date, whatever the ticker
    assert validated[-1].max() == frame["session"].max()


@pytest.mark.parametrize(("sessions", "purge"), [(5, 0), (18, 3)])
def test_fault_20_too_few_dates_for_the_folds(sessions, purge):
    facts = rf"has {sessions} session dates .* 5 walk-forward folds with a purge of {purge}\."
    with pytest.raises(NotEnoughDataError, match=facts):
        list(walk_forward(windows(sessions), 5, purge))
