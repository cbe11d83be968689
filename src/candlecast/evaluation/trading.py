"""An illustrative trading table: what acting on the predictions would have earned, net of costs.

Functions take the predictions frame (see `candlecast.evaluation.metrics`) with the column
``return_``: close / open - 1 of the session, also where bodies are in currency. `cost_bps` is the
cost of buying or of selling, in basis points of the traded value.
"""

import numpy as np
import pandas as pd
from scipy import stats

from candlecast.evaluation.metrics import check_predictions, predicted_up

SESSIONS_PER_YEAR = 252

CONSTANT = 1e-12
"""Daily returns with a smaller deviation differ by rounding only; their ratios are undefined."""


def strategy_returns(predictions: pd.DataFrame, *, cost_bps: float) -> pd.DataFrame:
    """Trade the predictions: buy at the open what is predicted up, sell at the close.

    The tickers predicted up share the money equally; without one it earns nothing. Each trade pays
    the cost twice. Holding is all tickers, equally weighted, from open to close of every session,
    without costs, as a holder would not trade: that makes the comparison harder. Nights are in
    neither. An illustration: no slippage, taxes, dividends or limits of size.

    Returns:
        One row per session: ``session``, ``strategy`` (net), ``strategy_gross`` and ``holding``
        (returns as fractions), ``turnover`` (traded value over capital: 2 when invested, else 0).

    Raises:
        ValueError: ``return_`` is missing or NaN somewhere, or see `check_predictions`.
    """
    check_predictions(predictions)
    if "return_" not in predictions or predictions["return_"].isna().any():
        raise ValueError("Trading needs the column 'return_' (close / open - 1) in every row.")
    daily = predictions.groupby("session")["return_"].mean().to_frame("holding")
    gross = (
        predictions[predicted_up(predictions)]
        .groupby("session")["return_"]
        .mean()
        .reindex(daily.index)
    )
    turnover = 2.0 * gross.notna()
    gross = gross.fillna(0.0)  # no ticker predicted up: no position
    return daily.assign(
        strategy=gross - turnover * cost_bps / 10_000, strategy_gross=gross, turnover=turnover
    ).reset_index()[["session", "strategy", "strategy_gross", "holding", "turnover"]]


def equity_curve(predictions: pd.DataFrame, *, cost_bps: float) -> pd.DataFrame:
    """Return what 1 grew to by the close, one row per session.

    Columns: ``session``, ``strategy`` (net), ``strategy_gross``, ``holding``.
    """
    daily = strategy_returns(predictions, cost_bps=cost_bps)
    columns = ["strategy", "strategy_gross", "holding"]
    return daily[["session"]].join((1 + daily[columns]).cumprod())


def trading_metrics(predictions: pd.DataFrame, *, cost_bps: float, trials: int) -> dict[str, float]:
    """Summarise the returns of `strategy_returns`, when `trials` estimators were tried.

    Returns:
        ``trading_cost_bps``, ``trading_trials`` and, for each of ``strategy`` (net),
        ``strategy_gross`` and ``holding``, ``<strategy>.<name>``: ``annual_return`` (compound),
        ``annual_volatility``, ``sharpe_ratio`` (annual, over zero interest), ``max_drawdown`` (0 or
        negative), ``annual_turnover`` (traded value over capital) and ``deflated_sharpe_ratio`` (a
        probability; the Sharpe ratios of trials of this length without skill have the variance
        1 / (sessions - 1); holding is one trial). A year has 252 sessions. Ratios are left out
        where returns never vary.
    """
    daily = strategy_returns(predictions, cost_bps=cost_bps)
    turnover = float(daily["turnover"].mean() * SESSIONS_PER_YEAR)
    result = {"trading_cost_bps": float(cost_bps), "trading_trials": float(trials)}
    for name in ("strategy", "strategy_gross", "holding"):
        counts = (0.0, 1) if name == "holding" else (turnover, trials)
        result |= {f"{name}.{key}": x for key, x in _summary(daily[name], *counts).items()}
    return result


def _summary(returns: "pd.Series[float]", turnover: float, trials: int) -> dict[str, float]:
    wealth = (1 + returns).cumprod()
    periods = len(returns)
    deviation = float(returns.std()) if periods > 1 else 0.0
    result = {
        "annual_return": float(wealth.iloc[-1] ** (SESSIONS_PER_YEAR / periods) - 1),
        "annual_volatility": deviation * np.sqrt(SESSIONS_PER_YEAR),
        "max_drawdown": float((wealth / wealth.cummax().clip(lower=1.0) - 1).min()),
        "annual_turnover": turnover,
    }
    if deviation > CONSTANT:
        sharpe = float(returns.mean()) / deviation
        result["sharpe_ratio"] = sharpe * np.sqrt(SESSIONS_PER_YEAR)
        result["deflated_sharpe_ratio"] = deflated_sharpe_ratio(
            sharpe,
            best_of_trials(trials, variance=1 / (periods - 1)),
            periods=periods,
            skew=float(stats.skew(returns)),
            kurtosis=float(stats.kurtosis(returns, fisher=False)),
        )
    return result


def best_of_trials(trials: int, variance: float) -> float:
    """Return the Sharpe ratio to expect from the best of several independent trials without skill.

    `variance` is that of the trials' Sharpe ratios, per period. One trial has 0 to expect.

    References:
        Bailey and Lopez de Prado (2014), The deflated Sharpe ratio, Journal of Portfolio
        Management 40 (5), 94-107.
    """
    if trials <= 1:
        return 0.0
    gamma, normal = np.euler_gamma, stats.norm
    usual = (1 - gamma) * normal.ppf(1 - 1 / trials) + gamma * normal.ppf(1 - 1 / (trials * np.e))
    return float(np.sqrt(variance) * usual)


def deflated_sharpe_ratio(
    sharpe: float, against: float, *, periods: int, skew: float, kurtosis: float
) -> float:
    """Return the probability that the true Sharpe ratio is above `against`; see `best_of_trials`.

    Both ratios are per period, not annualised; periods, skew and kurtosis (3 for a normal
    distribution) are those of the returns that `sharpe` was measured on.
    """
    error = np.sqrt(1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2)
    return float(stats.norm.cdf((sharpe - against) * np.sqrt(periods - 1) / error))
