"""Measure how often the gate passes a model: without a signal, and with signals of known strength.

Simulates price histories of a few tickers that move together, trains a small forest on the first
80 % of the sessions, predicts the rest, and applies the gate that registration applies. `python
benchmarks/gate.py` prints how often it passes without a signal (its size) and with a planted
autocorrelation (its power).
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
import pandas as pd
from figures import Figure
from scipy import signal, stats
from sklearn.ensemble import RandomForestClassifier
from threadpoolctl import threadpool_limits

from candlecast.evaluation.bootstrap import CONFIDENCE
from candlecast.evaluation.gate import GATE_METRICS, apply_gate
from candlecast.evaluation.metrics import compute_metrics
from candlecast.evaluation.significance import intervals
from candlecast.models.baselines import add_baselines
from candlecast.parameters import Gate

WINDOW = 14
TICKERS = 3
SESSIONS = 2500
CORRELATION = 0.5
"""Correlation of the tickers' shocks on one date."""

DRIFT = 0.05
"""Mean shock without a signal, in standard deviations: 52 % of the sessions are up."""

STRENGTHS = (0.53, 0.55, 0.58)
"""Bayes accuracies of the planted signals: what the best possible prediction reaches."""

NOMINAL = (1 - CONFIDENCE) / 2
"""The rate at which the lower end of an interval lies above zero by chance."""

GATE = Gate(
    metric="accuracy", threshold=0.0, min_sessions=250, champion_margin=None, max_roc_auc=0.75
)

REPETITIONS = 1000
TREES = 10
SEED = 4284

Floats = npt.NDArray[np.float64]


def autocorrelation(bayes_accuracy: float) -> float:
    """Return the coefficient of a reverting Gaussian AR(1) whose sign is predictable this well.

    The best prediction is the sign of phi times the last value. Last and next value are jointly
    normal with correlation phi, so that prediction is right with probability
    1/2 + arcsin(|phi|) / pi (Sheppard 1899): |phi| = sin(pi (accuracy - 1/2)). Phi is negative: a
    fall tends to follow a rise. With a positive phi the previous-day baseline itself would be the
    best prediction, and a gate on the accuracy minus that baseline would rightly pass no model.
    """
    return -float(np.sin(np.pi * (bayes_accuracy - 0.5)))


def autoregression(shocks: Floats, phi: float) -> Floats:
    """Return an AR(1) series along the first axis: `phi` times the previous value plus a shock."""
    return np.asarray(signal.lfilter([1.0], [1.0, -phi], shocks, axis=0))


def bodies(bayes_accuracy: float, generator: np.random.Generator) -> Floats:
    """Simulate candle bodies, one row per session, one column per ticker.

    The tickers' shocks are correlated, and their size follows a slowly changing common volatility.
    Volatility changes no sign, so it does not change the Bayes accuracy. At an accuracy of 0.5
    there is no signal but a drift, which makes "always up" a meaningful baseline.
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
    """Train on the first 80 % of the sessions minus a purge, and predict the rest.

    Args:
        body: one row per session, one column per ticker.
        seed: the forest's seed.

    Returns:
        A predictions frame, see `candlecast.evaluation.metrics`, one row per ticker and session.
    """
    windows = np.lib.stride_tricks.sliding_window_view(body, WINDOW, axis=0)[:-1]
    up = (body[WINDOW:] > 0).astype(np.int8)
    start = int(0.8 * len(up))
    past = up[: start - WINDOW]
    forest = RandomForestClassifier(TREES, min_weight_fraction_leaf=0.1, random_state=seed)
    forest.fit(windows[: start - WINDOW].reshape(-1, WINDOW), past.ravel())
    sessions = pd.bdate_range("2000-01-03", periods=len(up))[start:]
    predictions = pd.DataFrame(
        {
            "ticker": np.tile([f"T{n}" for n in range(TICKERS)], len(sessions)),
            "session": np.repeat(sessions, TICKERS),
            "body": body[WINDOW:][start:].ravel(),
            "up": up[start:].ravel(),
            "probability": forest.predict_proba(windows[start:].reshape(-1, WINDOW))[:, 1],
        }
    )
    previous_up = pd.Series(body[WINDOW - 1 : -1][start:].ravel() > 0)
    return add_baselines(predictions, base_rate=float(past.mean()), previous_up=previous_up)


def passes(seed: int, bayes_accuracy: float) -> dict[str, float]:
    """Simulate one history; return whether each gate passes (1 or 0), accuracy and ROC AUC."""
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
    """Return two new processes, not forked ones, which could inherit a thread's lock.

    Numerical libraries compute in one thread in each.
    """
    context = get_context("spawn")
    return ProcessPoolExecutor(2, context, initializer=threadpool_limits, initargs=(1,))


def simulate(pool: ProcessPoolExecutor, bayes_accuracy: float, histories: int) -> pd.DataFrame:
    """Run `passes` on several histories, the same ones in each call; return one row per history."""
    one = partial(passes, bayes_accuracy=bayes_accuracy)
    return pd.DataFrame(pool.map(one, range(histories), chunksize=10))


def binomial_interval(passed: int, histories: int) -> tuple[float, float]:
    """Return the exact (Clopper-Pearson) 95 % interval for a rate."""
    low, high = stats.binomtest(passed, histories).proportion_ci(CONFIDENCE)
    return float(low), float(high)


def table(pool: ProcessPoolExecutor, histories: int, histories_with_signal: int) -> pd.DataFrame:
    """Return the rate at which each gate passes, one row per Bayes accuracy."""
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


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Print the rates; there is no peer to compare them with."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=400, help="number without a signal")
    parser.add_argument("--histories-with-signal", type=int, default=100, help="number per signal")
    parser.add_argument("--quick", action="store_true", help="two histories per row")
    given = parser.parse_args(arguments)
    if given.quick:
        given.histories = given.histories_with_signal = 2
    with workers() as processes:
        rates = table(processes, given.histories, given.histories_with_signal)
    text = rates.to_string(index=False)
    nominal = f"The nominal rate without a signal (bayes_accuracy 0.5) is {NOMINAL:.3f}.\n"
    sys.stdout.write(f"{text}\n{nominal}")
    return []


if __name__ == "__main__":
    main()
