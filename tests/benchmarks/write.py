"""Write docs/benchmarks.md from the measured figures: `python -m tests.benchmarks.write`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks import figures
from tests.benchmarks.measure import ROOT, TINY, WORKLOADS

PAGE = figures.FILE.with_suffix(".md") if TINY else ROOT / "docs" / "benchmarks.md"
TITLES = {"flowers": "Flowers-102, 64 px", "hymenoptera": "ants and bees, 224 px"}
NOTHING = "not measured"

RATIO, SECONDS, PERCENT, POINTS, MEGABYTES, MICROSECONDS, MILLISECONDS = (
    (1.0, "{:.2f}", ""),
    (1.0, "{:.1f}", " s"),
    (100.0, "{:.1f}", "%"),
    (100.0, "{:+.1f}", ""),
    (1e-6, "{:,.0f}", " MB"),
    (1e6, "{:,.0f}", " µs"),
    (1e3, "{:,.0f}", " ms"),
)
"""Factor, format and suffix of a figure's unit."""

Unit = tuple[float, str, str]
Known = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One figure of both workloads.

    Args:
        label: its name in the table.
        figure: its name in the measurements.
        unit: its format.
        goals: by workload, as text.
    """

    label: str
    figure: str
    unit: Unit = RATIO
    goals: Mapping[str, str] = field(default_factory=dict)


def both(goal: str) -> dict[str, str]:
    return dict.fromkeys(WORKLOADS, goal)


def goals(flowers: str, hymenoptera: str) -> dict[str, str]:
    return {"flowers": flowers, "hymenoptera": hymenoptera}


def of_ours(
    label: str, figure: str, unit: Unit = RATIO, wanted: Mapping[str, str] | None = None
) -> tuple[Row, Row]:
    """A figure of finetune in the precision that it chooses, and in fp32."""
    return (
        Row(label, f"{figure}_auto", unit, wanted or {}),
        Row("the same in fp32", f"{figure}_fp32", unit, wanted or {}),
    )


WHOLE = (
    *of_ours("whole job: theirs / ours", "whole", RATIO, goals("≥ 1.5", "≥ 1.6")),
    Row("tuned, whole job: theirs at one rate / ours with trials", "tuned", RATIO, {"flowers": "≥ 1"}),
    *of_ours("A, training: theirs / ours", "train_A", RATIO, both("≥ 1.15")),
    *of_ours("B, training: theirs / ours", "train_B", RATIO, both("≥ 1.15")),
    *of_ours("C, training: theirs / ours", "train_C"),
    *(row for v in "ABC" for row in of_ours(f"{v}, evaluation: theirs / ours", f"evaluate_{v}")),
    *of_ours("C / B, seconds per epoch, ours", "c_over_b", RATIO, goals("≤ 0.55", "≤ 0.40")),
    Row("C / B, seconds per epoch, theirs", "c_over_b_theirs"),
    *of_ours("share of A's and B's training time spent waiting, ours", "wait", PERCENT, both("≤ 5%")),
    Row("the same share, theirs", "wait_theirs", PERCENT),
    *of_ours("whole job, ours", "seconds", SECONDS),
    Row("whole job, ours, tuned", "tuned_seconds", SECONDS),
    Row("whole job, theirs", "theirs_seconds", SECONDS),
    Row("decoding, empty cache", "decode_cold_seconds", SECONDS),
    Row("decoding, full cache", "decode_warm_seconds", SECONDS, both("< 1 s")),
    *of_ours("peak memory beyond torch's own, ours", "memory", MEGABYTES, goals("< 600 MB", "< 1,200 MB")),
    Row("peak memory, theirs including its workers", "memory_theirs", MEGABYTES),
    *(
        row
        for v in "ABC"
        for row in (
            *of_ours(f"{v}, test accuracy, ours", f"accuracy_{v}", PERCENT),
            Row(f"{v}, test accuracy, theirs", f"accuracy_theirs_{v}", PERCENT),
            *of_ours(f"{v}, ours − theirs, points, seed by seed", f"gain_{v}", POINTS),
            Row(f"{v}, test accuracy, ours, tuned", f"tuned_accuracy_{v}", PERCENT),
        )
    ),
)
CACHED = (
    Row("C, training, K = 1: tutorial / ours", "train_C_one", RATIO, goals("≥ 1.3", "≥ 2.2")),
    Row("C, training, K = epochs, first seed", "train_C_first"),
    Row("C, training, K = epochs, second seed", "train_C_second", RATIO, goals("≥ 1.3", "≥ 2.2")),
    Row("C / B, a median epoch, K = 1", "c_over_b_one", RATIO, goals("≤ 0.45", "≤ 0.22")),
    Row("C / B, a median epoch, K = epochs, first seed", "c_over_b_first"),
    Row(
        "C / B, a median epoch, K = epochs, second seed", "c_over_b_second", RATIO, goals("≤ 0.45", "≤ 0.22")
    ),
    Row("C, test accuracy, K = 1", "accuracy_C_one", PERCENT),
    Row("C, test accuracy, K = epochs", "accuracy_C_first", PERCENT),
)


def shown(known: Known, group: str, figure: str, unit: Unit) -> str:
    """The median, and the range of the samples if there are several."""
    try:
        found = known[group]["figures"][figure]
    except KeyError:
        return NOTHING
    factor, form, sign = unit
    text = form.format(factor * found["median"]) + sign
    values = [factor * value for value in found["samples"]]
    if len(values) > 1:
        text += f" ({form.format(min(values))} to {form.format(max(values))})"
    return text.replace("-", "−")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def compared(known: Known, group: str, rows: Iterable[Row], with_goals: bool = True) -> str:
    """A table of both workloads, with the goals beside the figures."""
    if not any(f"{group}/{workload}" in known for workload in WORKLOADS):
        return NOTHING + "\n"
    head = ["", *(cell for w in WORKLOADS for cell in ([TITLES[w], "goal"] if with_goals else [TITLES[w]]))]

    def cells(row: Row) -> Iterable[str]:
        yield row.label
        for workload in WORKLOADS:
            yield shown(known, f"{group}/{workload}", row.figure, row.unit)
            if with_goals:
                yield row.goals.get(workload, "")

    def measured(row: Row) -> bool:
        return any(row.figure in known.get(f"{group}/{w}", {"figures": {}})["figures"] for w in WORKLOADS)

    return table(head, (cells(row) for row in rows if with_goals or measured(row)))


def parts(known: Known) -> str:
    """The table of the single parts."""
    store = "store"
    rows = [
        *(
            (
                f"`{program} --help`, {clock}",
                shown(known, f"start/{program}", f"{name}_seconds", MILLISECONDS),
            )
            for program in ("finetune", "grader")
            for clock, name in (("wall time", "wall"), ("CPU time", "cpu"))
        ),
        ("decoding 397 photos at 64 px, one thread", shown(known, store, "one_decode_seconds", SECONDS)),
        ("the same, two threads", shown(known, store, "two_decode_seconds", SECONDS)),
        ("the same, found in the cache", shown(known, store, "warm_decode_seconds", SECONDS)),
        (
            "C on them, 3 epochs, whole job, empty cache",
            shown(known, store, "two_whole_seconds", SECONDS),
        ),
        ("the same, full cache", shown(known, store, "warm_whole_seconds", SECONDS)),
        (
            "the same, `--store off`: every image decoded in every epoch",
            shown(known, store, "off_whole_seconds", SECONDS),
        ),
    ]
    for size in (64, 224):
        group = f"augment/{size}"
        rows += [
            (
                f"crop and flip of a stored image to {size} px, ours",
                shown(known, group, "ours", MICROSECONDS),
            ),
            ("the same, torchvision on Pillow", shown(known, group, "theirs", MICROSECONDS)),
            ("torchvision / ours", shown(known, group, "ratio", RATIO)),
        ]
    for size, batch in ((64, 64), (224, 32)):
        group = f"step/{size}"
        rows += [
            (f"a step of {batch} images of {size} px, NCHW", shown(known, group, "nchw", MILLISECONDS)),
            ("the same, channels_last", shown(known, group, "channels_last", MILLISECONDS)),
            ("NCHW / channels_last", shown(known, group, "ratio", RATIO)),
            ("the same step in bf16", shown(known, group, "bf16", MILLISECONDS)),
            ("fp32 / bf16", shown(known, group, "bf16_ratio", RATIO)),
        ]
    for size, batch in ((64, 64), (224, 32)):
        group = f"forward/{size}"
        for precision in ("fp32", "bf16"):
            rows += [
                (
                    f"{batch} images of {size} px in eval mode, {precision}, plain",
                    shown(known, group, f"{precision}_plain", MILLISECONDS),
                ),
                ("the same, fused", shown(known, group, f"{precision}_fused", MILLISECONDS)),
                ("plain / fused", shown(known, group, f"{precision}_ratio", RATIO)),
            ]
    return table(("part", "median (range)"), rows)


def growth(known: Known) -> str:
    """One table per quantity that a job grows with."""
    jobs = [entry for group, entry in known.items() if group.startswith("growth/")]
    if not jobs:
        return NOTHING + "\n"
    base = {name: min(job["about"][name] for job in jobs) for name in ("n_images", "epochs", "image_size")}
    columns: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("decoding", "decode_seconds", "{:.1f} s".format),
        ("training per epoch, A + B + C", "epoch_seconds", "{:.1f} s".format),
        ("whole job", "whole_seconds", "{:.0f} s".format),
        ("peak memory including torch's own", "peak_memory_bytes", lambda v: f"{v / 1e6:,.0f} MB"),
    )
    tables = []
    for name, title in (("n_images", "images"), ("epochs", "epochs"), ("image_size", "pixels")):
        rows = sorted(
            (
                job
                for job in jobs
                if all(job["about"][other] == base[other] for other in base if other != name)
            ),
            key=lambda job: int(job["about"][name]),
        )
        tables.append(
            table(
                (title, *(column for column, _, _ in columns)),
                (
                    (
                        f"{job['about'][name]:,}",
                        *(form(job["figures"][figure]["median"]) for _, figure, form in columns),
                    )
                    for job in rows
                ),
            )
        )
    return "\n".join(tables)


def provenance(known: Known) -> str:
    """When, on which machine and how often each part was measured."""
    machines = list(
        dict.fromkeys(f"{e['about']['machine']}; {e['about']['versions']}" for e in known.values())
    )
    rows = [
        (
            group,
            str(max(len(f["samples"]) for f in entry["figures"].values())),
            entry["about"]["date"],
            entry["about"]["commit"],
            str(machines.index(f"{entry['about']['machine']}; {entry['about']['versions']}") + 1),
            f"{entry['about']['load']:.1f}",
        )
        for group, entry in sorted(known.items())
        if not group.startswith("growth/")
    ]
    listed = "\n".join(f"{number}. {machine}" for number, machine in enumerate(machines, 1))
    head = ("part", "n", "date", "commit", "machine", "load")
    return f"{listed}\n\n{table(head, rows)}"


def workers(known: Known) -> str:
    """How many loader processes the tutorial used, and why."""
    sentences = []
    for workload in WORKLOADS:
        about = known.get(f"tutorial/{workload}", {}).get("about")
        if about:
            took = ", ".join(f"{s:.1f} s with {w}" for w, s in about["probe"].items()) or "as requested"
            sentences.append(f"{TITLES[workload]}: {about['workers']} ({took}).")
    return " ".join(sentences) or f"{NOTHING.capitalize()}."


def commands() -> str:
    """The commands of the two workloads."""
    lines = []
    for workload in WORKLOADS.values():
        lines += [
            f"    finetune train {' '.join(workload.arguments)}",
            f"    python -m tests.benchmarks.tutorial {' '.join(workload.arguments)} --workers W",
            f"    python -m tests.benchmarks.reference {' '.join(workload.arguments)} --workers 2",
        ]
    return "\n".join(lines) + "\n"


def page(known: Known) -> str:
    """The page, as text."""
    return (
        Path(__file__)
        .with_name("page.md")
        .read_text("utf-8")
        .format(
            workers=workers(known),
            commands=commands(),
            tutorial=compared(known, "tutorial", WHOLE),
            reference=compared(known, "reference", WHOLE, with_goals=False),
            cached=compared(known, "cached", CACHED),
            parts=parts(known),
            growth=growth(known),
            provenance=provenance(known),
        )
    )


def main() -> None:
    PAGE.write_text(page(figures.load()), "utf-8")


if __name__ == "__main__":
    main()
