# Databricks notebook source
# ruff: noqa: F821, T201
"""Set the task value ``retrain``: true when the track record advises retraining.

A condition of the forecast job reads it (jobs.yml). A wheel task cannot set task values.
"""

import json
from pathlib import Path

file = Path(dbutils.widgets.get("track_record"))
record = {"headline": "No champion yet", "advice": "", "retrain": None}
if file.exists():
    record = json.loads(file.read_text("utf-8"))
print(record["headline"], record["advice"])
dbutils.jobs.taskValues.set(key="retrain", value=record["retrain"] is True)
