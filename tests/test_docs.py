"""The pages: links lead somewhere, commands are accepted, and tested blocks give what they show."""

import doctest
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.framework.cli.utils import find_run_command
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

import candlecast
from candlecast.__main__ import read_options
from candlecast.parameters import check_parameters
from conftest import ROOT, SMALL, copy_used_project, loader

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "data/sample/README.md"]
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TESTED = re.compile(r"^<!-- tested -->\n```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def commands(text: str) -> Iterator[str]:
    """Yield the commands ``kedro run …`` of a page, but for those with a ``<placeholder>``.

    Those of a tested block are left out: it may show what is refused.
    """
    text = TESTED.sub("", text).replace("\\\n", " ")
    inline = re.findall(r"`(kedro run[^`]*)`", text)
    blocks = re.findall(r"^(?:    +)?(?:\$ )?(kedro run -.*)$", text, re.MULTILINE)
    for command in [*inline, *blocks]:
        if not re.search(r"<\w[^>]*>|…|--params`?$", command):
            yield command


COMMANDS = sorted({(page, found) for page, text in TEXTS.items() for found in commands(text)})


# --- What is named exists -------------------------------------------------------------------------


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", TEXTS[page])):
        path, _, anchor = target.partition("#")
        if path.startswith("https:"):
            continue
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


@pytest.mark.parametrize("page", TEXTS)
def test_paths_and_make_targets_exist(page):
    paths = r"`((?:src|tests|conf|scripts|docs|notebooks|benchmarks|resources)/[\w./*-]+)`"
    for path in re.findall(paths, TEXTS[page]):
        assert path.startswith("conf/local/") or list(ROOT.glob(path)), path
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^    |\$ )make ([a-z-]+)", TEXTS[page], re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= 200


# --- Commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_is_accepted(page, command, pipelines):
    """Its options, environment, parameters, pipelines, tags and nodes."""
    words = shlex.split(command, comments=True)[2:]
    given = read_options(find_run_command("candlecast"), words).params
    read = loader(given["env"] or "base")
    read.runtime_params = given["params"]
    parameters = {**read["parameters"]}
    if "momentum" in str(parameters["features"]):  # the feature that docs/extend.md makes
        parameters["features"] = "lags"
    check_parameters(parameters)
    nodes = {node.name: node.tags for pipeline in pipelines.values() for node in pipeline.nodes}
    assert set(given["pipelines"] or []) <= pipelines.keys()
    assert set(given["tags"]) <= set().union(*nodes.values())
    for option in ("node_names", "from_nodes", "to_nodes"):
        assert set(given[option]) <= nodes.keys()


def test_commands_are_found():
    assert len(COMMANDS) > 20
    assert ("docs/yahoo.md", "kedro run --env yahoo --tags preprocess,train,evaluate") in COMMANDS


# --- Versions -------------------------------------------------------------------------------------


def test_versions_agree():
    newest = re.search(r"^## (\S+)$", TEXTS["CHANGELOG.md"], re.MULTILINE)
    assert newest
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert newest[1] == citation["version"] == candlecast.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["license"] == project["license"]


def test_pre_commit_runs_the_locked_versions():
    """Of what is in the lock: by the environment. No other hook pins such a package."""
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    [local] = [each for each in config["repos"] if each["repo"] == "local"]
    tools = {hook["entry"].split()[0] for hook in local["hooks"]}
    assert tools == {".venv/bin/ruff"}
    assert "ruff" in locked
    others = [each["repo"].rpartition("/")[2] for each in config["repos"] if each is not local]
    assert others == ["pre-commit-hooks", "nbstripout"]
    assert not set(others) & set(locked)
    assert not any(
        "additional_dependencies" in hook for each in config["repos"] for hook in each["hooks"]
    )


# --- Tested blocks --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def used_project(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project after two runs, with the small parameters as a person's own."""
    project = copy_used_project(trained, tmp_path_factory.mktemp("docs") / "candlecast")
    (project / "conf/local/parameters.yml").write_text(yaml.safe_dump(SMALL))
    return project


def blocks(language: str) -> list[Any]:
    """Return the tested blocks of a language, each named by page and number."""
    return [
        pytest.param(block, id=f"{page}-{number}")
        for page, text in TEXTS.items()
        for number, (kind, block) in enumerate(TESTED.findall(text))
        if kind == language
    ]


def test_every_tested_block_is_one_that_is_run():
    assert {kind for text in TEXTS.values() for kind, _ in TESTED.findall(text)} == {
        "console",
        "python",
    }
    for text in TEXTS.values():
        assert len(re.findall("^<!-- tested", text, re.MULTILINE)) == len(TESTED.findall(text))


def without_times(text: str) -> str:
    """Return a log with all times and durations alike."""
    return re.sub(r"\d+\.\d s\b", "0.0 s", re.sub(r"^\d\d:\d\d:\d\d", "00:00:00", text, flags=re.M))


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("console"))
def test_a_console_block_gives_what_it_shows(block, used_project):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    starts = [match.start() for match in re.finditer(r"^\$ ", block, re.MULTILINE)]
    for start, end in pairwise([*starts, len(block)]):
        command, _, expected = block[start:end].partition("\n")
        done = subprocess.run(
            command.removeprefix("$ "),
            shell=True,
            cwd=used_project,
            env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        wanted, got = without_times(expected), without_times(done.stdout)
        options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert doctest.OutputChecker().check_output(wanted, got, options), done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"))
def test_a_python_block_gives_what_it_shows(block, used_project, spark):
    """In a session as `kedro ipython` has it."""
    bootstrap_project(used_project)
    with KedroSession.create(project_path=used_project) as session:
        from kedro.framework.project import pipelines

        names = {"catalog": session.load_context().catalog, "pipelines": pipelines}
        example = doctest.DocTestParser().get_doctest(block, names, "block", None, 0)
        options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        said: list[str] = []
        doctest.DocTestRunner(optionflags=options).run(example, out=said.append)
    assert not said, "".join(said)
