"""What ``max_samples`` saves and costs: ``python benchmarks/sampling.py [--quick]``.

A forest is fitted on windows of a made-up market with a planted signal, in three ways: on all rows
by scikit-learn, with 100,000 rows per tree by scikit-learn, and with the same by candlecast, which
also rounds the features to a grid. All three predict the last fifth of the sessions.
"""

import argparse
import datetime as dt
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import candlecast

candlecast.silence_third_party()

import exchange_calendars  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from figures import ROUNDS, Figure, compare, in_turn  # noqa: E402
from market import LAST, SEED, make_ticker  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.ensemble import RandomForestClassifier  # noqa: E402
from sklearn.metrics import log_loss, roc_auc_score  # noqa: E402

from candlecast.features.definitions import lag_columns  # noqa: E402
from candlecast.models.estimators import fit, make_estimators, predict  # noqa: E402
from candlecast.models.forests import features  # noqa: E402

WINDOW = 14
SIGNAL = 0.05


def make_windows(tickers: int, years: int) -> pd.DataFrame:
    """Make the windows of a market, sorted by session and ticker; gaps are passed over."""
    first = LAST.replace(year=LAST.year - years) + dt.timedelta(days=1)
    sessions = exchange_calendars.get_calendar("XNYS", start=first, end=LAST).sessions.to_numpy()
    together = np.random.default_rng(SEED).standard_normal(len(sessions))
    frames = []
    for number in range(tickers):
        prices = make_ticker(number, sessions, together, SIGNAL, SEED).dropna()
        body = (prices["close"] / prices["open"] - 1).to_numpy(np.float32)
        lags = np.lib.stride_tricks.sliding_window_view(body[:-1], WINDOW)[:, ::-1]
        frame = pd.DataFrame(lags, columns=lag_columns(WINDOW))
        frame.insert(0, "up", (body[WINDOW:] > 0).astype(np.int8))
        frame.insert(0, "session", prices["session"].to_numpy(dtype="datetime64[s]")[WINDOW:])
        frame.insert(0, "ticker", prices["ticker"].iloc[0])
        frames.append(frame)
    return pd.concat(frames).sort_values(["session", "ticker"], ignore_index=True)


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Print the seconds, the log loss and the ROC AUC of each way; return the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tickers", type=int, default=200)
    parser.add_argument("--trees", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="5 tickers, 3 trees, 1,000 rows")
    given = parser.parse_args(arguments)
    most, years = 100_000, 20
    if given.quick:
        given.tickers, given.trees, most, years = 5, 3, 1000, 3
    windows = make_windows(given.tickers, years)
    days = windows["session"].unique()
    is_test = windows["session"] >= days[int(len(days) * 0.8)]
    train, test = (windows[part].reset_index(drop=True) for part in (~is_test, is_test))
    settings = {"min_weight_fraction_leaf": 0.1, "random_state": SEED, "n_jobs": -1}
    [ours] = make_estimators([f"forest_{given.trees}"], 0.1, most, SEED).values()
    inputs, up = features(train), train["up"].astype(int)
    models = {}

    def time_fit(name: str, fit_it: Callable[[], Any]) -> float:
        since = time.perf_counter()
        models[name] = fit_it()
        return time.perf_counter() - since

    ways: dict[str, Callable[[], Any]] = {
        "scikit-learn, all rows": lambda: RandomForestClassifier(given.trees, **settings).fit(
            inputs, up
        ),
        f"scikit-learn, {most:,} per tree": lambda: RandomForestClassifier(
            given.trees, max_samples=most, **settings
        ).fit(inputs, up),
        f"candlecast, {most:,} per tree": lambda: fit(clone(ours), train),
    }
    contenders = {name: partial(time_fit, name, way) for name, way in ways.items()}
    times = in_turn(contenders, 1 if given.quick else ROUNDS)
    title = f"fitting {given.trees} trees on {len(train):,} rows"
    figures = compare(title, times, [*ways][:2], aims=[1.0, 1.0])
    for name, model in models.items():
        probability = predict(model, test)
        sys.stdout.write(
            f"  {name:<38} log loss {log_loss(test['up'], probability):.5f}"
            f"  ROC AUC {roc_auc_score(test['up'], probability):.4f}\n"
        )
    return figures


if __name__ == "__main__":
    main()
