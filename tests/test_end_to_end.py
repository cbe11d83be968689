"""The real command and the whole default pipeline, on the committed sample."""

import json

from conftest import SMALL


def test_small_run(run, tmp_path):
    run(**SMALL)
    metrics = json.loads((tmp_path / "data/reporting/metrics.json").read_text())
    assert metrics["rows"] > 100
