"""How often the gate passes a model, with no signal to find and with signals of known strength.

Simulates price histories of a few tickers that move together, trains a small forest on the first
80 % of the sessions, predictions the rest, and asks the gate that registration asks. `python
benchmarks/gate.py` prints the table of size (no signal) and power (a planted autocorrelation).
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import signal, stats
from sklearn.ensemble import RandomForestClassifier

from candlecast.evaluation.gate import GATE_METRICS, apply_gate
from candlecast.evaluation.metrics import compute_metrics
from candlecast.evaluation.significance import CONFIDENCE, intervals
from candlecast.parameters import Gate

WINDOW = 14
TICKERS = 3
SESSIONS = 2500
CORRELATION = 0.5
"""Of the tickers' shocks on one date."""

DRIFT = 0.05
"""Mean shock of a history without signal, in standard deviations: up on 52 % of sessions."""

STRENGTHS = (0.53, 0.55, 0.58)
"""Bayes accuracies of the planted signals."""

NOMINAL = (1 - CONFIDENCE) / 2
"""The rate at which a lower end lies above zero by chance."""

GATE = Gate(metric="accuracy", threshold=0.0, min_sessions=250, champion_margin=None)

REPETITIONS = 1000
TREES = 10
SEED = 4284

Floats = npt.NDArray[np.float64]


def autocorrelation(bayes_accuracy: float) -> float:
    """Return the coefficient of a reverting Gaussian AR(1) whose next sign is told this accurately.

    The best guess is the sign of phi times the last value. Last and next value are jointly normal
    with correlation phi, so that guess is right with probability 1/2 + arcsin(|phi|) / pi
    (Sheppard 1899): |phi| = sin(pi (accuracy - 1/2)). Phi is negative, a rise tends to be followed
    by a fall: with a positive one the previous-day baseline would be the best guess itself, and a
    gate on the accuracy over that baseline would rightly pass nobody.
    """
    return -float(np.sin(np.pi * (bayes_accuracy - 0.5)))


def autoregression(shocks: Floats, phi: float) -> Floats:
    """Return values that are `phi` times the one before plus their shock, along the first axis."""
    return np.asarray(signal.lfilter([1.0], [1.0, -phi], shocks, axis=0))


def bodies(bayes_accuracy: float, generator: np.random.Generator) -> Floats:
    """Simulate candle bodies, one row per session, one column per ticker.

    Shocks of the tickers are correlated, and their size follows a slow volatility that all share.
    The size changes no sign, so the Bayes accuracy stays what `autocorrelation` says. At 0.5 there
    is no signal, but a drift, so that always up is a baseline worth beating.
    """
    common = generator.standard_normal((SESSIONS, 1))
    own = generator.standard_normal((SESSIONS, TICKERS))
    shocks = np.sqrt(CORRELATION) * common + np.sqrt(1 - CORRELATION) * own
    values = autoregression(shocks, autocorrelation(bayes_accuracy))
    if bayes_accuracy == 0.5:
        values = values + DRIFT
    log_size = autoregression(0.1 * generator.standard_normal((SESSIONS, 1)), 0.98)
    return np.asarray(0.01 * np.exp(log_size) * values)


def predictions_of(body: Floats, seed: int) -> pd.DataFrame:
    """Train on the first 80 % of the sessions less a purge, and score the rest.

    Args:
        body: one row per session, one column per ticker.
        seed: of the forest.

    Returns:
        A predictions frame as `candlecast.metrics` takes it, one row per ticker and session.
    """
    windows = np.lib.stride_tricks.sliding_window_view(body, WINDOW, axis=0)[:-1]
    up = (body[WINDOW:] > 0).astype(np.int8)
    start = int(0.8 * len(up))
    past = up[: start - WINDOW]
    forest = RandomForestClassifier(TREES, min_weight_fraction_leaf=0.1, random_state=seed)
    forest.fit(windows[: start - WINDOW].reshape(-1, WINDOW), past.ravel())
    sessions = pd.bdate_range("2000-01-03", periods=len(up))[start:]
    return pd.DataFrame(
        {
            "ticker": np.tile([f"T{n}" for n in range(TICKERS)], len(sessions)),
            "session": np.repeat(sessions, TICKERS),
            "body": body[WINDOW:][start:].ravel(),
            "up": up[start:].ravel(),
            "probability": forest.predict_proba(windows[start:].reshape(-1, WINDOW))[:, 1],
            "always_up": 1.0,
            "majority": float(past.mean() > 0.5),
            "previous_day": (body[WINDOW - 1 : -1][start:].ravel() > 0).astype(float),
            "base_rate": past.mean(),
            "logistic": past.mean(),
        }
    )


def passes(seed: int, bayes_accuracy: float) -> dict[str, float]:
    """Simulate one history and return whether each gate passes (1 or 0), and the accuracy."""
    generator = np.random.default_rng([SEED, int(1000 * bayes_accuracy), seed])
    predictions = predictions_of(bodies(bayes_accuracy, generator), seed)
    metrics = {
        **compute_metrics(predictions),
        **intervals(predictions, repetitions=REPETITIONS, seed=seed),
    }
    passed = {
        metric: float(apply_gate(metrics, GATE.model_copy(update={"metric": metric}))["passed"])
        for metric in GATE_METRICS
    }
    return {**passed, "test_accuracy": metrics["accuracy"], "test_auc": metrics["roc_auc"]}


def workers() -> ProcessPoolExecutor:
    """Return two fresh processes; forked ones could inherit a lock from a thread of ours."""
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"))


def simulate(pool: ProcessPoolExecutor, bayes_accuracy: float, histories: int) -> pd.DataFrame:
    """Run `passes` on several histories, the same ones every time: one row per history."""
    one = partial(passes, bayes_accuracy=bayes_accuracy)
    return pd.DataFrame(pool.map(one, range(histories), chunksize=10))


def binomial_interval(passed: int, histories: int) -> tuple[float, float]:
    """Return the exact (Clopper-Pearson) 95 % interval of a rate."""
    low, high = stats.binomtest(passed, histories).proportion_ci(CONFIDENCE)
    return float(low), float(high)


def table(pool: ProcessPoolExecutor, histories: int, histories_with_signal: int) -> pd.DataFrame:
    """Return the rate at which each gate passes, one row a Bayes accuracy."""
    rows = []
    for bayes in (0.5, *STRENGTHS):
        count = histories if bayes == 0.5 else histories_with_signal
        result = simulate(pool, bayes, count)
        row: dict[str, object] = {"bayes_accuracy": bayes, "histories": count}
        for metric in GATE_METRICS:
            passed = int(result[metric].sum())
            low, high = binomial_interval(passed, count)
            row[f"{metric}_gate"] = f"{passed / count:.3f} [{low:.3f}, {high:.3f}]"
        row |= {
            name: round(float(result[name].mean()), 4) for name in ("test_accuracy", "test_auc")
        }
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=400, help="without signal")
    parser.add_argument("--histories-with-signal", type=int, default=100, help="for each strength")
    parser.add_argument("--quick", action="store_true", help="two histories each")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.histories = arguments.histories_with_signal = 2
    with workers() as processes:
        rates = table(processes, arguments.histories, arguments.histories_with_signal)
    text = rates.to_string(index=False)
    nominal = f"The nominal rate without signal (bayes_accuracy 0.5) is {NOMINAL:.3f}.\n"
    sys.stdout.write(f"{text}\n{nominal}")
