"""Validation, choice and refit of estimators, and predictions of the test set."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler

from candlecast.errors import FeatureError, LeakageError
from candlecast.evaluation.drift import make_profile
from candlecast.models.baselines import fit_logistic
from candlecast.models.estimators import fit, make_estimators
from candlecast.models.forests import features
from candlecast.models.selection import choose_estimator, walk_forward
from candlecast.pipelines.data_science.nodes import (
    collect_training,
    fit_estimators,
    predict_champion,
    predict_test,
    select_model,
    validate_estimators,
)
from candlecast.registry.entities import Champion

FORESTS, LEAF, MOST, SEED = ["forest_3", "forest_6", "forest_12"], 0.1, 100_000, 4284


def fit_forest(frame: pd.DataFrame, trees: int, leaf: float, seed: int):
    [forest] = make_estimators([f"forest_{trees}"], leaf, MOST, seed).values()
    return fit(forest, frame)


def windows(sessions: int, seed: int = 1, lags: int = 3) -> pd.DataFrame:
    """Random windows of two tickers; the second has no session on the last date."""
    random = np.random.default_rng(seed)
    dates = pd.date_range("2020-01-01", periods=sessions, name="session")
    rows = pd.MultiIndex.from_product([dates, ["A", "B"]], names=["session", "ticker"])
    frame = rows.to_frame(index=False).iloc[:-1]
    body = random.normal(0, 0.02, len(frame))
    width = max(2, len(str(lags)))
    values = random.normal(0, 0.02, (len(frame), lags)).astype(np.float32)
    names = [f"lag_{lag:0{width}d}" for lag in range(1, lags + 1)]
    outcome = {"up": (body > 0).astype(np.int8), "body": body, "return_": body}
    previous = (values[:, 0] > 0).astype(np.int8)
    return frame.assign(**outcome, previous_up=previous).join(pd.DataFrame(values, columns=names))


AUDITED = {"features": ["lag_01", "lag_02", "lag_03"]}


# --- validate_estimators --------------------------------------------------------------------------


def test_estimators_have_the_metrics_of_scikit_learn():
    train = windows(60)
    metrics, losses = validate_estimators(train, FORESTS, LEAF, MOST, SEED, folds=5, purge=2)
    assert list(metrics) == ["fold", "estimator", "log_loss", "accuracy", "roc_auc"]
    assert list(zip(metrics["fold"], metrics["estimator"], strict=True)) == [
        (fold, name) for fold in (1, 2, 3, 4, 5) for name in FORESTS
    ]
    assert list(losses) == ["session", "base_rate", *FORESTS]
    assert losses["session"].is_monotonic_increasing and losses["session"].is_unique
    losses = losses.set_index("session")
    for fold, rows in enumerate(walk_forward(train, 5, 2), start=1):
        past, part = (train.iloc[each] for each in rows)
        rows_by_date = part.groupby("session").size()
        of_fold = losses.loc[rows_by_date.index]
        base_rate = np.full(len(part), past["up"].mean())
        assert np.average(of_fold["base_rate"], weights=rows_by_date) == pytest.approx(
            log_loss(part["up"], base_rate, labels=[0, 1]), rel=1e-12
        )
        for name, forest in make_estimators(FORESTS, LEAF, MOST, SEED).items():
            alone = fit(forest, past).predict_proba(features(part))[:, 1]
            of_name = metrics[(metrics["fold"] == fold) & (metrics["estimator"] == name)]
            (row,) = of_name.to_dict("records")
            assert row["log_loss"] == log_loss(part["up"], alone)
            assert row["accuracy"] == accuracy_score(part["up"], alone > 0.5)
            assert row["roc_auc"] == roc_auc_score(part["up"], alone)
            assert np.average(of_fold[name], weights=rows_by_date) == pytest.approx(
                row["log_loss"], rel=1e-12
            )
    assert len(losses) == 50  # five folds of ten dates


def test_losses_of_certain_probabilities_are_those_of_scikit_learn():
    train = windows(24)
    early = train["session"] < train["session"].unique()[10]
    train.loc[early, "up"] = 1  # the first fold trains on ups alone: P(up) is 1
    metrics, losses = validate_estimators(train, ["forest_3"], LEAF, MOST, SEED, folds=2, purge=0)
    past, part = (train.iloc[each] for each in next(walk_forward(train, 2, 0)))
    assert past["up"].all() and not part["up"].all()
    certain = log_loss(part["up"], np.ones(len(part)), labels=[0, 1])
    assert metrics["log_loss"][0] == certain
    of_fold = losses[losses["session"].isin(part["session"])]
    assert of_fold["forest_3"].tolist() == of_fold["base_rate"].tolist()
    assert of_fold["forest_3"].mean() == pytest.approx(certain, rel=1e-12)


def test_fault_21_one_class_in_a_fold_has_no_roc_auc():
    train = windows(60)
    train.loc[train["session"] >= train["session"].unique()[50], "up"] = 0
    metrics, losses = validate_estimators(train, FORESTS, LEAF, MOST, SEED, folds=5, purge=2)
    assert metrics["roc_auc"].isna().tolist() == [False] * 12 + [True] * 3
    assert metrics[["log_loss", "accuracy"]].notna().all(axis=None)
    assert losses.notna().all(axis=None)
    table, _ = choose_estimator(metrics, dict.fromkeys(FORESTS, 0.5))
    assert table[0]["roc_auc"] == pytest.approx(metrics["roc_auc"][0:12:3].mean())


def test_the_order_of_rows_changes_no_bit():
    train, test = windows(60), windows(9, seed=2)
    shuffled, test_shuffled = (part.sample(frac=1, random_state=1) for part in (train, test))
    for frame, again in zip(
        validate_estimators(train, FORESTS, LEAF, MOST, SEED, 5, 2),
        validate_estimators(shuffled, FORESTS, LEAF, MOST, SEED, 5, 2),
        strict=True,
    ):
        pd.testing.assert_frame_equal(frame, again, check_exact=True)
    fitted, training_f1 = fit_estimators(train, FORESTS, LEAF, MOST, SEED)
    fitted_again, training_f1_again = fit_estimators(shuffled, FORESTS, LEAF, MOST, SEED)
    assert training_f1 == training_f1_again
    (model, example, facts), (model_again, example_again, facts_again) = (
        select_model(models, "forest_6", rows, rows, 3, "return", ["lags"], AUDITED)
        for models, rows in ((fitted, train), (fitted_again, shuffled))
    )
    pd.testing.assert_frame_equal(example, example_again)
    assert facts == facts_again
    pd.testing.assert_frame_equal(
        predict_beside_baselines(model, train, test),
        predict_beside_baselines(model_again, shuffled, test_shuffled),
        check_exact=True,
    )


# --- choose_estimator -----------------------------------------------------------------------------


def fold_metrics(losses: dict[str, list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"fold": fold, "estimator": name, "log_loss": loss, "accuracy": 0.5, "roc_auc": np.nan}
            for name, by_fold in losses.items()
            for fold, loss in enumerate(by_fold, start=1)
        ]
    )


def test_choice_by_one_standard_error_written_out():
    losses = {
        "simple": [0.72, 0.74, 0.76],  # 0.74: outside
        "logistic": [0.69, 0.71, 0.73],  # 0.71: within 0.70 + 0.0115
        "forest_200": [0.68, 0.70, 0.72],  # 0.70: the best
        "boosting": [0.705, 0.705, 0.705],
    }
    training_f1 = dict(zip(losses, (0.90, 0.93, 0.95, 0.95), strict=True))
    table, chosen = choose_estimator(fold_metrics(losses), training_f1)
    assert chosen == "logistic"
    error = 0.02 / np.sqrt(3)  # the standard deviation of three folds 0.02 apart is 0.02
    assert table == [
        {
            "estimator": name,
            "log_loss": pytest.approx(mean),
            "accuracy": 0.5,
            "log_loss_se": pytest.approx(se, abs=1e-15),
            "training_f1": training_f1[name],
            "fold_1.log_loss": losses[name][0],
            "fold_2.log_loss": losses[name][1],
            "fold_3.log_loss": losses[name][2],
            "chosen": name == "logistic",
            "original_rule": name == "forest_200",  # the first of equals
        }
        for name, mean, se in [
            ("simple", 0.74, error),
            ("logistic", 0.71, error),
            ("forest_200", 0.70, error),
            ("boosting", 0.705, 0.0),
        ]
    ]
    assert {type(value) for row in table for value in row.values()} == {str, float, bool}


def test_the_best_is_chosen_when_none_simpler_is_within_its_error():
    losses = {"a": [0.71, 0.73], "b": [0.70, 0.72], "c": [0.699, 0.701], "d": [0.6995, 0.7005]}
    assert choose_estimator(fold_metrics(losses), dict.fromkeys(losses, 0.5))[1] == "c"


@pytest.mark.parametrize("by_fold", [[0.7], [0.7, 0.7], [0.6, 0.8, 0.7]])
def test_fault_22_ties_go_to_the_first_one_given(by_fold):
    training_f1 = {"boosting": 0.8, "forest_100": 0.9, "forest_50": 0.9}
    table, chosen = choose_estimator(
        fold_metrics({"forest_100": by_fold, "forest_50": by_fold, "boosting": by_fold}),
        training_f1,
    )
    assert chosen == "boosting"
    assert [row["estimator"] for row in table] == ["boosting", "forest_100", "forest_50"]
    assert [row["chosen"] for row in table] == [True, False, False]
    assert [row["original_rule"] for row in table] == [False, True, False]


def test_training_f1_is_that_of_scikit_learn():
    train = windows(60)
    fitted, training_f1 = fit_estimators(train, FORESTS, LEAF, MOST, SEED)
    assert [len(forest.estimators_) for forest in fitted.values()] == [3, 6, 12]
    assert training_f1 == {
        name: f1_score(
            train["up"], forest.predict_proba(features(train))[:, 1] > 0.5, average="weighted"
        )
        for name, forest in fitted.items()
    }


def test_model_is_the_chosen_estimator_and_shows_five_rows():
    train = windows(60)
    fitted, _ = fit_estimators(train, FORESTS, LEAF, MOST, SEED)
    test = windows(80).tail(20)
    model, example, facts = select_model(
        fitted, "forest_6", train, test, 3, "return", ["lags"], AUDITED
    )
    assert model.n_estimators == len(model.estimators_) == 6
    assert model.n_jobs == 1  # so that it predicts the same bits wherever it is loaded
    pd.testing.assert_frame_equal(example, features(train.head(5)))
    assert facts == {
        "estimator": "forest_6",
        "window": 3,
        "body": "return",
        "features": ["lags"],
        "profile": make_profile(train),
        "last_trained": f"{train['session'].max():%Y-%m-%d}",
        "last_known": f"{windows(80)['session'].max():%Y-%m-%d}",
    }


@pytest.mark.parametrize(
    "audited", [["lag_01", "lag_02"], ["lag_01", "lag_03", "lag_02"], ["lag_01", "x", "lag_03"]]
)
def test_a_model_whose_inputs_were_not_audited_is_refused(audited):
    train = windows(60)
    fitted, _ = fit_estimators(train, ["forest_3"], LEAF, MOST, SEED)
    with pytest.raises(LeakageError, match=r"lag_01.*lag_03"):
        select_model(fitted, "forest_3", train, train, 3, "return", ["lags"], {"features": audited})


def predict_beside_baselines(model, train, test, champion_predictions=None):
    """What a run does between fitting and the table of test scores."""
    rows, covered = collect_training(train)
    if champion_predictions is None:
        champion_predictions = predict_champion(test, None, None)
    return predict_test(model, fit_logistic(rows), covered, test, champion_predictions)


# --- predict_test ---------------------------------------------------------------------------------

TRAIN = pd.DataFrame(
    {
        "ticker": "A",
        "session": pd.date_range("2024-01-01", periods=5),
        "lag_01": np.float32([0.25, -0.5, 0.5, -0.25, 0.25]),
        "lag_02": np.float32([0.5, 0.25, -0.5, 0.5, -0.25]),
        "up": np.int8([1, 0, 1, 0, 1]),
        "body": [0.1, -0.1, 0.1, 0.0, 0.1],
        "return_": [0.1, -0.1, 0.1, 0.0, 0.1],
        "previous_up": np.int8([1, 0, 1, 0, 1]),
    }
)
TEST = TRAIN.head(4).assign(
    session=pd.to_datetime(["2024-02-02", "2024-02-01", "2024-02-01", "2024-02-03"]),
    ticker=["A", "B", "A", "A"],
    lag_01=np.float32([-0.5, 0.25, 0.0, 0.5]),
    previous_up=np.int8([0, 1, 0, 1]),  # an unchanged day is not up
)


def test_every_baseline_written_out():
    model = fit_forest(TRAIN, 4, 0.0, SEED)
    predictions = predict_beside_baselines(model, TRAIN, TEST)
    assert predictions["champion"].isna().all() and predictions["champion_version"].isna().all()
    assert predictions.drop(
        columns=["probability", "logistic", "champion", "champion_version"]
    ).to_dict("list") == {
        "ticker": ["A", "B", "A", "A"],
        "session": list(pd.to_datetime(["2024-02-01", "2024-02-01", "2024-02-02", "2024-02-03"])),
        "body": [0.1, -0.1, 0.1, 0.0],
        "return_": [0.1, -0.1, 0.1, 0.0],
        "up": [1, 0, 1, 0],
        "always_up": [1.0] * 4,
        "majority": [1.0] * 4,
        "previous_day": [0.0, 1.0, 0.0, 1.0],
        "base_rate": [0.6] * 4,
    }
    lags = TEST.iloc[[2, 1, 0, 3]][["lag_01", "lag_02"]]
    assert predictions["probability"].tolist() == model.predict_proba(lags)[:, 1].tolist()
    scaler = StandardScaler().fit(TRAIN[["lag_01", "lag_02"]].astype(float))
    regression = LogisticRegression().fit(
        scaler.transform(TRAIN[["lag_01", "lag_02"]].astype(float)), TRAIN["up"]
    )
    assert predictions["logistic"].tolist() == pytest.approx(
        regression.predict_proba(scaler.transform(lags.astype(float)))[:, 1].tolist(), rel=1e-6
    )
    assert list(predictions) == [
        *("ticker", "session", "body", "return_", "up", "probability"),
        *("always_up", "majority", "previous_day", "base_rate", "logistic"),
        *("champion", "champion_version"),
    ]


def test_half_ups_have_the_majority_down():
    train = TRAIN.head(4)
    predictions = predict_beside_baselines(fit_forest(train, 3, 0.0, SEED), train, TEST)
    assert set(predictions["base_rate"]) == {0.5}
    assert set(predictions["majority"]) == {0.0}


@pytest.mark.parametrize("only", [0, 1])
def test_fault_21_one_class_in_training(only):
    train = TRAIN.assign(up=np.int8(only))
    predictions = predict_beside_baselines(fit_forest(train, 3, 0.0, SEED), train, TEST)
    for column in ("probability", "majority", "base_rate", "logistic"):
        assert predictions[column].tolist() == [float(only)] * 4


# --- predict_champion -----------------------------------------------------------------------------


def test_the_champion_predicts_later_sessions_from_windows_of_its_size(spark):
    days = pd.date_range("2024-01-01", periods=8)
    body = np.array([1.0, -1.0, 2.0, -2.0, 3.0, 1.0, -1.0, 2.0])
    prices = pd.DataFrame({"ticker": "A", "session": days.date, "open": 10.0, "close": 10 + body})
    other = prices.tail(3).assign(ticker="B")  # no whole window of two bodies before its last
    test = pd.concat([prices, other])[["ticker", "session"]].iloc[[7, 4, 5, 6, 9, 10]]
    test["session"] = pd.to_datetime(test["session"])
    forest = fit_forest(TRAIN, 4, 0.0, SEED)
    champion = Champion(
        version=3,
        candidate="c",
        estimator="forest_4",
        model=forest,
        columns=("lag_01", "lag_02"),
        features=["lags"],
        window=2,
        body="delta",
        profile={},
        last_trained="2024-01-06",
        last_known="2024-01-31",
        tags={},
    )
    table = spark.createDataFrame(pd.concat([prices, other]))
    predictions = predict_champion(test, champion, table)
    expected = forest.predict_proba(
        pd.DataFrame({"lag_01": [-1.0, 1.0], "lag_02": [1.0, 3.0]}, dtype=np.float32)
    )[:, 1]
    by_row = predictions.set_index(["ticker", "session"])["champion"].dropna().to_dict()
    assert by_row == {
        ("A", pd.Timestamp("2024-01-08")): expected[0],
        ("A", pd.Timestamp("2024-01-07")): expected[1],
        ("B", pd.Timestamp("2024-01-08")): forest.predict_proba(
            pd.DataFrame({"lag_01": [-1.0], "lag_02": [1.0]}, dtype=np.float32)
        )[0, 1],
    }
    assert predictions["champion_version"].tolist() == [3] * 6
    beside = predict_beside_baselines(
        forest,
        TRAIN,
        test.assign(**TEST.iloc[0][["lag_01", "lag_02", "body", "previous_up"]].to_dict()).assign(
            return_=0.1, up=1
        ),
        predictions,
    )
    assert beside["champion"].notna().sum() == 3
    with pytest.raises(FeatureError, match="lag_sum") as error:
        predict_champion(test, replace(champion, features=["lags", "lag_sum"]), table)
    assert error.value.name == "lag_sum"
    none = predict_champion(test, None, table)
    assert list(none) == ["ticker", "session", "champion", "champion_version"]
    assert len(none) == 6 and none[["champion", "champion_version"]].isna().all(axis=None)


def test_inputs_are_left_as_they_were():
    train, test = windows(40), windows(9, seed=2)
    copies = train.copy(), test.copy()
    fitted, _ = fit_estimators(train, FORESTS, LEAF, MOST, SEED)
    validate_estimators(train, FORESTS, LEAF, MOST, SEED, 3, 1)
    model, _, _ = select_model(fitted, "forest_3", train, test, 3, "return", ["lags"], AUDITED)
    predict_beside_baselines(model, train, test)
    for frame, copy in zip((train, test), copies, strict=True):
        pd.testing.assert_frame_equal(frame, copy)
