"""The committed notebooks hold no output, and run from top to bottom on a trained data root."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager, start_new_kernel
from nbclient import NotebookClient

from conftest import ROOT, SMALL, copy_used_project, run_session

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_four_notebooks_are_committed_without_output() -> None:
    assert [path.name[0] for path in NOTEBOOKS] == ["1", "2", "3", "4"]
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        code = [cell for cell in cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in code), path.name


@pytest.fixture(scope="module")
def project_with_data(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which first was trained and registered, and has made forecasts."""
    project = copy_used_project(trained, tmp_path_factory.mktemp("notebooks") / "candlecast")
    (project / "conf/local").mkdir(exist_ok=True)
    (project / "conf/local/parameters.yml").write_text("folds: 2\n")
    given = {key: SMALL[key] for key in ("tickers", "start")}
    run_session(project / "data", pipeline_names=["forecast"], **given)
    shutil.copytree(ROOT / "notebooks", project / "notebooks")
    return project


@pytest.fixture(scope="module")
def kernel(project_with_data: Path) -> Iterator[KernelManager]:
    """One kernel for all notebooks: the start of Python and Spark takes longer than most."""
    manager, client = start_new_kernel(cwd=str(project_with_data / "notebooks"))
    client.stop_channels()
    yield manager
    manager.shutdown_kernel(now=True)


FORGET = """\
get_ipython().extension_manager.loaded.clear()
%reset -f
assert "catalog" not in globals() and "plt" not in globals()
"""
"""Forgets what the notebook before has left: its names, and the extension that made `catalog`."""


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, kernel: KernelManager) -> None:
    book = nbformat.read(path, as_version=4)
    book.cells.insert(0, nbformat.v4.new_code_cell(FORGET))
    client = NotebookClient(book, km=kernel, timeout=240)
    try:
        client.execute()
    finally:
        client.kc.stop_channels()
