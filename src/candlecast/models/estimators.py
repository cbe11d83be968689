"""Estimators: scikit-learn classifiers by name or class, fitted on windows, and their predictions.

scikit-learn draws the seeds of a forest's trees one after the other from ``random_state``, so a
forest of 50 trees is, bit for bit, the first 50 trees of the forest of 1000 with the same settings.
One fit gives every size, and one pass over its trees gives the predictions of every size.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import skops.io
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from candlecast.models.forests import (
    Floats,
    Rows,
    as_type,
    blocks,
    count_threads,
    features,
    first_trees,
    fit_forest,
    in_order,
    predict_matrix,
    predict_sizes,
)
from candlecast.progress import progress

TRUSTED = ("numpy.", "scipy.", "sklearn.")
"""Packages whose types may be part of a model, as whoever loads it has them."""

COLUMNS = ("session", "base_rate")
"""Columns beside those of the estimators in the table of validation losses."""


def make_logistic() -> Pipeline:
    """Return a logistic regression on standardized features."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


NAMED = {"logistic": make_logistic, "boosting": HistGradientBoostingClassifier}
"""Estimators with a short name, beside ``forest_<trees>``."""


def make_estimators(
    items: Sequence[str | Mapping[str, Any]],
    min_weight_fraction_leaf: float,
    max_samples: int,
    seed: int,
) -> dict[str, Any]:
    """Return the estimators that a parameter names, not fitted, in its order.

    >>> list(make_estimators(["forest_50", "sklearn.naive_bayes.GaussianNB"], 0.1, 1000, seed=1))
    ['forest_50', 'GaussianNB']

    Args:
        items: each a name (``forest_<trees>`` or a key of `NAMED`), the path of a class, or a
            mapping with one of them as ``class``, settings, and optionally a ``name``.
        min_weight_fraction_leaf: of ``forest_<trees>``: smallest share of the rows in a leaf.
        max_samples: of the same: rows that a tree draws at most, see `fit`.
        seed: the ``random_state`` of estimators that have one.

    Raises:
        ValueError: an item is unknown, can't be imported, is not a classifier that predicts
            probabilities, has an unknown setting, or has the name of another one.
    """
    estimators: dict[str, Any] = {}
    for item in items:
        settings: dict[str, Any] = {"class": item} if isinstance(item, str) else dict(item)
        kind = settings.pop("class", None)
        if not isinstance(kind, str):
            raise ValueError(f"{item} has no class")
        name = str(settings.pop("name", kind.rpartition(".")[2]))
        short = name in NAMED or _trees(name) is not None
        if name in estimators:
            raise ValueError(f"two have the name {name}; give one of them another name")
        if name in COLUMNS or (short and name != kind):
            raise ValueError(f"the name {name} has another meaning; give {item} another one")
        estimator = _make(kind, min_weight_fraction_leaf, max_samples)
        known = estimator.get_params()
        for setting in sorted(settings.keys() - known.keys()):
            near = get_close_matches(setting, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
            raise ValueError(f"{kind} has no setting {setting}; {hint}")
        if "random_state" in known:
            settings.setdefault("random_state", seed)
        estimators[name] = estimator.set_params(**settings)
        if not hasattr(estimator, "predict_proba"):
            raise ValueError(f"{name} does not predict probabilities (predict_proba)")
    return estimators


def _trees(name: str) -> int | None:
    found = re.fullmatch(r"forest_([1-9]\d*)", name)
    return int(found[1]) if found else None


def _make(kind: str, min_weight_fraction_leaf: float, max_samples: int) -> Any:
    """Return an estimator of a kind: a short name, or the path of a class."""
    if kind in NAMED:
        return NAMED[kind]()
    if trees := _trees(kind):
        return RandomForestClassifier(
            trees, min_weight_fraction_leaf=min_weight_fraction_leaf, max_samples=max_samples
        )
    module, _, name = kind.rpartition(".")
    if not module:
        near = get_close_matches(kind, ["forest_100", *NAMED], n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        names = ", ".join(NAMED)
        raise ValueError(f"{kind} is neither forest_<trees>, {names} nor a class's path{hint}")
    try:
        found = getattr(import_module(module), name)
        if isinstance(found, type) and issubclass(found, BaseEstimator):
            estimator = found()
            if is_classifier(estimator):
                return estimator
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"{kind} can't be made: {error}") from None
    raise ValueError(f"{kind} is not a scikit-learn classifier")


def try_out(name: str, estimator: Any) -> None:
    """Fit an estimator on a few random rows: a wrong setting fails at once, not after hours.

    Raises:
        ValueError: it can't be fitted, or its model can't be stored (see `trusted_types`).
    """
    trusted_types(estimator)  # before a foreign class is used
    random = np.random.default_rng(0)
    inputs = pd.DataFrame(random.normal(size=(60, 3)), columns=["a", "b", "c"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of random rows
        try:
            with one_thread():
                model = clone(estimator).fit(inputs, np.tile([0, 1], 30))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} can't be fitted: {error}") from None
    trusted_types(model)


def trusted_types(model: Any) -> list[str]:
    """Return the types that skops must be allowed to load, for a model to be loaded again.

    Raises:
        ValueError: some are of other packages than numpy, scipy and scikit-learn.
    """
    if isinstance(model, RandomForestClassifier) and hasattr(model, "estimators_"):
        model = first_trees(model, 1)  # each tree has the same types
    types: list[str] = skops.io.get_untrusted_types(data=skops.io.dumps(model))
    if foreign := [name for name in types if not name.startswith(TRUSTED)]:
        raise ValueError(
            f"a model with the types {', '.join(foreign)} is not stored: whoever loads it would "
            "run code that is not of numpy, scipy or scikit-learn"
        )
    return types


def as_input(estimator: Any, inputs: pd.DataFrame) -> pd.DataFrame:
    """Return features as an estimator computes with them: forests in float32, others in float64."""
    forest = isinstance(estimator, RandomForestClassifier)
    return as_type(inputs, np.float32 if forest else np.float64)


def one_thread() -> threadpool_limits:
    """Keep OpenMP, which boosting uses, to one thread while the returned context is open.

    Its threads wait for one another: two on two cores that others use as well took 16 s for a fit
    of 9,000 rows, one took 0.2 s.
    """
    return threadpool_limits(1, user_api="openmp")


def fit(estimator: Any, frame: pd.DataFrame, rows: Rows = slice(None)) -> Any:
    """Fit a copy of an estimator on windows.

    A forest is fitted on all cores if the frame is large, which changes no bit. Models predict on
    one core: threads add the votes of trees in the order in which they end, which changes the last
    bit of a probability.

    Args:
        estimator: a classifier. A forest's ``max_samples``, if it is an integer, is how many rows a
            tree draws at most: without effect unless there are more, see
            `candlecast.models.forests.fit_forest`.
        frame: windows, one row per ticker and session, in any order.
        rows: those to fit on, as positions after `frame` was sorted by session and ticker.

    Returns:
        The model, the same for the same rows and seed. If only one class occurs and the estimator
        is no forest, it is one that predicts this class always.
    """
    frame = in_order(frame)
    estimator = clone(estimator)
    inputs, up = features(frame), frame["up"].iloc[rows]
    if isinstance(estimator, RandomForestClassifier):
        most = estimator.max_samples
        if isinstance(most, int) and len(up) <= most:
            most = None
            estimator.set_params(max_samples=None)
        plain = estimator.bootstrap and estimator.class_weight is None and not estimator.oob_score
        if plain and (most is None or isinstance(most, int)):
            return fit_forest(estimator, inputs, up, rows).set_params(n_jobs=1)
        estimator.set_params(n_jobs=count_threads(len(up)))
    elif up.nunique() == 1:
        estimator = DummyClassifier()
    with one_thread():
        model = estimator.fit(as_input(estimator, inputs.iloc[rows]), up.astype(int))
    return model.set_params(n_jobs=1) if "n_jobs" in model.get_params() else model


def fit_all(
    estimators: Mapping[str, Any], frame: pd.DataFrame, rows: Rows = slice(None)
) -> dict[str, Any]:
    """Fit estimators on windows, see `fit`.

    Of forests that differ in size alone, only the largest is fitted.

    Returns:
        The models, by name. The smaller forests share the trees of the largest.
    """
    forests = {
        name: estimator
        for name, estimator in estimators.items()
        if isinstance(estimator, RandomForestClassifier)
    }
    by_size = sorted(forests.values(), key=lambda forest: forest.n_estimators)
    largest = {_settings(forest): forest for forest in by_size}
    fitted = {name: estimator for name, estimator in estimators.items() if name not in forests}
    count = len(frame["up"].iloc[rows])
    with progress(f"fit on {count:,} rows", len(largest) + len(fitted)) as begin:
        grown = {}
        for settings, forest in largest.items():
            begin(f"forest of {forest.n_estimators:,} trees")
            grown[settings] = fit(forest, frame, rows)
        for name, estimator in fitted.items():
            begin(name)
            fitted[name] = fit(estimator, frame, rows)
    return {
        name: first_trees(grown[_settings(estimator)], estimator.n_estimators)
        if name in forests
        else fitted[name]
        for name, estimator in estimators.items()
    }


def _settings(forest: RandomForestClassifier) -> str:
    """Return the settings of a forest without its size, as a key."""
    return str({**forest.get_params(), "n_estimators": None})


def predict(model: Any, frame: pd.DataFrame) -> Floats:
    """Return P(up) of each row of a windows frame; see `predict_all`."""
    return predict_all({"model": model}, frame)["model"]


def predict_all(models: Mapping[str, Any], frame: pd.DataFrame) -> dict[str, Floats]:
    """Predict with several models.

    Args:
        models: by name. Forests that share trees are predicted in one pass over them, large frames
            on all cores.
        frame: windows, one row per ticker and session, with the columns that the models name.

    Returns:
        By name, P(up) of each row, bit for bit that of ``predict_proba`` on one core; 0 if the
        model never saw an up.
    """
    if frame.empty:  # other estimators than forests refuse it
        return {name: np.zeros(0) for name in models}
    families: dict[int, list[str]] = {}
    predicted = {}
    for name, model in models.items():
        if isinstance(model, RandomForestClassifier):
            families.setdefault(id(model.estimators_[0]), []).append(name)
        else:
            names = [*model.feature_names_in_]
            parts = [predict_rows(model, part[names]) for part in blocks(frame)]
            predicted[name] = np.concatenate(parts)
    for names in families.values():
        sizes = {name: models[name].n_estimators for name in names}
        largest = models[max(names, key=sizes.__getitem__)]
        by_size = predict_sizes(largest, frame, sorted(set(sizes.values())))
        predicted |= {name: by_size[size] for name, size in sizes.items()}
    return {name: predicted[name] for name in models}


def predict_rows(model: Any, inputs: pd.DataFrame) -> Floats:
    """Return P(up) of each row, computed on this thread.

    Args:
        model: fitted on columns of these names.
        inputs: the model's input columns, in its order, as float32 holds them.
    """
    inputs = as_input(model, as_type(inputs, np.float32))
    if isinstance(model, RandomForestClassifier):
        [probability] = predict_matrix(model, inputs.to_numpy(), [model.n_estimators])
    else:
        with one_thread():
            probability = model.predict_proba(inputs) @ (model.classes_ == 1)
    return np.asarray(probability)
