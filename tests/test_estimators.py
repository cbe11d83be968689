"""Estimators by name, class and settings: made, fitted, predicted with, stored and loaded."""

import json

import mlflow
import numpy as np
import pytest
from kedro.io import DatasetError
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from candlecast.io.tracking import ModelDataset
from candlecast.models.baselines import fit_logistic
from candlecast.models.estimators import (
    as_input,
    fit,
    fit_all,
    make_estimators,
    predict,
    predict_all,
)
from candlecast.models.forests import features
from candlecast.registry.datasets import ChampionDataset
from conftest import SMALL, register
from reports import Model, predicted, windows_of
from test_forests import LEAF, MOST, SEED, windows

NAIVE, FEW_TREES = "sklearn.naive_bayes.GaussianNB", {"class": "forest_9", "max_features": 1}
KINDS = ["forest_20", "logistic", "boosting", "forest_5", NAIVE, FEW_TREES]
TRAIN, TEST = windows(200), windows(60, seed=2)
LAGS = ["lag_01", "lag_02", "lag_03", "lag_04"]


def test_estimators_in_the_given_order_with_settings_and_seed():
    items = ["boosting", {"class": "boosting", "max_iter": 7, "name": "short"}, NAIVE, FEW_TREES]
    made = make_estimators(
        [*items, {"class": "forest_3", "random_state": 1, "name": "x"}], 0.2, MOST, 9
    )
    assert list(made) == ["boosting", "short", "GaussianNB", "forest_9", "x"]
    assert [made[name].max_iter for name in ("boosting", "short")] == [100, 7]
    assert isinstance(made["GaussianNB"], GaussianNB)
    forest = made["forest_9"]
    assert (forest.n_estimators, forest.max_features) == (9, 1)
    assert forest.min_weight_fraction_leaf == 0.2
    seeds = {name: made[name].random_state for name in made if name != "GaussianNB"}
    assert seeds == {"boosting": 9, "short": 9, "forest_9": 9, "x": 1}


def test_every_kind_predicts_as_scikit_learn_does():
    """Forests to the bit in float32, the others to the bit in float64."""
    rows = TRAIN.sort_values(["session", "ticker"])
    alone = {
        "forest_20": RandomForestClassifier(20, min_weight_fraction_leaf=LEAF, random_state=SEED),
        "logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "boosting": HistGradientBoostingClassifier(random_state=SEED),
        "forest_5": RandomForestClassifier(5, min_weight_fraction_leaf=LEAF, random_state=SEED),
        "GaussianNB": GaussianNB(),
        "forest_9": RandomForestClassifier(
            9, min_weight_fraction_leaf=LEAF, random_state=SEED, max_features=1
        ),
    }
    shuffled = TRAIN.sample(frac=1, random_state=3)
    models = fit_all(make_estimators(KINDS, LEAF, MOST, SEED), shuffled)
    probabilities = predict_all(models, TEST[[*TEST.columns[::-1]]])
    assert list(models) == list(probabilities) == list(alone)
    for name, estimator in alone.items():
        kind = np.float32 if name.startswith("forest") else np.float64
        with threadpool_limits(1):  # see `candlecast.models.estimators.one_thread`
            estimator.fit(rows[LAGS].astype(kind), rows["up"])
        expected = estimator.predict_proba(TEST[LAGS].astype(kind))[:, 1]
        np.testing.assert_array_equal(probabilities[name], expected)
    few, many, other = (models[f"forest_{trees}"].estimators_ for trees in (5, 20, 9))
    assert few[0] is many[0]  # one fit for both
    assert few[0] is not other[0]
    baseline = fit_logistic(shuffled)
    np.testing.assert_array_equal(probabilities["logistic"], predict(baseline, TEST))


def test_no_row_has_no_prediction_of_any_kind():
    models = fit_all(make_estimators(KINDS, LEAF, MOST, SEED), TRAIN)
    none = predict_all(models, TEST.head(0))
    assert [(name, len(values)) for name, values in none.items()] == [(name, 0) for name in models]


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_in_training_is_predicted_always(only):
    models = fit_all(make_estimators(KINDS, LEAF, MOST, SEED), TRAIN.assign(up=np.int8(only)))
    for probability in predict_all(models, TEST).values():
        assert probability.tolist() == [float(only)] * len(TEST)


# --- Stored and loaded ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["forest_20", "logistic", "boosting"])
def test_a_model_loads_to_equal_bits_in_each_way(kind, tmp_path):
    [estimator] = make_estimators([kind], LEAF, MOST, SEED).values()
    model = fit(estimator, TRAIN)
    inputs = as_input(model, features(TEST))
    expected = model.predict_proba(inputs)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.create_experiment("e", artifact_location=str(tmp_path / "artifacts"))
    mlflow.set_experiment("e")
    dataset = ModelDataset()
    with mlflow.start_run(tags={"candidate": "c"}) as run:
        dataset.save((model, inputs.head(5), {"estimator": kind}))
        loaded = dataset.load()
        [output] = mlflow.get_run(run.info.run_id).outputs.model_outputs
    np.testing.assert_array_equal(loaded.predict_proba(inputs), expected)
    served = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    np.testing.assert_array_equal(served.predict(inputs), expected)
    assert served.metadata.metadata == {"estimator": kind}


def test_a_model_with_types_of_another_package_is_not_stored(tmp_path):
    with pytest.raises(DatasetError, match="types reports"):
        ModelDataset().save((Model(), windows_of(predicted([1, 0], [0.6, 0.4])), {}))


# --- The whole way --------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_kind_is_registered_compared_forecast_with_and_served(stored, run):
    """The champion is a forest, then a logistic regression, then boosting."""
    for version, kind in enumerate(["logistic", "boosting"], start=2):
        parameters = {**SMALL, "estimators": [kind]}
        run(tags=["train", "evaluate"], candidate=kind, **parameters)
        metrics = json.loads((stored / "reporting/metrics.json").read_text())
        assert metrics["champion.version"] == version - 1
        register(run, kind)
        run(pipeline_names=["forecast"], **parameters)
        champion = ChampionDataset(model_name="candlecast").load()
        assert (champion.version, champion.candidate, champion.estimator) == (version, kind, kind)
        record = json.loads((stored / "reporting/track_record.json").read_text())
        assert record["champion"]["estimator"] == kind
        assert record["forecasts"]["late"] == len(SMALL["tickers"])  # of 2013
        served = mlflow.pyfunc.load_model("models:/candlecast@champion")
        example = served.input_example
        np.testing.assert_array_equal(
            served.predict(example), champion.model.predict_proba(example)
        )
