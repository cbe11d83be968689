"""The committed notebooks hold no output, and run from top to bottom on a trained data root."""

import shutil
from pathlib import Path

import nbformat
import pytest
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
    given = {key: SMALL[key] for key in ("tickers", "start")}
    run_session(project / "data", pipeline_names=["forecast"], **given)
    return project


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, project_with_data: Path) -> None:
    folder = shutil.copytree(
        ROOT / "notebooks", project_with_data / "notebooks", dirs_exist_ok=True
    )
    book = nbformat.read(path, as_version=4)
    NotebookClient(
        book, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
