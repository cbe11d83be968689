"""A root that runs daily: a short soak by scripts/soak.py, which says what a cycle is."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from conftest import ROOT


@pytest.mark.slow
def test_daily_cycles_keep_the_record_right_and_the_root_small(
    spark: SparkSession, tmp_path: Path
) -> None:
    spec = importlib.util.spec_from_file_location("soak", ROOT / "scripts/soak.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    daily = module.soak(tmp_path / "data", cycles=8, every=5)
    pd.testing.assert_frame_equal(daily.stored(spark), daily.expected())
    measured = pd.DataFrame(daily.measured)
    # From the second cycle of the same champion to its last.
    first, *_, last = measured["data"][measured["model_version"] == 2]
    assert last == pytest.approx(first, rel=0.05)
