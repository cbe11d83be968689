"""A root that runs daily: a short soak by scripts/soak.py, which says what a cycle is."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from candlecast.io.delta_log import Log
from conftest import ROOT


@pytest.mark.slow
def test_daily_cycles_keep_the_record_right_and_the_root_small(
    spark: SparkSession, tmp_path: Path
) -> None:
    spec = importlib.util.spec_from_file_location("soak", ROOT / "scripts/soak.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    every = "spark.databricks.delta.properties.defaults.checkpointInterval"
    spark.conf.set(every, "3")  # a part of each log is needed no longer
    try:
        daily = module.soak(tmp_path / "data", cycles=6, every=4, checkpoints=3)
    finally:
        spark.conf.unset(every)
    pd.testing.assert_frame_equal(daily.stored(spark), daily.expected())
    daily.check_flat()
    # The newest, the first champion's, the second one's and the checkpoint it is read from.
    assert {*Log(daily.root / "tables/prices").commits} == {6, 0, 4, 3}
