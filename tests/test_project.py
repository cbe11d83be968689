"""The parts of the project fit together: nothing declared is unused, nothing used is undeclared."""

import importlib.util
import re
import shutil
import subprocess
import typing
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from bokeh_sampledata import package_path

from candlecast.parameters import Parameters, parameter_names
from candlecast.runtime.mlflow_run import provenance
from conftest import ROOT, loader

BASE = ROOT / "conf/base"
ENVIRONMENTS = ("base", "yahoo", "table", "databricks")


def keys_of(mapping: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield all keys, those of a group as ``group.key``."""
    for key, value in mapping.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{key}.")


# --- Configuration --------------------------------------------------------------------------------


def configuration(key: str, value: object) -> str:
    """Return the whole configuration of each environment, with this value of a parameter."""
    found = []
    for env in ENVIRONMENTS:
        read = loader(env)
        read.runtime_params = {key: value}
        others = {name: other for name, other in read["parameters"].items() if name != key}
        found += [others, read["catalog"], read["mlflow"]]
    return repr(found)


def test_every_parameter_is_read(pipelines):
    """By a node, or by other configuration, which differs with another value."""
    nodes = {name for pipeline in pipelines.values() for name in pipeline.inputs()}
    unread = {
        key
        for key, value in yaml.safe_load((BASE / "parameters.yml").read_text()).items()
        if f"params:{key}" not in nodes
        and configuration(key, "another") == configuration(key, value)
    }
    assert unread == {"trigger"}  # candlecast.__main__ reads trigger


def test_every_parameter_read_is_declared(pipelines):
    inputs = {name for pipeline in pipelines.values() for name in pipeline.inputs()}
    declared = yaml.safe_load((BASE / "parameters.yml").read_text())
    assert {name for name in inputs if name.startswith("params:")} <= {
        f"params:{key}" for key in declared
    }
    assert "parameters" not in inputs


def test_parameters_fields_are_the_keys_of_the_configuration():
    declared = yaml.safe_load((BASE / "parameters.yml").read_text())
    assert parameter_names(Parameters) == list(keys_of(declared))


def test_every_parameter_has_a_trailing_comment():
    for line in (BASE / "parameters.yml").read_text().splitlines():
        if re.match(r"\s*\w+: *[^ #]", line):  # a group has its comments at its keys
            assert re.search(r"\S # \S", line), line


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_catalog_entry_is_used(pipelines, env):
    used = {name for pipeline in pipelines.values() for name in pipeline.datasets()}
    entries = {name for name in loader(env)["catalog"] if not name.startswith("_")}
    assert entries - used == set()


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_what_a_run_reads_is_made_or_declared(pipelines, env):
    free = {name for name in pipelines["__default__"].inputs() if not name.startswith("params:")}
    assert free - set(loader(env)["catalog"]) == set()


# --- Pipelines ------------------------------------------------------------------------------------


def test_a_plain_run_is_the_three_stages_and_neither_registers_nor_forecasts(pipelines):
    stages = ["data_engineering", "data_science", "reporting"]
    default = {node.name for node in pipelines["__default__"].nodes}
    assert default == {node.name for name in stages for node in pipelines[name].nodes}
    assert {node.namespace for node in pipelines["__default__"].nodes} == set(stages)
    for name in pipelines.keys() - {"__default__", *stages}:
        assert not default & {node.name for node in pipelines[name].nodes}


def test_a_namespace_renames_no_dataset(pipelines):
    names = pipelines["__default__"].datasets()
    assert {name for name in names if "." in name.removeprefix("params:")} == set()


def test_every_node_of_a_plain_run_belongs_to_one_task(pipelines):
    tasks = {"ingest", "preprocess", "train", "evaluate"}
    tags = {node.name: node.tags & tasks for node in pipelines["__default__"].nodes}
    assert {name: found for name, found in tags.items() if len(found) != 1} == {}
    assert set().union(*tags.values()) == tasks


def test_the_types_of_a_node_are_known_when_it_runs(pipelines):
    """Kedro makes typed groups of parameters by them, and warns of a function that hides them."""
    for pipeline in pipelines.values():
        for node in pipeline.nodes:
            assert "return" in typing.get_type_hints(node.func), node.name


def test_a_node_has_the_name_of_its_function(pipelines):
    for pipeline in pipelines.values():
        for node in pipeline.nodes:
            assert node.short_name == node.func.__name__


def test_a_requested_pipeline_comes_alone(pipelines):
    from kedro.framework.project import pipelines as known

    assert pipelines.keys() == {
        *("__default__", "data_engineering", "data_science", "reporting"),
        *("registration", "rollback", "forecast"),
    }
    known.set_requested(["rollback"])
    assert list(known) == ["rollback"]
    known.set_requested(["rolback"])
    assert list(known) == []  # Kedro then names the near match
    known.set_requested(None)


# --- Provenance -----------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed, and no run needs it")
def test_a_changed_working_tree_is_recorded(tmp_path):
    def git(*words):
        person = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")
        command = ["git", "-C", str(tmp_path), *person, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def found(git_commit=None):
        tags = provenance(tmp_path / "project", git_commit)
        return tags["git_commit"], tags["git_dirty"]

    (tmp_path / "project").mkdir()
    for name in ("project/code.py", "outside.py"):
        (tmp_path / name).write_text("1")
    assert found() == ("unknown", "unknown")
    git("init")
    assert found() == ("unknown", "unknown")  # no commit yet
    git("add", ".")
    git("commit", "--message", "First")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "project/data.csv").write_text("not tracked")
    (tmp_path / "outside.py").write_text("2")
    assert found() == (commit, "false")
    (tmp_path / "project/code.py").write_text("2")
    assert found() == (commit, "true")
    assert found("c0ffee") == ("c0ffee", "unknown")


# --- Faults ---------------------------------------------------------------------------------------


def test_every_fault_of_the_table_has_a_test_and_every_test_its_fault():
    rows = re.findall(r"^\| (\d\d) \| ", (ROOT / "docs/faults.md").read_text(), re.MULTILINE)
    assert rows == sorted(set(rows))
    tested = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"^def test_fault_(\w+)", file.read_text(), re.MULTILINE):
            tested.update(re.findall(r"\d\d", re.match(r"(\d\d_)+", name)[0]))
    assert tested == set(rows)


# --- Sample ---------------------------------------------------------------------------------------


def test_sample_is_what_its_script_makes():
    script = ROOT / "scripts/make_sample.py"
    spec = importlib.util.spec_from_file_location("make_sample", script)
    assert spec and spec.loader
    make_sample = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_sample)
    text = make_sample.to_sample(make_sample.read_source(package_path("stocks.csv.gz")))
    assert (ROOT / "data/sample/prices.csv").read_bytes() == text.encode()
