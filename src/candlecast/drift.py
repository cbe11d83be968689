"""How far what a model sees now has moved from what it was trained on."""

from typing import Any

import numpy as np
import pandas as pd

from candlecast.forests import features

BINS = 10
"""Bins of a lag, of equal count in training."""


def profile(train: pd.DataFrame) -> dict[str, Any]:
    """Describe a training set, so that later inputs can be compared with it without it.

    Args:
        train: windows with ``up``, one row a ticker and session.

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
