# Databricks notebook source
# ruff: noqa: F821, T201
"""Set the task value ``retrain``: true when the track record advises retraining.

A condition of the forecast job reads it (jobs.yml). A wheel task cannot set task values.
"""

import json
from pathlib import Path

file = Path(dbutils.widgets.get("track_record"))
record = {"retrain": None, "reasons": []}
if file.exists():
    record = json.loads(file.read_text("utf-8"))
print(f"retrain: {record['retrain']}", *record["reasons"])
dbutils.jobs.taskValues.set(key="retrain", value=record["retrain"] is True)
