"""The project holds together: nothing declared is unused, and layers keep to themselves."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from bokeh_sampledata import package_path
from kedro.pipeline import Pipeline

from candlecast.parameters import Group, Parameters
from candlecast.pipeline_registry import register_pipelines
from conftest import ROOT, loader

SOURCE = ROOT / "src/candlecast"
BASE = ROOT / "conf/base"
NEVER_BY_DEFAULT = {"registration", "rollback", "forecast"}


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Pipeline]:
    return register_pipelines()


def keys_of(mapping: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """All keys, those of a group as ``group.key``."""
    for key, value in mapping.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{key}.")


def fields_of(group: type[Group], prefix: str = "") -> Iterator[str]:
    for field_name, field in group.model_fields.items():
        name = field.alias or field_name
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group):
            yield from fields_of(field.annotation, f"{prefix}{name}.")


# --- Configuration --------------------------------------------------------------------------------


def test_every_parameter_is_read(pipelines):
    """By a node, by other configuration, or looked up by its name; a group's key by the last."""
    used = {name for pipeline in pipelines.values() for name in pipeline.inputs()}
    configured = "".join(
        file.read_text()
        for file in (ROOT / "conf").rglob("*.yml")
        if file != BASE / "parameters.yml"
    )
    looked_up, arguments = names_read()
    for key in keys_of(yaml.safe_load((BASE / "parameters.yml").read_text())):
        group, _, inner = key.partition(".")
        assert (
            f"params:{group}" in used
            or group in looked_up
            or re.search(rf"\$\{{(runtime_params:)?{group}\b", configured)
        ), f"nothing reads the parameter {key}"
        assert not inner or inner in looked_up | arguments, f"nothing reads the parameter {key}"


def names_read() -> tuple[set[str], set[str]]:
    """What the code looks up by name (``x["name"]``, ``x.name``), and its functions' arguments."""
    looked_up, arguments = set(), set()
    for file in SOURCE.rglob("*.py"):
        if file.stem == "parameters":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                looked_up.add(node.slice.value)
            elif isinstance(node, ast.Attribute):
                looked_up.add(node.attr)
            elif isinstance(node, ast.arg):
                arguments.add(node.arg)
    return looked_up, arguments


def test_every_parameter_read_is_declared(pipelines):
    inputs = {name for pipeline in pipelines.values() for name in pipeline.inputs()}
    declared = yaml.safe_load((BASE / "parameters.yml").read_text())
    assert {name for name in inputs if name.startswith("params:")} <= {
        f"params:{key}" for key in declared
    }
    assert "parameters" not in inputs


def test_parameters_fields_are_the_keys_of_the_configuration():
    declared = yaml.safe_load((BASE / "parameters.yml").read_text())
    assert list(fields_of(Parameters)) == list(keys_of(declared))


def test_every_parameter_has_a_trailing_comment():
    for line in (BASE / "parameters.yml").read_text().splitlines():
        if re.match(r"\s*\w+: *[^ #]", line):  # a group has its comments at its keys
            assert re.search(r"\S # \S", line), f"no comment says what this is for: {line}"


@pytest.mark.parametrize("env", ["base", "yahoo", "databricks"])
def test_every_catalog_entry_is_used(pipelines, env):
    used = {name for pipeline in pipelines.values() for name in pipeline.datasets()}
    entries = {name for name in loader(env)["catalog"] if not name.startswith("_")}
    assert entries - used == set()


@pytest.mark.parametrize("env", ["base", "yahoo", "databricks"])
def test_what_a_run_reads_is_made_or_declared(pipelines, env):
    free = {name for name in pipelines["__default__"].inputs() if not name.startswith("params:")}
    assert free - set(loader(env)["catalog"]) == set()


# --- Pipelines ------------------------------------------------------------------------------------


def test_a_plain_run_neither_registers_nor_forecasts(pipelines):
    default = {node.name for node in pipelines["__default__"].nodes}
    parts = ["data_engineering", "data_science", "reporting"]
    assert default == {node.name for name in parts for node in pipelines[name].nodes}
    for name in NEVER_BY_DEFAULT & set(pipelines):
        own = {node.name for node in pipelines[name].nodes}
        shared = {node.name for part in parts for node in pipelines[part].nodes}
        assert not default & (own - shared)
        assert own - shared, f"{name} has no node of its own"


def test_every_node_of_a_plain_run_has_one_stage(pipelines):
    stages = {"ingest", "preprocess", "train", "evaluate"}
    tags = {node.name: node.tags & stages for node in pipelines["__default__"].nodes}
    assert {name: found for name, found in tags.items() if len(found) != 1} == {}
    assert set().union(*tags.values()) == stages


def test_a_node_s_name_means_one_function(pipelines):
    functions: dict[str, Any] = {}
    for pipeline in pipelines.values():
        names = [node.name for node in pipeline.nodes]
        assert len(names) == len(set(names))
        for node in pipeline.nodes:
            assert functions.setdefault(node.name, node.func) is node.func
            assert re.fullmatch(r"[a-z]+(_[a-z]+)*", node.name), f"{node.name} is no name"
            assert not node.name.endswith("_node")


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
