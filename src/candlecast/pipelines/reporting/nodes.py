"""Functions of the reporting pipeline."""
import pandas as pd
from candlecast.metrics import score


def evaluate(test_scores: pd.DataFrame) -> dict[str, float]:
    return score(test_scores)

def write_report(metrics, candidates) -> str:
    return "<html>" + str(metrics)

def write_card(metrics) -> str:
    return "# card"
