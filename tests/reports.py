"""Predictions of a model, and what the reporting pipeline makes of them."""

from typing import Any

import numpy as np
import pandas as pd
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from sklearn.base import BaseEstimator, ClassifierMixin

from candlecast.frames import extent
from candlecast.parameters import Evaluation, Gate
from candlecast.pipelines.reporting import create_pipeline
from candlecast.reporting.report import write_card, write_report, write_summary

EVALUATION = Evaluation.model_construct(repetitions=100, cost_bps=5.0)  # fewer than a run may
GATE = Gate(
    metric="accuracy", threshold=0.0, min_sessions=20, champion_margin=0.03, max_roc_auc=1.0
)
ESTIMATORS = [
    {"estimator": "forest_50", "log_loss": 0.6931, "log_loss_se": 0.0010, "accuracy": 0.51}
    | {"roc_auc": 0.52}
    | {"training_f1": 0.55, "fold_1.log_loss": 0.6930, "fold_2.log_loss": 0.6932}
    | {"chosen": True, "original_rule": False},
    {"estimator": "boosting", "log_loss": 0.6930, "log_loss_se": 0.0020, "accuracy": 0.52}
    | {"training_f1": 0.56, "fold_1.log_loss": 0.6929, "fold_2.log_loss": 0.6931}
    | {"chosen": False, "original_rule": True},
]
LINEAGE = {
    "candidate": "github-1234567890-1",
    "run_id": "3692615a72d448d28762c541ff2ce3b0",
    "model_id": "m-9f0a7c2d4b6e8a1c3d5f7b9e0a2c4d6f",
    "experiment": "candlecast",
    "started": "2024-03-01 12:00 UTC",
    "git_commit": "e6568fad551bd2fc92953c466b05c2a0e8815516",
    "git_dirty": "false",
    "candlecast": "0.1.0",
    "packages": {"mlflow": "3.17.2", "numpy": "2.4.6", "scikit-learn": "1.9.1"},
    "versions": {"prices": 4, "test": 3, "train": 2},
    "parameters": {"tickers": "A B", "window": "14"},
}
AUDIT = {
    "last_training_session": "2020-01-02",
    "first_test_session": "2020-02-03",
    "purged_sessions": 14,
    "rows_in_both": 0,
    "rows_audited": 1234,
    "rows_with_wrong_label": 0,
    "rows_with_wrong_lags": 0,
    "features": ["lag_01", "lag_02"],
    "rows_recomputed": 25,
    "sessions_sampled": ["2010-03-01", "2011-06-01", "2020-01-02", "2020-02-03", "2020-06-30"],
}


class Model(ClassifierMixin, BaseEstimator):
    """P(up) rises with lag_01; lag_02 changes nothing. The scale is that of `windows_of`."""

    feature_names_in_ = np.array(["lag_01", "lag_02"])
    classes_ = np.array([0, 1])

    def fit(self, inputs: pd.DataFrame, up: Any) -> "Model":
        """Learn nothing."""
        return self

    def predict_proba(self, inputs: pd.DataFrame) -> np.ndarray:
        """Both classes, one row per row of `inputs`."""
        up = 1 / (1 + np.exp(-inputs["lag_01"].to_numpy()))
        return np.stack([1 - up, up], axis=1)


def windows_of(predictions: pd.DataFrame) -> pd.DataFrame:
    """Windows of two lags for the rows of predictions; `Model` predicts their probability."""
    odds = predictions["probability"] / (1 - predictions["probability"])
    columns = ["ticker", "session", "up", "body", "return_"]
    return predictions[columns].assign(lag_01=np.log(odds), lag_02=0.5)


def predicted(up: list[int], probability: list[float], ticker: str = "A") -> pd.DataFrame:
    """Predictions of one ticker on consecutive days; training had 60 % ups."""
    body = np.where(np.array(up) == 1, 0.01, -0.01)
    return pd.DataFrame(
        {
            "ticker": ticker,
            "session": pd.date_range("2024-01-01", periods=len(up)),
            "body": body,
            "up": np.array(up, dtype=np.int8),
            "probability": probability,
            "always_up": 1.0,
            "majority": 1.0,
            "previous_day": [0.0, *map(float, up[:-1])],
            "base_rate": 0.6,
            "logistic": 0.5,
            "return_": body,
        }
    )


def losses(sessions: int = 30) -> pd.DataFrame:
    """Validation losses of `ESTIMATORS`; they save 0.01 and 0.02 against the base rate."""
    return pd.DataFrame(
        {
            "session": pd.bdate_range("2023-01-02", periods=sessions),
            "base_rate": 0.70,
            "forest_50": np.tile([0.68, 0.70], sessions // 2),
            "boosting": np.tile([0.67, 0.69], sessions // 2),
        }
    )


class Kept(MemoryDataset):
    """A dataset that the runner does not empty when no node needs it any more."""

    def _release(self) -> None:
        pass


OUTPUTS = (
    *("metrics", "importance", "gate_decision", "report_context", "report_figures"),
    *("report_tables", "report", "model_card", "summary"),
)


def quality_of(tickers: list[str]) -> pd.DataFrame:
    """What was found in each ticker: ten rows, two without a price, one session missing."""
    rules = {"requested": 10, "stored": 10, "no open or close": 2, "missing sessions": 1}
    return pd.DataFrame(
        {"ticker": ticker, "rule": rule, "found": found, "detail": "kept"}
        | {"rows_in": 10, "rows_kept": 10, "rows_dropped": 0, "source": "sample"}
        for ticker in tickers
        for rule, found in rules.items()
    )


def rewrite(result: dict[str, Any], **changes: Any) -> dict[str, str]:
    """Write the pages of what `make_report` returned again, with changes to their context."""
    context = {**result["report_context"], **changes}
    tickers, tables = context["tested"]["tickers"], result["report_tables"]
    drawn, found, source = result["report_figures"], quality_of(tickers), "data/sample/prices.csv"
    return {
        "report": write_report(context, tables, drawn, found, tickers, source),
        "model_card": write_card(context),
        "summary": write_summary(context),
    }


def make_report(predictions: pd.DataFrame, **inputs: Any) -> dict[str, Any]:
    """Run the reporting pipeline; return its `OUTPUTS` by name."""
    tickers = sorted(predictions["ticker"].unique())
    earlier = predictions["session"] - pd.Timedelta(days=400)
    given = {
        "test_scores": predictions,
        "training_extent": extent(predictions.assign(session=earlier)),
        "test@pandas": windows_of(predictions),
        "model": Model(),
        "validation_losses": losses(),
        "model_selection": ESTIMATORS,
        "leakage_audit": {**AUDIT, "rows_audited": 2 * len(predictions)},
        "quality": quality_of(tickers),
        "lineage": LINEAGE,
        "params:evaluation": EVALUATION,
        "params:gate": GATE,
        "params:features": ["lags"],
        "params:window": 14,
        "params:tickers": tickers,
        "params:prices": "data/sample/prices.csv",
        "params:body": "return",
        "params:seed": 1,
        **inputs,
    }
    catalog = DataCatalog(
        {name: MemoryDataset(value) for name, value in given.items()}
        | {name: Kept() for name in OUTPUTS}
    )
    SequentialRunner().run(create_pipeline(), catalog)
    return {name: catalog.load(name) for name in OUTPUTS}
