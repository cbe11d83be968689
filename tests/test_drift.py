"""Drift: written-out indices, what chance explains, and what is called drift."""

import math

import numpy as np
import pandas as pd
import pytest

from candlecast.evaluation.drift import bin_shares, make_profile, measure_drift, psi
from candlecast.parameters import Monitoring

MONITORING = Monitoring(max_psi=0.25, max_share_up_shift=0.1, min_sessions=20, grace_minutes=60)


def windows(sessions: int, tickers: int = 1, scale: float = 1.0, seed: int = 1, up: float = 0.5):
    """Windows of two lags; tickers of one date share half of their variance."""
    random = np.random.default_rng(seed)
    dates = pd.bdate_range("2020-01-01", periods=sessions)

    def lag() -> np.ndarray:
        common, own = random.normal(size=(sessions, 1)), random.normal(size=(sessions, tickers))
        return (0.02 * scale * (common + own) / math.sqrt(2)).ravel().astype(np.float32)

    return pd.DataFrame(
        {"session": np.repeat(dates, tickers), "lag_01": lag(), "lag_02": lag()}
    ).assign(up=(random.random(sessions * tickers) < up).astype(np.int8))


def test_a_profile_has_bins_of_equal_count_and_the_share_of_ups():
    train = pd.DataFrame({"lag_01": np.arange(20.0), "up": [1, 0, 0, 0] * 5})
    profile = make_profile(train)
    assert profile["rows"] == 20
    assert profile["share_up"] == 0.25
    assert profile["features"]["lag_01"]["shares"] == [0.1] * 10
    assert profile["features"]["lag_01"]["edges"] == pytest.approx([2, 4, 6, 8, 10, 12, 14, 16, 18])


def test_equal_values_share_a_bin():
    profile = make_profile(pd.DataFrame({"lag_01": [0.0] * 9 + [1.0], "up": [1] * 10}))
    lag = profile["features"]["lag_01"]
    assert sum(lag["shares"]) == pytest.approx(1)
    assert len(lag["shares"]) == len(lag["edges"]) + 1 < 10
    assert bin_shares(pd.Series([0.0, 1.0]), [0.5]) == [0.5, 0.5]


def test_few_values_have_a_bin_each():
    """The weekday: no bin is empty in training, so none makes an index of its own."""
    days = np.float32(np.tile([0, 1, 2, 3, 4], 200))
    train = pd.DataFrame(
        {"weekday": days, "up": 1, "session": pd.bdate_range("2020", periods=1000)}
    )
    profile = make_profile(train)
    assert profile["features"]["weekday"] == {"edges": [1, 2, 3, 4], "shares": [0.2] * 5}
    assert measure_drift(profile, train.head(50), MONITORING)["features"] == [
        {"name": "weekday", "psi": pytest.approx(0, abs=1e-3), "drifted": False}
    ]
    constant = make_profile(train.assign(weekday=np.float32(2)))
    assert constant["features"]["weekday"] == {"edges": [], "shares": [1.0]}
    assert measure_drift(constant, train.head(50), MONITORING)["features"][0]["psi"] == 0


def test_the_index_written_out():
    assert psi([0.25] * 4, [0.25] * 4) == 0
    expected = 0.2 * math.log(0.7 / 0.5) + -0.2 * math.log(0.3 / 0.5)
    assert psi([0.5, 0.5], [0.7, 0.3]) == pytest.approx(expected, rel=1e-12)
    assert psi([0.7, 0.3], [0.5, 0.5]) == pytest.approx(expected, rel=1e-12)


def test_drift_worked_out_by_hand():
    """Two bins, 40 rows of training; two dates with three rows each, five in the upper bin."""
    profile = {
        "rows": 40,
        "share_up": 0.5,
        "features": {"lag_01": {"edges": [0.0], "shares": [0.5, 0.5]}},
    }
    days = pd.to_datetime(["2024-01-02", "2024-01-02", "2024-01-03"] * 2)
    now = pd.DataFrame(
        {"session": days, "lag_01": [1.0, 1.0, 1.0, 1.0, 1.0, -1.0], "up": [1, 1, 1, 1, 1, 0]}
    )
    found = measure_drift(profile, now, MONITORING)
    # Half a row more in each bin: 5.5 and 1.5 of 7.
    index = (5.5 / 7 - 0.5) * math.log(2 * 5.5 / 7) + (1.5 / 7 - 0.5) * math.log(2 * 1.5 / 7)
    noise = 1 / 2 + 1 / 40
    assert found == {
        "sessions": 2,
        "rows": 6,
        "first_session": "2024-01-02",
        "last_session": "2024-01-03",
        "max_psi": 0.25,
        "psi_chance": pytest.approx(10.827566170662733 * noise),  # chi-squared, 1 degree, 99.9 %
        "features": [{"name": "lag_01", "psi": pytest.approx(index), "drifted": False}],
        "share_up": 5 / 6,
        "share_up_trained": 0.5,
        "share_up_chance": pytest.approx(3.2905267314919255 * math.sqrt(0.25 * noise)),
        "max_share_up_shift": 0.1,
        "share_up_drifted": False,
    }


def test_an_empty_bin_gives_a_number():
    profile = make_profile(windows(400))
    now = windows(60, scale=0.01, seed=2)
    indices = [lag["psi"] for lag in measure_drift(profile, now, MONITORING)["features"]]
    assert all(math.isfinite(index) and index > 1 for index in indices)


def test_without_a_row_nothing_is_measured():
    found = measure_drift(make_profile(windows(50)), windows(0), MONITORING)
    assert found == {"sessions": 0, "rows": 0}


@pytest.mark.parametrize(("scale", "drifted"), [(1.0, False), (2.0, True), (0.4, True)])
def test_a_changed_width_is_drift_and_the_same_is_not(scale, drifted):
    found = measure_drift(
        make_profile(windows(2500)), windows(250, scale=scale, seed=3), MONITORING
    )
    assert [lag["drifted"] for lag in found["features"]] == [drifted, drifted]


@pytest.mark.parametrize(("up", "drifted"), [(0.5, False), (0.55, False), (0.75, True)])
def test_a_share_of_ups_shifts(up, drifted):
    found = measure_drift(make_profile(windows(2500)), windows(500, seed=3, up=up), MONITORING)
    assert found["share_up_drifted"] is drifted


@pytest.mark.parametrize("sessions", [20, 60])
def test_tickers_that_move_together_raise_no_false_alarm(sessions):
    """Counted by rows, 20 dates of five such tickers gave one false alarm in eighty lags."""
    alarms = 0
    for seed in range(100):
        profile = make_profile(windows(1000, tickers=5, seed=1000 + seed))
        found = measure_drift(profile, windows(sessions, tickers=5, seed=seed), MONITORING)
        alarms += sum(lag["drifted"] for lag in found["features"]) + found["share_up_drifted"]
    assert alarms <= 1
