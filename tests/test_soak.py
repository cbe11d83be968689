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
    spark.conf.set(every, "5")  # a part of each log is needed no longer
    try:
        daily = module.soak(tmp_path / "data", cycles=8, every=5, checkpoints=5)
    finally:
        spark.conf.unset(every)
    pd.testing.assert_frame_equal(daily.stored(spark), daily.expected())
    daily.check_flat()
    # Of version 0 the first champion, of the one before the checkpoint none.
    assert {0, 4, 5} & {*Log(daily.root / "tables/prices").commits} == {0, 5}
