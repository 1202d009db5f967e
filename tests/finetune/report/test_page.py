"""report.html: what it says, for whom it works, and what it never does."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from finetune.errors import RunFolderError
from finetune.report.contents import run_context
from finetune.report.judged import judged
from finetune.report.page import page as page_of
from finetune.report.page import plain, write_report
from grader.findings import Status
from grader.grading.grade import Job, grade
from grader.grading.policy import load_policy
from tests.builders.reports import HOSTILE, edit_results, simulated_run
from tests.grader.honest import Size

SMOKE_RUN = Path(__file__).parents[2] / "grader" / "smoke-run"
"""Written under version 1.0 of the results schema."""


def page(runs: list[Path]) -> str:
    """The page of runs that are judged first."""
    return page_of(judged(runs))


def parse(text: str) -> ET.Element:
    """The page as elements; it is well-formed XML too, so that nothing depends on a parser's repairs."""
    start = "<!DOCTYPE html>\n"
    assert text.startswith(start)
    return ET.fromstring(text.removeprefix(start))  # noqa: S314 - our own page


def words(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated_run(tmp_path_factory.mktemp("simulated") / "run")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    return simulated_run(folder / "run", classes=HOSTILE, images=folder / "images")


@pytest.fixture(scope="module", params=["run", "hostile", "comparison"])
def tree(request: pytest.FixtureRequest, run: Path, hostile: Path) -> ET.Element:
    return parse(page({"run": [run], "hostile": [hostile], "comparison": [run, hostile]}[request.param]))


class TestWhateverItShows:
    def test_it_names_no_address(self, tree: ET.Element) -> None:
        addresses = [
            value
            for element in tree.iter()
            for name, value in element.items()
            if name in ("href", "src", "srcset", "action", "data", "poster", "background", "xlink:href")
        ]
        assert {address[:1] if address[0] == "#" else address[:11] for address in addresses} <= {
            "#",
            "data:image/",
        }

    def test_it_has_no_scripts_nor_handlers(self, tree: ET.Element) -> None:
        tags = {element.tag for element in tree.iter()}
        assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "foreignObject"}
        attributes = {name for element in tree.iter() for name in element.attrib}
        assert not [name for name in attributes if name.startswith("on") or name == "style"]

    def test_its_policy_allows_its_own_style_alone(self, tree: ET.Element) -> None:
        (style,) = tree.iter("style")
        digest = base64.b64encode(hashlib.sha256((style.text or "").encode()).digest()).decode()
        (policy,) = (
            m.get("content") for m in tree.iter("meta") if m.get("http-equiv") == "Content-Security-Policy"
        )
        assert policy == (
            f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
            "form-action 'none'"
        )
        assert not re.search(r"url\(|@import|expression", style.text or "")

    def test_it_can_be_read_aloud(self, tree: ET.Element) -> None:
        for svg in tree.iter("svg"):
            assert svg.get("aria-hidden") == "true" or (svg.get("role") == "img" and svg.get("aria-label"))
        assert all(image.get("alt") for image in tree.iter("img"))
        for table in tree.iter("table"):
            assert words(table[0])
            assert table[0].tag == "caption"
        assert all(th.get("scope") for th in tree.iter("th"))
        assert tree.get("lang") == "en"

    def test_ids_are_unique_and_links_lead_to_them(self, tree: ET.Element) -> None:
        ids = [element.get("id") for element in tree.iter() if element.get("id")]
        assert len(set(ids)) == len(ids)
        assert {a.get("href", "")[1:] for a in tree.iter("a")} <= set(ids)
        assert {e.get("aria-labelledby") for e in tree.iter("section")} <= set(ids)

    def test_headings_leave_out_no_level(self, tree: ET.Element) -> None:
        levels = [int(e.tag[1]) for e in tree.iter() if re.fullmatch("h[1-6]", str(e.tag))]
        assert levels[0] == 1
        assert all(b - a <= 1 for a, b in itertools.pairwise(levels))

    def test_it_names_no_folder(self, run: Path, hostile: Path) -> None:
        assert str(run.parent) not in page([run])
        assert str(hostile.parent) not in page([hostile])


class TestOfOneRun:
    def test_it_begins_with_the_graders_verdict_and_its_scope(self, run: Path) -> None:
        (verdict,) = (s for s in parse(page([run])).iter("section") if s.get("id") == "verdict")
        found = grade(Job(run, "run", load_policy("default")))
        assert len(found.verdict) >= 3
        for sentence in found.sentences:
            assert sentence.removeprefix("Scope: ")[1:].replace("`", "") in words(verdict)
        assert "270 test images of digits (split 70-15-15) at 32 pixels, 4 epochs and 1 seed" in words(
            verdict
        )

    def test_it_checks_what_the_grader_checks(self, photos_run: tuple[Path, Path]) -> None:
        folder = photos_run[0]
        (found,) = judged([folder])
        expected = grade(Job(folder, "run", load_policy("default")))
        assert found.grade.findings["checkpoints-intact"].status is Status.HOLDS
        assert {n: f.status for n, f in found.grade.findings.items()} == {
            n: f.status for n, f in expected.findings.items()
        }

    def test_a_row_for_each_variant(self, run: Path) -> None:
        (results,) = (s for s in parse(page([run])).iter("section") if s.get("id") == "results")
        rows = [words(row) for row in results.iter("tr")]
        assert [row.split()[0] for row in rows[1:]] == ["A", "B", "C"]
        assert "11,181,642" in rows[1]
        assert "8,398,858" in rows[3]
        assert "layer4, fc" in rows[3]

    def test_the_differences_have_the_intervals_of_the_grader(self, run: Path) -> None:
        (differences,) = (s for s in parse(page([run])).iter("section") if s.get("id") == "differences")
        found = grade(Job(run, "run", load_policy("default"))).findings
        for name in ("b-beats-a", "c-beats-a", "c-against-b"):
            interval = found[name].summary.partition("= ")[2].partition(")")[0]
            assert interval
            assert interval + ")" in words(differences)

    def test_every_section(self, run: Path) -> None:
        ids = [s.get("id") for s in parse(page([run])).iter("section")]
        assert ids == [
            *("verdict", "results", "curves", "differences", "photos", "confusion", "classes"),
            *("layers", "setup"),
        ]

    def test_curves_of_all_variants_in_each_panel(self, run: Path) -> None:
        (curves,) = (s for s in parse(page([run])).iter("section") if s.get("id") == "curves")
        panels = [svg for svg in curves.iter("svg") if svg.get("role") == "img"]
        assert len(panels) == 6
        for panel in panels:
            assert len(list(panel.iter("polyline"))) == 3
            assert len([c for c in panel.iter("circle") if c.get("class", "").startswith("ring")]) == 3
            assert "images of digits" in panel.get("aria-label", "")

    def test_the_command_that_repeats_the_run(self, tmp_path: Path, hostile: Path) -> None:
        assert "finetune train --preset run/config.toml" in page([hostile])
        folder = simulated_run(tmp_path / "run with 'blanks'")
        assert "there is no single command" in page([folder])

    def test_several_seeds(self, tmp_path: Path) -> None:
        text = page([simulated_run(tmp_path / "run", Size(seeds=(0, 1, 2)))])
        assert "Means over 3 seeds" in text
        assert text.count('<polygon class="band') == 18
        assert "Dots are single seeds" in words(parse(text))

    def test_a_run_of_schema_1(self) -> None:
        found = grade(Job(SMOKE_RUN, "run", load_policy("default")))
        said = words(parse(page([SMOKE_RUN])))
        assert all(s.removeprefix("Scope: ")[1:].replace("`", "") in said for s in found.verdict)

    def test_a_thousand_classes(self, tmp_path: Path) -> None:
        names = [f"class number {n} of a thousand" for n in range(1000)]
        text = page([simulated_run(tmp_path / "run", Size(1000, 3000, 3000, 3000, 2), names)])
        assert len(text.encode()) < 5_000_000
        tree = parse(text)
        (classes,) = (s for s in tree.iter("section") if s.get("id") == "classes")
        assert [len(list(table.iter("tr"))) for table in classes.iter("table")] == [11, 991]
        assert "the 12 of 1000 classes with the most confusions" in words(tree)

    def test_photos_are_embedded(self, hostile: Path) -> None:
        (photos,) = (s for s in parse(page([hostile])).iter("section") if s.get("id") == "photos")
        images = list(photos.iter("img"))
        assert len(images) > 12
        assert all(i.get("src", "").startswith("data:image/webp;base64,") for i in images)
        assert "missing" not in words(photos)

    def test_photos_that_are_gone(self, run: Path, tmp_path: Path) -> None:
        assert "pictures are missing: config.toml" in words(parse(page([run])))
        gone = simulated_run(tmp_path / "run", images=tmp_path / "images")
        (tmp_path / "images").rename(tmp_path / "elsewhere")
        assert "pictures are missing: they are no longer where the run found them" in words(
            parse(page([gone]))
        )


class TestHostileNames:
    def test_they_are_shown_as_they_are(self, hostile: Path) -> None:
        shown = {bdi.text for bdi in parse(page([hostile])).iter("bdi")}
        for name in HOSTILE:
            assert plain(name) in shown

    def test_nothing_is_evaluated(self, hostile: Path) -> None:
        assert str(7 * 191) not in re.sub('base64,[^"]+', "", page([hostile]))

    def test_names_cannot_turn_the_text_around_them(self, hostile: Path) -> None:
        assert not set(page([hostile])) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

    def test_long_names_are_shortened(self) -> None:
        assert plain("x" * 500) == "x" * 39 + "…" + "x" * 20
        assert plain("two\nlines\0") == "two lines"


def fail(*names: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for run in document["runs"]:
            if run["variant"] in names:
                failure = {"status": "failed", "failure": "The loss became <NaN>."}
                run |= failure | {"best_epoch": None, "artifacts": None, "epochs": []}

    return change


class TestIncompleteRuns:
    def test_a_failed_variant(self, tmp_path: Path) -> None:
        folder = edit_results(simulated_run(tmp_path / "run"), fail("A"))
        text = words(parse(page([folder])))
        assert "A-seed0: The loss became <NaN>." in text
        assert "B-seed0" in text

    def test_nothing_but_failures(self, tmp_path: Path) -> None:
        folder = edit_results(simulated_run(tmp_path / "run"), fail("A", "B", "C"))
        ids = [s.get("id") for s in parse(page([folder])).iter("section")]
        assert ids == ["verdict", "failures", "setup"]
        parse(page([folder, folder]))

    def test_no_predictions(self, tmp_path: Path) -> None:
        folder = simulated_run(tmp_path / "run")
        for file in (folder / "predictions").iterdir():
            file.unlink()
        ids = [s.get("id") for s in parse(page([folder])).iter("section")]
        assert ids == ["verdict", "results", "curves", "differences", "layers", "setup"]

    def test_one_epoch(self, tmp_path: Path) -> None:
        parse(page([simulated_run(tmp_path / "run", Size(epochs=1))]))


class TestTuned:
    def test_curves_and_choices(self, tmp_path: Path) -> None:
        def trial(variant: str, rate: float, *n_correct: int) -> dict[str, Any]:
            validation = [{"loss_sum": 9.0, "n_correct": n, "n_samples": 100} for n in n_correct]
            return {
                "variant": variant,
                "learning_rate": rate,
                "for_seed": None,
                "round": 1,
                "epochs": 2,
                "validation": validation,
            }

        tuned = {
            "mode": "full",
            "seed": 9,
            "trials": [trial("A", 0.01, 40, 50), trial("A", 0.1, 70), trial("B", 0.01, 90), trial("B", 0.1)],
            "choices": [
                {"variant": "A", "learning_rate": 0.1, "for_seed": None, "trial": 1, "extensions": 0},
                {"variant": "B", "learning_rate": 0.01, "for_seed": None, "trial": 2, "extensions": 0},
            ],
        }
        (run,) = judged([simulated_run(tmp_path / "run")])
        run = dataclasses.replace(run, document={**run.document, "tuning": tuned})
        values = run_context(run)
        panel = ET.fromstring(values["tuning"])  # noqa: S314 - our own picture
        assert panel.get("aria-label", "").endswith("Chosen: A 0.1, B 0.01.")
        assert len(list(panel.iter("circle"))) == 2
        assert [best for _, best in values["trials"]] == [0.5, 0.7, 0.9, None]
        assert ("tuning", "Tuning") in values["sections"]


class TestBadInput:
    def test_not_a_run_folder(self, tmp_path: Path) -> None:
        with pytest.raises(RunFolderError, match=r"^A report needs run folders .*; name another folder\.$"):
            page([tmp_path])

    def test_a_place_that_cannot_be_written(self, run: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(RunFolderError, match=r"report\.html cannot be written"):
            write_report(judged([run]), tmp_path / "file" / "report.html")
