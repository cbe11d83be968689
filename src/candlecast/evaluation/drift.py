"""How far a model's inputs have moved from those that it was trained on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2, norm

from candlecast.models.forests import features
from candlecast.parameters import Monitoring

BINS = 10
"""Bins of a feature, of equal count in training."""

CONFIDENCE = 0.999
"""Drift exceeds this quantile of what chance explains."""


def make_profile(train: pd.DataFrame) -> dict[str, Any]:
    """Describe a training set, so that later inputs can be compared with the description alone.

    Args:
        train: windows with ``up``, one row per ticker and session.

    Returns:
        ``rows``, ``share_up`` (of the labels), and ``features``: by name ``edges`` (the inner edges
        of at most ten bins of equal count, none of them empty, ascending) and ``shares`` (of the
        rows per bin: one more than edges).
    """
    bins: dict[str, dict[str, list[float]]] = {}
    for name, values in features(train).items():
        inner = np.linspace(0, 1, BINS + 1)[1:-1]
        edges = np.unique(np.quantile(values.astype(float), inner, method="higher"))
        edges = edges[edges > values.min()]  # values themselves, so that no bin is empty
        shares = bin_shares(values, edges.tolist())
        bins[str(name)] = {"edges": edges.tolist(), "shares": shares}
    return {"rows": len(train), "share_up": float(train["up"].mean()), "features": bins}


def bin_shares(values: "pd.Series[Any]", edges: list[float]) -> list[float]:
    """Return the share of the values in each bin; `edges` are the inner ones."""
    places = np.searchsorted(np.asarray(edges), values.astype(float), side="right")
    counts = np.bincount(places, minlength=len(edges) + 1)
    return [float(share) for share in counts / max(1, len(values))]


def psi(expected: Sequence[float], observed: Sequence[float]) -> float:
    """Return the population stability index of two distributions over the same bins.

    It is ``sum((o - e) * ln(o / e))``: 0 if they are equal, without an upper limit. No share may be
    0.

    >>> round(psi([0.5, 0.5], [0.6, 0.4]), 4)
    0.0405
    """
    e, o = np.asarray(expected), np.asarray(observed)
    return float(((o - e) * np.log(o / e)).sum())


def measure_drift(
    profile: dict[str, Any], windows: pd.DataFrame, monitoring: Monitoring
) -> dict[str, Any]:
    """Compare new windows with those that a model was trained on.

    Two samples of one distribution have an index above 0: divided by ``1 / n + 1 / m`` (n and m
    observations) it is about chi-squared, with as many degrees of freedom as bins minus one. A
    feature has drifted if its index exceeds both ``max_psi`` and the 99.9 % quantile of that. As n
    counts dates and not rows, tickers that move together raise no false alarm. The share of ups has
    shifted if its distance from that of training exceeds both ``max_share_up_shift`` and a normal
    quantile, with dates counted in the same way.

    Args:
        profile: of the training set, from `make_profile`.
        windows: one row per ticker and session that the model was not trained on: features, ``up``.
        monitoring: ``max_psi`` and ``max_share_up_shift``.

    Returns:
        ``sessions`` (distinct dates), ``rows``, ``first_session`` and ``last_session`` (ISO dates);
        ``max_psi`` and ``psi_chance`` (the quantile); ``features``, one row each with
        ``name``, ``psi`` and ``drifted``; ``share_up``, ``share_up_trained``, ``share_up_chance``,
        ``max_share_up_shift`` and ``share_up_drifted``. Without a row only ``sessions`` and
        ``rows``, both 0.

    References:
        Yurdakul and Naranjo (2020), Statistical properties of the population stability index,
        Journal of Risk Model Validation 14(4), for the distribution.
    """
    dates, rows = int(windows["session"].nunique()), len(windows)
    if not rows:
        return {"sessions": 0, "rows": 0}
    noise = 1 / dates + 1 / profile["rows"]
    most = max(len(bins["shares"]) for bins in profile["features"].values())
    chance = float(chi2.ppf(CONFIDENCE, max(1, most - 1)) * noise)
    measured = []
    for name, bins in profile["features"].items():
        index = psi(
            _without_zero(bins["shares"], profile["rows"]),
            _without_zero(bin_shares(windows[name], bins["edges"]), rows),
        )
        drifted = index > max(monitoring.max_psi, chance)
        measured.append({"name": name, "psi": index, "drifted": drifted})
    share_up, trained = float(windows["up"].mean()), profile["share_up"]
    share_chance = float(norm.ppf((1 + CONFIDENCE) / 2) * (trained * (1 - trained) * noise) ** 0.5)
    limit = max(monitoring.max_share_up_shift, share_chance)
    return {
        "sessions": dates,
        "rows": rows,
        "first_session": f"{windows['session'].min():%Y-%m-%d}",
        "last_session": f"{windows['session'].max():%Y-%m-%d}",
        "max_psi": monitoring.max_psi,
        "psi_chance": chance,
        "features": measured,
        "share_up": share_up,
        "share_up_trained": trained,
        "share_up_chance": share_chance,
        "max_share_up_shift": monitoring.max_share_up_shift,
        "share_up_drifted": abs(share_up - trained) > limit,
    }


def _without_zero(shares: Sequence[float], rows: int) -> list[float]:
    """Add half a row to each bin: an empty one would make the index infinite."""
    return [(share * rows + 0.5) / (rows + len(shares) / 2) for share in shares]
