"""Permutation importance on small frames: written out, against scikit-learn, and bounded."""

import numpy as np
import pandas as pd
import pytest
from sklearn.inspection import permutation_importance
from sklearn.metrics import log_loss, roc_auc_score

from candlecast.evaluation import importance
from candlecast.evaluation.bootstrap import draw_dates, percentile_interval
from candlecast.evaluation.importance import measure_importance
from reports import EVALUATION, Model, predicted, windows_of

MODEL = Model()


def windows(sessions: int = 300, skill: float = 1.0) -> pd.DataFrame:
    """Windows of one ticker in which lag_01 has so much to do with the outcome."""
    random = np.random.default_rng(1)
    signal = random.normal(0, 1, sessions)
    up = (skill * signal + random.normal(0, 1, sessions) > 0).astype(int)
    return windows_of(predicted(up.tolist(), (1 / (1 + np.exp(-signal))).tolist()))


def test_a_useful_feature_comes_first_and_an_unused_one_is_worth_nothing():
    useful, unused = measure_importance(MODEL, windows(), EVALUATION, seed=1)
    assert (useful["feature"], unused["feature"]) == ("lag_01", "lag_02")
    for name in ("log_loss_increase", "roc_auc_decrease"):
        assert 0 < useful[f"{name}.low"] < useful[name] < useful[f"{name}.high"]
        assert [unused[f"{name}{end}"] for end in ("", ".low", ".high")] == pytest.approx([0] * 3)


def test_a_feature_without_skill_has_an_interval_that_reaches_zero():
    first, _ = measure_importance(MODEL, windows(skill=0), EVALUATION, seed=1)
    assert first["log_loss_increase.low"] < 0 or first["feature"] == "lag_02"


@pytest.mark.parametrize(
    ("scoring", "name"), [("neg_log_loss", "log_loss_increase"), ("roc_auc", "roc_auc_decrease")]
)
def test_many_shuffles_agree_with_scikit_learn(monkeypatch, scoring, name):
    monkeypatch.setattr(importance, "REPEATS", 60)
    test = windows()
    [row] = [
        row for row in measure_importance(MODEL, test, EVALUATION, 1) if row["feature"] == "lag_01"
    ]
    inputs, up = test[["lag_01", "lag_02"]], test["up"]
    theirs = permutation_importance(
        MODEL, inputs, up, scoring=scoring, n_repeats=60, random_state=1
    )
    error = theirs.importances_std[0] / np.sqrt(60)
    assert row[name] == pytest.approx(theirs.importances_mean[0], abs=4 * error)


def test_the_interval_of_the_auc_is_that_of_an_auc_computed_in_each_draw(monkeypatch):
    """The sums over dates are an approximation; here the AUC is computed from the drawn rows."""
    monkeypatch.setattr(importance, "REPEATS", 1)
    test = windows()
    [row] = [
        row for row in measure_importance(MODEL, test, EVALUATION, 1) if row["feature"] == "lag_01"
    ]
    order = np.random.default_rng(1).permutation(len(test))
    before = MODEL.predict_proba(test)[:, 1]
    both = test[["session", "up"]].assign(before=before, after=before[order])
    up = test["up"]
    assert row["roc_auc_decrease"] == pytest.approx(
        roc_auc_score(up, before) - roc_auc_score(up, before[order])
    )
    assert row["log_loss_increase"] == pytest.approx(
        log_loss(up, before[order]) - log_loss(up, before)
    )
    losses = -np.log(np.where(up == 1, both["after"], 1 - both["after"]))
    losses += np.log(np.where(up == 1, both["before"], 1 - both["before"]))
    series = pd.DataFrame({"lag_01": losses, "lag_02": 0.0})
    drawn = draw_dates(test["session"], series, EVALUATION.repetitions, 1)
    low, high = percentile_interval(drawn.roc_auc(both, "before") - drawn.roc_auc(both, "after"))
    width = high - low
    assert row["roc_auc_decrease.low"] == pytest.approx(low, abs=0.05 * width)
    assert row["roc_auc_decrease.high"] == pytest.approx(high, abs=0.05 * width)


@pytest.mark.parametrize(
    ("test", "names"),
    [
        (windows(19), ["log_loss_increase", "roc_auc_decrease"]),
        (windows(40).assign(up=1), [f"log_loss_increase{end}" for end in ("", ".high", ".low")]),
    ],
)
def test_few_sessions_have_no_interval_and_one_class_no_auc(test, names):
    rows = measure_importance(MODEL, test, EVALUATION, seed=1)
    assert [sorted(row) for row in rows] == [["feature", *names]] * 2


class Counting(Model):
    """Counts the rows that it predicts."""

    rows = 0

    def predict_proba(self, inputs: pd.DataFrame) -> np.ndarray:
        """Predict, and count."""
        self.rows += len(inputs)
        return super().predict_proba(inputs)


@pytest.mark.parametrize(
    ("limit", "rows"), [(10_000, 300 + 2 * 1500), (700, 300 + 2 * 600), (100, 100 + 2 * 100)]
)
def test_the_rows_to_predict_are_bounded_and_the_order_of_rows_changes_nothing(
    monkeypatch, limit, rows
):
    monkeypatch.setattr(importance, "MAX_ROWS", limit)
    model, test = Counting(), windows()
    found = measure_importance(model, test, EVALUATION, seed=1)
    assert model.rows == rows
    mixed = test.sample(frac=1, random_state=2)
    assert found == measure_importance(model, mixed, EVALUATION, seed=1)
