"""How far what a model sees now has moved from what it was trained on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2, norm

from candlecast.models.forests import features

BINS = 10
"""Bins of a lag, of equal count in training."""

CHANCE = 0.999
"""What is called drift lies beyond what chance stays below with this probability."""


def profile(train: pd.DataFrame) -> dict[str, Any]:
    """Describe a training set, so that later inputs can be compared with it without it.

    Args:
        train: windows with ``up``, one row per ticker and session.

    Returns:
        ``rows``, ``share_up`` (of the labels), and for each lag by name ``edges`` (the inner edges
        of at most ten bins of equal count, ascending) and ``shares`` (of the rows, one a bin: one
        more than edges).
    """
    lags: dict[str, dict[str, list[float]]] = {}
    for name, values in features(train).items():
        edges = np.unique(np.quantile(values.astype(float), np.linspace(0, 1, BINS + 1)[1:-1]))
        shares = bin_shares(values, edges.tolist())
        lags[str(name)] = {"edges": edges.tolist(), "shares": shares}
    return {"rows": len(train), "share_up": float(train["up"].mean()), "lags": lags}


def bin_shares(values: "pd.Series[Any]", edges: list[float]) -> list[float]:
    """Share of the values in each bin: below the first inner edge, …, from the last one on."""
    places = np.searchsorted(np.asarray(edges), values.astype(float), side="right")
    counts = np.bincount(places, minlength=len(edges) + 1)
    return [float(share) for share in counts / max(1, len(values))]


def psi(expected: Sequence[float], observed: Sequence[float]) -> float:
    """Give the population stability index of two distributions over the same bins.

    It is ``sum((o - e) * ln(o / e))``: 0 where they are equal, without an upper end.

    >>> round(psi([0.5, 0.5], [0.6, 0.4]), 4)
    0.0405

    Args:
        expected: shares, one a bin, none of them 0.
        observed: likewise.
    """
    e, o = np.asarray(expected), np.asarray(observed)
    return float(((o - e) * np.log(o / e)).sum())


def measure_drift(
    described: dict[str, Any], windows: pd.DataFrame, max_psi: float, max_share_up_shift: float
) -> dict[str, Any]:
    """Compare the windows of now with those that a model was trained on.

    The index of equal distributions is not 0 but, times ``1 / (1 / n + 1 / m)``, about chi-squared
    with one degree of freedom less than bins (n and m observations). Only an index above `max_psi`
    and above the 99.9 % quantile of that is drift. For n the session dates are counted and not the
    rows, since tickers move together; volatility comes in spells even so, and a spell is drift.

    Args:
        described: the training set, from `profile`.
        windows: one row per ticker and session that the model was not trained on: lags and ``up``.
        max_psi: index above which a lag has drifted.
        max_share_up_shift: distance of the share of ups from that of training above which it has
            drifted, if it is beyond chance as well (a normal quantile, dates counted alike).

    Returns:
        ``sessions`` (distinct dates), ``rows``, ``first_session`` and ``last_session`` (ISO dates);
        ``max_psi`` and ``psi_chance`` (one number per lag can't exceed by chance), ``lags``: one
        row a lag with ``name``, ``psi`` and ``drifted``; ``share_up``, ``share_up_trained``,
        ``share_up_chance``, ``max_share_up_shift`` and ``share_up_drifted``. Without a row only
        ``sessions`` and ``rows``, both 0.

    References:
        Yurdakul and Naranjo (2020), Statistical properties of the population stability index,
        Journal of Risk Model Validation 14(4), for the distribution.
    """
    dates, rows = int(windows["session"].nunique()), len(windows)
    if not rows:
        return {"sessions": 0, "rows": 0}
    noise = 1 / dates + 1 / described["rows"]
    bins = max(len(lag["shares"]) for lag in described["lags"].values())
    chance = float(chi2.ppf(CHANCE, max(1, bins - 1)) * noise)
    lags = []
    for name, lag in described["lags"].items():
        shares = (
            _without_zero(lag["shares"], described["rows"]),
            _without_zero(bin_shares(windows[name], lag["edges"]), rows),
        )
        index = psi(*shares)
        lags.append({"name": name, "psi": index, "drifted": index > max(max_psi, chance)})
    share_up, trained = float(windows["up"].mean()), described["share_up"]
    share_chance = float(norm.ppf((1 + CHANCE) / 2) * (trained * (1 - trained) * noise) ** 0.5)
    return {
        "sessions": dates,
        "rows": rows,
        "first_session": f"{windows['session'].min():%Y-%m-%d}",
        "last_session": f"{windows['session'].max():%Y-%m-%d}",
        "max_psi": max_psi,
        "psi_chance": chance,
        "lags": lags,
        "share_up": share_up,
        "share_up_trained": trained,
        "share_up_chance": share_chance,
        "max_share_up_shift": max_share_up_shift,
        "share_up_drifted": abs(share_up - trained) > max(max_share_up_shift, share_chance),
    }


def _without_zero(shares: Sequence[float], rows: int) -> list[float]:
    """Shares with half a row more in each bin: an empty one would make the index infinite."""
    return [(share * rows + 0.5) / (rows + len(shares) / 2) for share in shares]
