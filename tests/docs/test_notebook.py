"""The example notebook runs from top to bottom, on photos of the test's own."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.builders.images import image_tree
from tests.docs.markdown import ROOT

NOTEBOOK = ROOT / "examples" / "flowers.ipynb"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's own packages
def test_it_runs(notebook: nbformat.NotebookNode, tmp_path: Path) -> None:
    image_tree(tmp_path / "photos", {"daisy": 14, "dandelion": 14})
    settings = {"weights": "bundled", "image_size": 32, "epochs": 1, "threads": 1}
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = f"DATASET = PHOTOS = {str(tmp_path / 'photos')!r}\nSETTINGS = {settings}"
    client = NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    text = json.dumps(notebook)
    assert "image/png" in text, "the curves"
    assert "daisy" in text, "a table of predictions"
    assert list(tmp_path.glob("runs/*/report.html"))


def test_it_is_stored_with_its_outputs(notebook: nbformat.NotebookNode) -> None:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [out for cell in cells for out in cell.outputs if out.output_type == "error"]


def test_it_is_stored_without_photos_of_other_people(notebook: nbformat.NotebookNode) -> None:
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    pictures = [out for out in outputs if any(kind.startswith("image/") for kind in out.get("data", {}))]
    assert len(pictures) == 1, "the curves"


def test_it_names_no_folder_of_the_machine_that_ran_it(notebook: nbformat.NotebookNode) -> None:
    assert "/home/" not in (text := json.dumps(notebook))
    assert "/tmp/" not in text  # noqa: S108 - not used as a folder
