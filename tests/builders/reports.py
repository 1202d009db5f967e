"""Run folders for the tests of the report: simulated, so without torch, with names and images of choice."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tests.grader.honest import Size, write_run

HOSTILE = (
    "<script>window.pwned = 1</script>",
    '"><img src="http://example.org/x" onerror="window.pwned = 1">',
    "</style></title><script>window.pwned = 1</script>",
    "' onmouseover='window.pwned = 1",
    "{{ 7 * 191 }}{% raw %}",
    "\u202egnp.live\u2066",
    "&lt;b&gt; &amp; <b>",
    "javascript:window.pwned=1",
    "ünï ❀ " + "long" * 100,
    "-->]]><svg onload=window.pwned=1>",
)
"""Names that a page must show as what they are."""


def edit_results(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Change results.json of a run folder."""
    file = folder / "results.json"
    document = json.loads(file.read_text("utf-8"))
    change(document)
    file.write_text(json.dumps(document, ensure_ascii=False), "utf-8")
    return folder


def simulated_run(
    folder: Path, size: Size | None = None, classes: Sequence[str] = (), images: Path | None = None
) -> Path:
    """An honest run folder.

    Args:
        folder: where to write it.
        size: of the experiment.
        classes: names in place of "0", "1" and so on.
        images: folder for gray test images, with names that contain those of their classes; none if None.
    """
    write_run(folder, size)
    names = classes or json.loads((folder / "results.json").read_text("utf-8"))["dataset"]["classes"]
    edit_results(folder, lambda document: document["dataset"].update(classes=list(names)))
    if images is not None:
        (folder / "config.toml").write_text(f"dataset = {json.dumps(f'imagefolder:{images}')}\n", "utf-8")
        _rename_images(folder, names, images)
    return folder


def _rename_images(folder: Path, names: Sequence[str], images: Path) -> None:
    """Name the images in the predictions after their classes and write them."""
    written: dict[str, str] = {}
    for file in sorted((folder / "predictions").glob("*.csv")):
        header, *rows = csv.reader(file.read_text("utf-8").splitlines())
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        for old, *rest in rows:
            label = names[int(rest[0])].replace("/", "\u2215")[:60]
            name = f"./{label}/{old} {label}.png"
            writer.writerow([name, *rest])
            if file.stem.endswith("-test") and name not in written:
                path = images / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (40, 30), 25 * int(rest[0]) % 256).save(path)
        file.write_text(text.getvalue(), "utf-8")
        written |= {f"predictions/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()}

    def change(document: dict[str, Any]) -> None:
        for run in document["runs"]:
            for artifact in run["artifacts"].values():
                artifact["sha256"] = written.get(artifact["path"], artifact["sha256"])

    edit_results(folder, change)
