"""docs/gpu.md: what was checked and measured on a GPU beside the goals, and what has not been."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from tests.benchmarks.measure import ROOT
from tests.benchmarks.write import table

PAGE = ROOT / "docs" / "gpu.md"
NOTHING = "not measured yet"
NEVER = "**finetune has not run on a GPU yet.** What follows is what it will be held to.\n\n"
DRY = "**A dry run on the CPU: none of the figures means anything.**\n\n"

Known = Mapping[str, Any]
Text = Callable[[float], str]


def seconds(value: float) -> str:
    return f"{value:.1f} s"


def ratio(value: float) -> str:
    return f"{value:.1f}"


def per_second(value: float) -> str:
    return f"{value:,.0f}/s"


def percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def found(known: Known, kind: str) -> list[dict[str, Any]]:
    """What the rounds of a kind found, in order."""
    names = sorted(name for name in known if name.partition("/")[0] == kind)
    return [known[name]["found"] for name in names if "found" in known[name]]


def shown(values: Sequence[float], text: Text) -> str:
    """Median, range and number."""
    if not values:
        return NOTHING
    spread = (
        f" ({text(min(values))} to {text(max(values))}, n = {len(values)})" if len(values) > 1 else " (n = 1)"
    )
    return text(median(values)) + spread


def whole(known: Known, kind: str) -> list[float]:
    return [one["whole_seconds"] for one in found(known, kind)]


def times_of_ours(known: Known, program: str) -> list[float]:
    """How many times as long a program takes, round by round."""
    return [a / b for a, b in zip(whole(known, program), whole(known, "ours"), strict=False)]


def of_steps(known: Known, case: str, name: str) -> Any:
    """A value of the steps of a case; None if there is none."""
    runs = found(known, "steps")
    return runs[0][case].get(name) if runs else None


def busy(known: Known) -> list[float]:
    """The share of the time in which the GPU is busy, of A, B and C."""
    return [b for case in ("A", "B", "C live") if (b := of_steps(known, case, "busy")) is not None]


def goals(known: Known) -> str:
    """Each goal beside what was measured."""
    rows = [
        (
            "A, B and C, 30 epochs, prepared store, start-up included",
            "30 s",
            shown(whole(known, "ours"), seconds),
        ),
        ("the tutorial's loop / ours", "10", shown(times_of_ours(known, "tutorial"), ratio)),
        ("the expert's loop / ours", "3", shown(times_of_ours(known, "expert"), ratio)),
    ]
    for case, goal in (("A", 8_000), ("B", 8_000), ("C live", 20_000), ("C cached", 60_000)):
        rates = of_steps(known, case, "images_per_second") or []
        rows.append((f"{case}, training images", per_second(goal), shown(rates, per_second)))
    rows.append(("GPU busy while A, B and C train (live)", "90%", shown(busy(known), percent)))
    return table(("", "goal", "measured: median (range)"), rows)


def jobs(known: Known) -> str:
    """Where each program's time goes, and what it reaches."""
    parts: tuple[tuple[str, Callable[[dict[str, Any]], float | None], Text], ...] = (
        ("whole job", lambda one: one["whole_seconds"], seconds),
        ("start-up", lambda one: one.get("start_seconds"), seconds),
        ("opening the store", lambda one: one.get("decode_seconds"), seconds),
        ("training", lambda one: _spent(one, "train_seconds"), seconds),
        ("of that, waiting for images", lambda one: _spent(one, "data_wait_seconds"), seconds),
        ("evaluation", lambda one: _spent(one, "evaluation_seconds"), seconds),
        *(
            (f"{v}, test accuracy", lambda one, v=v: one["variants"][v]["test_accuracy"], _accuracy)
            for v in "ABC"
        ),
    )
    programs = ("ours", "expert", "tutorial")

    def cell(program: str, value: Callable[[dict[str, Any]], float | None], text: Text) -> str:
        values = [value(one) for one in found(known, program)]
        if values and None in values:
            return ""
        note = next((known[n] for n in known if n.startswith(f"{program}/") and "found" not in known[n]), {})
        if not values and "unfinished_after_seconds" in note:
            return f"not done after {note['unfinished_after_seconds']:.0f} s"
        return shown([v for v in values if v is not None], text)

    rows = [(label, *(cell(program, value, text) for program in programs)) for label, value, text in parts]
    return table(("", *programs), rows)


def _spent(one: dict[str, Any], name: str) -> float:
    return sum(sum(log[name]) for log in one["variants"].values())


def _accuracy(value: float) -> str:
    return f"{100 * value:.1f}%"


def steps(known: Known) -> str:
    """A training step of each case, by kind of kernel."""
    runs = found(known, "steps")
    if not runs:
        return NOTHING.capitalize() + ".\n"
    (cases,) = runs
    kinds = list(dict.fromkeys(k for case in cases.values() for k in case["kinds"]))
    rows: list[tuple[str, ...]] = [
        ("step", *(_us(case["step_us"]) for case in cases.values())),
        ("GPU busy", *(percent(case["busy"]) if case["busy"] else NOTHING for case in cases.values())),
        *((f"{k}", *(_us(case["kinds"].get(k, 0.0)) for case in cases.values())) for k in kinds),
        ("kernels launched", *(f"{case['launches']:.0f}" for case in cases.values())),
        ("waits for the GPU", *(f"{case['waits']:.2f}" for case in cases.values())),
        ("images evaluated", *(per_second(median(case["evaluated_per_second"])) for case in cases.values())),
    ]
    longest = [
        (case, f"`{kernel['name'][:90]}`", kernel["kind"], _us(kernel["us"]), f"{kernel['count']:.0f}")
        for case, values in cases.items()
        for kernel in values["kernels"][:3]
    ]
    text = table(("per step of 64 images", *cases), rows)
    return text + (
        "\n" + table(("", "longest kernels", "kind", "per step", "calls"), longest) if longest else ""
    )


def _us(value: float) -> str:
    return f"{value:,.0f} µs"


def checks(known: Known) -> str:
    """How many tests passed, and which did not."""
    if "check" not in known:
        return "Not run on a GPU yet.\n"
    outcomes = known["check"]["outcomes"]
    counts = Counter(outcomes.values())
    lines = [", ".join(f"{counts[name]} {name}" for name in ("passed", "failed", "skipped")) + "."]
    lines += [f"* {outcome}: `{test}`" for test, outcome in outcomes.items() if outcome != "passed"]
    return "\n\n".join(lines[:1]) + ("\n\n" + "\n".join(lines[1:]) if lines[1:] else "") + "\n"


def provenance(known: Known) -> str:
    """Each combination of GPU, machine and versions, and what was measured there."""
    where: dict[str, list[str]] = {}
    for name, entry in known.items():
        about = entry["about"]
        gpu = f"{about.get('gpu', 'no GPU')}, driver {about.get('driver', 'none')}, CUDA {about['cuda']}"
        text = f"{gpu}; {about['machine']}; {about['versions']}; {about['date']}, commit {about['commit']}"
        where.setdefault(text, []).append(name)
    lines = [f"* {', '.join(names)}: {text}, load {_load(known, names)}" for text, names in where.items()]
    return "\n".join(lines or ["Nothing was measured yet."]) + "\n"


def _load(known: Known, names: Iterable[str]) -> str:
    return f"{fmean(known[name]['about']['load'] for name in names):.1f}"


def page(known: Known) -> str:
    """The page, as text."""
    dry = any(entry["about"]["device"] == "cpu" for entry in known.values())
    status = DRY if dry else "" if found(known, "ours") else NEVER
    return (
        Path(__file__)
        .with_name("page.md")
        .read_text("utf-8")
        .format(
            status=status,
            goals=goals(known),
            jobs=jobs(known),
            steps=steps(known),
            checks=checks(known),
            provenance=provenance(known),
        )
    )


def write(known: Known, folder: Path | None = None) -> list[Path]:
    """Write the page and its JSON into a folder; None means where the documentation is.

    Returns:
        The files.
    """
    import json

    path = PAGE if folder is None else folder / PAGE.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(known), "utf-8")
    if not known:
        return [path]
    numbers = path.with_suffix(".json") if folder is None else folder / "gpu.json"
    numbers.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
    return [path, numbers]
