"""Permutation importance: what a model loses on the test set when a feature is shuffled.

scikit-learn's ``permutation_importance`` returns one number per repetition; an interval by date
needs the loss of each row.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from candlecast.evaluation.bootstrap import draw_dates, interval_ends
from candlecast.evaluation.metrics import Floats, log_losses
from candlecast.models.estimators import predict
from candlecast.models.forests import features, in_order
from candlecast.parameters import Evaluation

MAX_ROWS = 20_000
"""Rows that are predicted per feature, at most: a larger test set is sampled."""

REPEATS = 5
"""How often a feature is shuffled, unless that would be more than `MAX_ROWS` rows."""


def measure_importance(
    model: Any, test: pd.DataFrame, evaluation: Evaluation, seed: int
) -> list[dict[str, Any]]:
    """Measure what each feature is worth to a model, by shuffling its values among the rows.

    Features that resemble one another stand in for each other, so each may seem worth little.

    Args:
        model: a fitted classifier.
        test: windows that it was not fitted on.
        evaluation: ``repetitions`` of the bootstrap.
        seed: of the sample, of the shuffles and of the bootstrap.

    Returns:
        One row per feature, the most important first: ``feature``, ``log_loss_increase`` and
        ``roc_auc_decrease`` (means over the shuffles), each with ``.low`` and ``.high``, the ends
        of the 95 % interval by date. On fewer than 20 dates there is no interval; with one class
        there is no ``roc_auc_decrease``.
    """
    test = in_order(in_order(test).sample(min(len(test), MAX_ROWS), random_state=seed))
    inputs, up = features(test), test["up"].to_numpy()
    random, repeats = np.random.default_rng(seed), min(REPEATS, MAX_ROWS // len(test))
    order = np.concatenate([random.permutation(len(test)) for _ in range(repeats)])
    repeated = pd.concat([inputs] * repeats, ignore_index=True)
    before = _by_row(up, predict(model, inputs))
    changes = {}
    for name in map(str, inputs):
        shuffled = repeated.assign(**{name: inputs[name].to_numpy()[order]})
        after = [_by_row(up, part) for part in np.split(predict(model, shuffled), repeats)]
        changes[name] = np.mean(after, axis=0) - before
    losses = pd.DataFrame({name: change[0] for name, change in changes.items()})
    bootstrap = draw_dates(test["session"], losses, evaluation.repetitions, seed)
    both = 0 < up.mean() < 1
    table = []
    for name, (loss, placed) in changes.items():
        row = {"feature": name, "log_loss_increase": float(loss.mean())}
        auc = placed[up == 1].mean() if both else 0.0
        if both:
            row["roc_auc_decrease"] = -float(auc)
        if bootstrap is not None:
            rows = {"rows": 1.0, "loss": loss, "ups": up, "downs": 1 - up}
            rows |= {"placed_ups": placed * up, "placed_downs": placed * (1 - up)}
            sums = bootstrap.sums(pd.DataFrame(rows))
            drawn = {"log_loss_increase": sums["loss"] / sums["rows"]}
            if both:
                means = [sums[f"placed_{label}"] / sums[label] for label in ("ups", "downs")]
                drawn["roc_auc_decrease"] = auc - means[0] - means[1]
            row |= interval_ends({key: values.to_numpy() for key, values in drawn.items()})
        table.append(row)
    return sorted(table, key=lambda row: -row["log_loss_increase"])


def _by_row(up: npt.NDArray[Any], probability: Floats) -> Floats:
    """Return two values per row: its log loss, and its placement.

    The placement is the share of the other class that the row is ranked correctly against. Its mean
    over the ups is the ROC AUC, and so is that over the downs. So the AUC of other draws of rows is
    about the sum of both means minus the AUC, which needs sums over dates alone (DeLong et al.
    1988, Biometrics 44).
    """
    own = np.empty(len(up))
    for label in (0, 1):
        own[up == label] = rankdata(probability[up == label])
    others = np.where(up == 1, (up == 0).sum(), (up == 1).sum()).clip(1)
    below = (rankdata(probability) - own) / others
    return np.stack([log_losses(up, probability), np.where(up == 1, below, 1 - below)])
