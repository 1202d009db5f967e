"""Forged and broken runs, each made from an honest one by changing one thing.

`python -m tests.grader.forgeries HONEST OUT` writes them all as folders, to look at.
"""

import contextlib
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from grader.evidence.gathered import Evidence, Thresholds, gather
from grader.statistics.calibration import expected_calibration_error
from grader.submission import commitments, resnet18
from grader.submission.load import Submission
from grader.submission.record import SPLITS, results_from
from tests.grader.honest import commit, truth_of

SMOKE = Path(__file__).parent / "smoke-run"
"""A real run."""

Rows = list[list[str]]


class Forger:
    """A copy of an honest run, open on the bench."""

    def __init__(self, honest: Path, folder: Path) -> None:
        shutil.copytree(honest, folder)
        self.folder = folder
        self.doc: dict[str, Any] = json.loads((folder / "results.json").read_text())

    def save(self) -> None:
        """Write the results, with commitments that fit the figures, as a careful forger would."""
        if self.doc["schema_version"] != "1.0":
            with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError, OSError, IndexError):
                self._commit()  # unless a forgery cannot even be read
        (self.folder / "results.json").write_text(json.dumps(self.doc))

    def _commit(self) -> None:
        for run in self.doc["runs"]:
            best = next((e for e in run["epochs"] if e["epoch"] == run["best_epoch"]), None)
            columns = []
            for split in SPLITS if best and run["artifacts"] else ():
                path = self.folder / run["artifacts"][f"{split}_predictions"]["path"]
                rows = [row.split(",") for row in path.read_text().splitlines()[1:]]
                columns.append(tuple(np.array([float(row[i]) for row in rows]) for i in (2, 3, 4)))
            if best and columns:
                best["predictions_sha256"] = commitments.of_predictions(columns)
        commit(self.doc)

    def run(self, variant: str, seed: int = 0) -> dict[str, Any]:
        return next(r for r in self.doc["runs"] if (r["variant"], r["seed"]) == (variant, seed))

    def best(self, variant: str, seed: int = 0) -> dict[str, Any]:
        run = self.run(variant, seed)
        return next(e for e in run["epochs"] if e["epoch"] == run["best_epoch"])

    def path(self, variant: str, split: str, seed: int = 0) -> Path:
        return self.folder / self.run(variant, seed)["artifacts"][f"{split}_predictions"]["path"]

    def rows(self, variant: str, split: str, seed: int = 0) -> Rows:
        return [line.split(",") for line in self.path(variant, split, seed).read_text().splitlines()[1:]]

    def write_rows(self, variant: str, split: str, rows: Rows, seed: int = 0) -> None:
        """Write the rows, with confidences that fit the losses."""
        for row in rows:
            of_label = math.exp(-float(row[3]))
            if row[4:] and row[1] == row[2] and abs(of_label - float(row[4])) > 1e-5:
                row[4] = f"{of_label:.9g}"
            elif row[4:] and row[1] != row[2] and of_label <= 0.5:
                row[4] = f"{min(max(float(row[4]), of_label), 1 - of_label):.9g}"
        header = self.path(variant, split, seed).read_text().partition("\n")[0]
        lines = [header, *(",".join(row) for row in rows), ""]
        self.write(variant, split, "\n".join(lines).encode(), seed)

    def write(self, variant: str, split: str, content: bytes, seed: int = 0) -> None:
        """Put a file there and record its hash, as a careful forger would."""
        self.path(variant, split, seed).write_bytes(content)
        artifact = self.run(variant, seed)["artifacts"][f"{split}_predictions"]
        artifact["sha256"] = hashlib.sha256(content).hexdigest()

    def record(self, variant: str, split: str, seed: int = 0) -> None:
        """Make the chosen epoch's figures those of the file."""
        rows = self.rows(variant, split, seed)
        self.best(variant, seed)[split] = {
            "loss_sum": float(np.float32([row[3] for row in rows]).sum(dtype=np.float64)),
            "n_correct": sum(row[1] == row[2] for row in rows),
            "n_samples": len(rows),
        }
        if rows[0][4:]:
            confidence, correct = ([float(r[4]) for r in rows], [r[1] == r[2] for r in rows])
            error = expected_calibration_error(np.array(confidence), np.array(correct))
            self.run(variant, seed)["calibration"][f"ece_{split}"] = error


@dataclass(frozen=True)
class Forgery:
    """One forged run, and what must catch it.

    Attributes:
        name: Of the forgery.
        caught_by: The property that must fail, alone; or `unusable`.
        change: Makes it.
        says: What the problem must say, for unusable ones.
        truth: Whether it shows only against the truth.
    """

    name: str
    caught_by: str
    change: Callable[[Forger], None]
    says: str = ""
    truth: bool = False


def evidence_of(entry: Forgery, folder: Path) -> Evidence:
    """What the grader gathers from a forgery of the real run, made in a new folder."""
    forger = Forger(SMOKE, folder)
    entry.change(forger)
    truth = truth_of(SMOKE) if entry.truth else None
    return gather(Submission(forger.folder, results_from(forger.doc), forger.doc), Thresholds(), truth)


FORGERIES: list[Forgery] = []


def forgery(
    caught_by: str, says: str = "", truth: bool = False
) -> Callable[[Callable[[Forger], None]], Callable[[Forger], None]]:
    def register(change: Callable[[Forger], None]) -> Callable[[Forger], None]:
        FORGERIES.append(Forgery(change.__name__, caught_by, change, says, truth))
        return change

    return register


# What the file alone gives away.


@forgery("complete")
def a_run_left_out(f: Forger) -> None:
    f.doc["runs"].remove(f.run("C"))


@forgery("complete")
def a_failed_run(f: Forger) -> None:
    f.run("C").update(status="failed", failure="loss became nan in epoch 2")


@forgery("complete")
def a_seed_more_configured_than_trained(f: Forger) -> None:
    f.doc["config"]["seeds"].append(99)


@forgery("complete")
def a_completed_run_with_a_failure(f: Forger) -> None:
    f.run("B")["failure"] = "something"


@forgery("complete")
def a_run_of_a_variant_not_configured(f: Forger) -> None:
    f.doc["config"]["variants"] = [v for v in f.doc["config"]["variants"] if v["name"] != "C"]


@forgery("split-counts")
def fewer_test_samples_counted(f: Forger) -> None:
    f.run("B")["epochs"][0]["test"]["n_samples"] -= 10


@forgery("split-counts")
def fewer_training_images_counted(f: Forger) -> None:
    for epoch in f.run("A")["epochs"]:
        epoch["train"]["n_samples"] -= 7


@forgery("split-counts")
def more_right_than_there_are(f: Forger) -> None:
    metrics = f.run("B")["epochs"][0]["test"]
    metrics["n_correct"] = metrics["n_samples"] + 1


@forgery("split-counts")
def a_larger_test_split(f: Forger) -> None:
    f.doc["dataset"]["splits"]["test"]["n_samples"] += 100


@forgery("split-counts")
def a_class_count_raised(f: Forger) -> None:
    f.doc["dataset"]["splits"]["val"]["class_counts"][0] += 1


@forgery("split-counts")
def test_split_is_the_validation_split(f: Forger) -> None:
    splits = f.doc["dataset"]["splits"]
    splits["test"]["fingerprint"] = splits["val"]["fingerprint"]


@forgery("split-counts")
def more_images_than_the_subset_allows(f: Forger) -> None:
    f.doc["config"]["subset"] = 3


@forgery("split-counts")
def a_class_name_left_out(f: Forger) -> None:
    f.doc["dataset"]["splits"]["train"]["class_counts"].pop()


@forgery("epochs-in-order")
def an_epoch_left_out(f: Forger) -> None:
    run = f.run("A")
    del run["epochs"][0 if run["best_epoch"] != 1 else 1]


@forgery("epochs-in-order")
def an_epoch_twice(f: Forger) -> None:
    f.run("A")["epochs"][0]["epoch"] = 2


@forgery("epochs-in-order")
def more_epochs_claimed_than_listed(f: Forger) -> None:
    f.run("B")["budget"]["epochs"] += 1


@forgery("epochs-in-order")
def one_variant_trained_longer(f: Forger) -> None:
    run = f.run("B")
    run["epochs"].append({**run["epochs"][-1], "epoch": len(run["epochs"]) + 1})
    run["budget"]["epochs"] += 1


@forgery("as-configured")
def another_learning_rate_than_configured(f: Forger) -> None:
    run = f.run("B")
    run["learning_rate"] *= 2
    for epoch in run["epochs"]:
        epoch["learning_rate"] *= 2


@forgery("as-configured")
def a_start_other_than_configured(f: Forger) -> None:
    f.run("A")["init"] = "pretrained"


@forgery("as-configured")
def a_group_thawed_against_the_configuration(f: Forger) -> None:
    f.run("C")["trained_groups"].insert(0, "layer3")


def _configure(f: Forger, variant: str, **changes: Any) -> None:
    """Change a variant and, consistently, all its runs."""
    next(v for v in f.doc["config"]["variants"] if v["name"] == variant).update(changes)
    for run in (run for run in f.doc["runs"] if run["variant"] == variant):
        if "train" in changes:
            run["trained_groups"] = list(changes["train"])
            _list_parameters(f, run)
        if "init" in changes:
            run.update(init=changes["init"], initial_sha256=f"{run['seed']:064x}")


@forgery("roles")
def c_trains_layer3_too(f: Forger) -> None:
    _configure(f, "C", train=["layer3", "layer4", "fc"])


@forgery("roles")
def c_trains_the_head_only(f: Forger) -> None:
    _configure(f, "C", train=["fc"])


@forgery("roles")
def b_starts_from_random_weights(f: Forger) -> None:
    _configure(f, "B", init="random")


@forgery("parameter-totals")
def fewer_trained_parameters_claimed(f: Forger) -> None:
    f.run("C")["n_trained"] = 5130


@forgery("parameter-totals")
def frozen_parameters_left_uncounted(f: Forger) -> None:
    f.run("C")["n_frozen"] -= 1


@forgery("parameter-totals")
def a_count_that_is_not_its_shape(f: Forger) -> None:
    f.run("B")["trainable_parameters"][0]["count"] += 1


@forgery("resnet18-layers")
def a_parameter_left_off_the_list(f: Forger) -> None:
    run = f.run("C")
    gone = run["trainable_parameters"].pop()
    run["n_trained"] -= gone["count"]
    run["n_frozen"] += gone["count"]


@forgery("resnet18-layers")
def a_layer_renamed(f: Forger) -> None:
    f.run("B")["trainable_parameters"][3]["name"] = "layer1.0.conv1.kernel"


@forgery("resnet18-layers")
def a_shape_transposed(f: Forger) -> None:
    f.run("B")["trainable_parameters"][0]["shape"].reverse()


@forgery("frozen-unchanged")
def a_layer_thawed(f: Forger) -> None:
    f.run("C")["frozen_sha256_after"] = "a" * 64


@forgery("frozen-unchanged")
def nothing_hashed(f: Forger) -> None:
    empty = hashlib.sha256(b"").hexdigest()
    f.run("C").update(frozen_sha256_before=empty, frozen_sha256_after=empty)


@forgery("frozen-unchanged")
def something_frozen_where_all_is_trained(f: Forger) -> None:
    f.run("B").update(frozen_sha256_before="b" * 64, frozen_sha256_after="b" * 64)


@forgery("frozen-unchanged")
def another_trunk_with_the_second_seed(f: Forger) -> None:
    f.run("C", 1).update(frozen_sha256_before="c" * 64, frozen_sha256_after="c" * 64)


@forgery("equal-budget")
def more_steps_for_b(f: Forger) -> None:
    f.run("B")["budget"]["steps"] += 20


@forgery("equal-budget")
def half_the_images_for_a(f: Forger) -> None:
    f.run("A")["budget"]["images"] //= 2


@forgery("equal-budget")
def another_batch_size(f: Forger) -> None:
    f.doc["config"]["recipe"]["batch_size"] = 7


@forgery("same-stream")
def other_augmentations_for_c(f: Forger) -> None:
    f.run("C")["budget"]["stream_sha256"] = "d" * 64


@forgery("same-stream")
def one_order_for_two_seeds(f: Forger) -> None:
    for variant in "ABC":
        f.run(variant, 1)["budget"]["stream_sha256"] = f.run("A")["budget"]["stream_sha256"]


@forgery("same-start")
def c_starts_from_other_weights_than_b(f: Forger) -> None:
    f.run("C")["initial_sha256"] = "e" * 64


@forgery("same-start")
def a_starts_pretrained_in_secret(f: Forger) -> None:
    f.run("A")["initial_sha256"] = f.run("B")["initial_sha256"]


@forgery("same-start")
def a_starts_twice_from_one_seed(f: Forger) -> None:
    f.run("A", 1)["initial_sha256"] = f.run("A")["initial_sha256"]


@forgery("same-schedule")
def another_schedule_for_b(f: Forger) -> None:
    f.run("B")["epochs"][1]["learning_rate"] *= 0.5


@forgery("same-schedule")
def a_rate_above_its_peak(f: Forger) -> None:
    for run in f.doc["runs"]:
        run["epochs"][1]["learning_rate"] = 3 * run["learning_rate"]


@forgery("rates-exact")
def rates_made_up_alike_for_all(f: Forger) -> None:
    for run in f.doc["runs"]:
        for epoch in run["epochs"]:
            epoch["learning_rate"] = run["learning_rate"] * (1 - (epoch["epoch"] - 1) / len(run["epochs"]))


@forgery("weights-known")
def no_weights_although_b_and_c_start_pretrained(f: Forger) -> None:
    f.doc["weights"] = None


@forgery("weights-known")
def weights_called_imagenet(f: Forger) -> None:
    f.doc["config"]["weights"] = "imagenet"
    f.doc["weights"].update(kind="imagenet", sha256="0" * 64)


@forgery("weights-known")
def bundled_weights_configured_but_others_used(f: Forger) -> None:
    f.doc["weights"].update(kind="file", sha256="1" * 64)


@forgery("times-possible")
def all_times_zero(f: Forger) -> None:
    f.doc["timings"].update(start_seconds=0.0, decode_seconds=0.0, total_seconds=0.0)
    for run in f.doc["runs"]:
        run.update(total_seconds=0.0, images_per_second=0.0)
        for epoch in run["epochs"]:
            epoch.update(train_seconds=0.0, data_wait_seconds=0.0, evaluation_seconds=0.0)


def _set_times(f: Forger, seconds_of: Callable[[int, float], float]) -> None:
    for run in f.doc["runs"]:
        for epoch in run["epochs"]:
            epoch["train_seconds"] = seconds_of(epoch["epoch"], epoch["train_seconds"])
            epoch["data_wait_seconds"] = min(epoch["data_wait_seconds"], epoch["train_seconds"])
        total = sum(epoch["train_seconds"] for epoch in run["epochs"])
        run["images_per_second"] = sum(epoch["train"]["n_samples"] for epoch in run["epochs"]) / total
        run["total_seconds"] = total + sum(epoch["evaluation_seconds"] for epoch in run["epochs"]) + 1.0
    f.doc["timings"]["total_seconds"] = sum(run["total_seconds"] for run in f.doc["runs"]) + 30.0


@forgery("times-possible")
def times_rounded_to_milliseconds(f: Forger) -> None:
    _set_times(f, lambda _, seconds: round(seconds, 3))


@forgery("times-possible")
def the_same_time_in_every_epoch(f: Forger) -> None:
    _set_times(f, lambda _, seconds: 1.2345678 if seconds < 3 else 3.4567891)


@forgery("times-possible")
def faster_than_any_machine(f: Forger) -> None:
    _set_times(f, lambda epoch, _: 1.1e-5 * (1 + epoch / 97))


@forgery("comparable-rates")
def a_sabotaged_by_its_learning_rate(f: Forger) -> None:
    next(v for v in f.doc["config"]["variants"] if v["name"] == "A")["lr"] = 1e-6
    for run in f.doc["runs"]:
        if run["variant"] == "A":
            share = 1e-6 / run["learning_rate"]
            run["learning_rate"] = 1e-6
            for epoch in run["epochs"]:
                epoch["learning_rate"] *= share


@forgery("distinct-runs")
def c_is_a_copy_of_b(f: Forger) -> None:
    for split in ("val", "test"):
        f.write("C", split, f.path("B", split).read_bytes())
    for mine, theirs in zip(f.run("C")["epochs"], f.run("B")["epochs"], strict=True):
        mine.update({split: dict(theirs[split]) for split in ("train", "val", "test")})
    f.run("C")["best_epoch"] = f.run("B")["best_epoch"]


@forgery("distinct-runs")
def one_network_evaluated_for_all_three(f: Forger) -> None:
    for variant in "AC":
        for split in ("val", "test"):
            f.write(variant, split, f.path("B", split).read_bytes())
            for epoch in f.run(variant)["epochs"]:
                epoch[split] = dict(f.best("B")[split])
        f.run(variant)["best_epoch"] = 1


@forgery("distinct-runs")
def c_points_to_the_files_of_b(f: Forger) -> None:
    f.run("C")["artifacts"]["checkpoint"] = dict(f.run("B")["artifacts"]["checkpoint"])


@forgery("distinct-runs")
def the_second_seed_is_the_first(f: Forger) -> None:
    for split in ("val", "test"):
        artifact = f.run("B", 1)["artifacts"][f"{split}_predictions"]
        (f.folder / artifact["path"]).write_bytes(f.path("B", split).read_bytes())
        artifact["sha256"] = f.run("B")["artifacts"][f"{split}_predictions"]["sha256"]
    for mine, theirs in zip(f.run("B", 1)["epochs"], f.run("B")["epochs"], strict=True):
        mine.update({split: dict(theirs[split]) for split in ("train", "val", "test")})
    f.run("B", 1)["best_epoch"] = f.run("B")["best_epoch"]


@forgery("distinct-runs")
def losses_touched_up_but_counts_copied(f: Forger) -> None:
    for mine, theirs in zip(f.run("C")["epochs"], f.run("B")["epochs"], strict=True):
        for split in ("train", "val", "test"):
            mine[split] = {**theirs[split], "loss_sum": theirs[split]["loss_sum"] * 1.001}
    f.run("C")["best_epoch"] = f.run("B")["best_epoch"]


@forgery("best-epoch")
def best_epoch_picked_on_test(f: Forger) -> None:
    for variant in "ABC":
        run = f.run(variant)
        others = [e for e in run["epochs"] if e["epoch"] != run["best_epoch"]]
        run["best_epoch"] = max(others, key=lambda e: e["test"]["n_correct"])["epoch"]


@forgery("best-epoch")
def the_last_epoch_called_best(f: Forger) -> None:
    run = f.run("A")
    worst = min(run["epochs"], key=lambda e: e["val"]["n_correct"])
    run["best_epoch"] = worst["epoch"]


@forgery("best-epoch")
def a_tie_broken_the_wrong_way(f: Forger) -> None:
    best = f.best("B")
    other = next(e for e in f.run("B")["epochs"] if e is not best)
    other["val"] = {**best["val"], "loss_sum": best["val"]["loss_sum"] * 0.99}


@forgery("best-epoch")
def a_validation_score_raised_in_another_epoch(f: Forger) -> None:
    other = next(e for e in f.run("C")["epochs"] if e is not f.best("C"))
    other["val"]["n_correct"] = f.best("C")["val"]["n_correct"] + 1


@forgery("loss-fits-accuracy")
def a_loss_too_good_for_its_errors(f: Forger) -> None:
    f.run("A")["epochs"][0]["test"]["loss_sum"] = 1.0


@forgery("loss-fits-accuracy")
def a_training_loss_made_up(f: Forger) -> None:
    f.run("A")["epochs"][0]["train"]["loss_sum"] = 0.5


@forgery("times-add-up")
def c_made_faster_by_hand(f: Forger) -> None:
    for epoch in f.run("C")["epochs"]:
        epoch["train_seconds"] *= 0.5
        epoch["data_wait_seconds"] *= 0.5


@forgery("times-add-up")
def a_throughput_made_up(f: Forger) -> None:
    f.run("C")["images_per_second"] *= 1.5


@forgery("times-add-up")
def more_waiting_than_training(f: Forger) -> None:
    epoch = f.run("B")["epochs"][1]
    epoch["data_wait_seconds"] = epoch["train_seconds"] * 2


@forgery("times-add-up")
def a_total_shorter_than_its_parts(f: Forger) -> None:
    f.run("B")["total_seconds"] *= 0.3


@forgery("times-add-up")
def a_job_shorter_than_its_runs(f: Forger) -> None:
    f.doc["timings"]["total_seconds"] *= 0.5


# What the predictions give away.


@forgery("files-intact")
def a_prediction_swapped(f: Forger) -> None:
    rows = f.rows("C", "test")
    wrong = next(row for row in rows if row[1] != row[2])
    wrong[2] = wrong[1]
    header = f.path("C", "test").read_text().partition("\n")[0]
    f.path("C", "test").write_text("\n".join([header, *(",".join(row) for row in rows), ""]))


@forgery("files-intact")
def a_file_deleted(f: Forger) -> None:
    f.path("C", "test").unlink()


@forgery("files-intact")
def another_hash_recorded(f: Forger) -> None:
    f.run("B")["artifacts"]["val_predictions"]["sha256"] = "f" * 64


@forgery("files-intact")
def files_of_b_and_c_exchanged(f: Forger) -> None:
    first, second = f.path("B", "test"), f.path("C", "test")
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])


@forgery("recomputed")
def test_accuracy_raised_in_the_file(f: Forger) -> None:
    f.best("C")["test"]["n_correct"] += 2


@forgery("recomputed")
def validation_accuracy_raised_in_the_file(f: Forger) -> None:
    f.best("B")["val"]["n_correct"] += 1


@forgery("recomputed")
def test_loss_lowered_in_the_file(f: Forger) -> None:
    f.best("B")["test"]["loss_sum"] *= 0.9999


@forgery("recomputed")
def losses_of_two_images_changed(f: Forger) -> None:
    rows = f.rows("B", "test")
    right = [row for row in rows if row[1] == row[2]]
    right[0][3] = "0.25"
    right[1][3] = "0.125"
    f.write_rows("B", "test", rows)


@forgery("rows-plausible")
def wrong_predictions_corrected_everywhere(f: Forger) -> None:
    rows = f.rows("C", "test")
    for row in [row for row in rows if row[1] != row[2] and float(row[3]) > 2.5][:2]:
        row[2] = row[1]
    f.write_rows("C", "test", rows)
    f.record("C", "test")


@forgery("rows-plausible")
def right_predictions_spoiled_for_a(f: Forger) -> None:
    rows = f.rows("A", "test")
    sure = [row for row in rows if row[1] == row[2] and float(row[3]) < 0.6][:5]
    for row in sure:
        row[2] = str((int(row[1]) + 1) % 10)
    f.write_rows("A", "test", rows)
    f.record("A", "test")


@forgery("losses-exact")
def a_loss_that_is_no_float32_number(f: Forger) -> None:
    rows = f.rows("C", "test")
    row = next(row for row in rows if row[1] == row[2])
    row[3] = "0.3"
    f.write_rows("C", "test", rows)
    f.record("C", "test")


@forgery("hard-images-shared")
def losses_of_c_dealt_out_anew(f: Forger) -> None:
    """As right as before, but on images that have nothing to do with those of B: nothing else tells."""
    rng = np.random.default_rng(1)
    for seed, split in product(f.doc["config"]["seeds"], ("val", "test")):
        rows = f.rows("C", split, seed)
        by_class: dict[str, list[int]] = {}
        for index, row in enumerate(rows):
            by_class.setdefault(row[1], []).append(index)
        for members in by_class.values():
            dealt = [rows[index][2:] for index in rng.permutation(members)]
            for index, cells in zip(members, dealt, strict=True):
                rows[index][2:] = cells
        f.write_rows("C", split, rows, seed)
        f.record("C", split, seed)


@forgery("networks-differ")
def one_network_three_times_with_jitter(f: Forger) -> None:
    """B's losses for all three, changed by a percent; some answers of A and C are spoiled."""
    rng = np.random.default_rng(0)
    for seed in f.doc["config"]["seeds"]:
        for split in ("val", "test"):
            source = (f.folder / f.run("B", seed)["artifacts"][f"{split}_predictions"]["path"]).read_text()
            for variant, n_spoiled in (("A", 30), ("C", 6)):
                rows = [line.split(",") for line in source.splitlines()[1:]]
                for row in rows:
                    row[3] = f"{np.float32(float(row[3]) * rng.lognormal(0, 0.01)):.9g}"
                right = [row for row in rows if row[1] == row[2] and float(row[3]) < 2]
                for row in right[: n_spoiled // 2] + right[-n_spoiled // 2 :]:
                    row[2], row[3] = str((int(row[1]) + 1) % 10), f"{np.float32(rng.uniform(0.8, 2)):.9g}"
                for row in rows:
                    if row[1] != row[2] and float(row[3]) < 0.7:
                        row[3] = f"{np.float32(0.7 + float(row[3]) / 100):.9g}"
                f.write_rows(variant, split, rows, seed)
                f.record(variant, split, seed)


@forgery("same-samples")
def an_easier_test_image_for_c(f: Forger) -> None:
    rows = f.rows("C", "test")
    rows[5][0] = "digit-99999"
    f.write_rows("C", "test", rows)


@forgery("same-samples")
def a_label_changed_to_the_prediction(f: Forger) -> None:
    rows = f.rows("C", "test")
    row = next(row for row in rows if row[1] != row[2])
    row[1], row[3] = row[2], "0.125"
    f.write_rows("C", "test", rows)
    f.record("C", "test")


@forgery("same-samples")
def rows_in_another_order(f: Forger) -> None:
    rows = f.rows("B", "val")
    f.write_rows("B", "val", [*rows[1:], rows[0]])


@forgery("class-counts")
def labels_other_than_the_split_has(f: Forger) -> None:
    counts = f.doc["dataset"]["splits"]["test"]["class_counts"]
    counts[0] += 1
    counts[1] -= 1
    if f.doc["config"]["subset"] is not None:
        f.doc["config"]["subset"] += 1


@forgery("val-test-disjoint")
def a_leaked_test_image(f: Forger) -> None:
    leaked = f.rows("A", "test")[3][0]
    for run in f.doc["runs"]:
        artifact = run["artifacts"]["val_predictions"]
        path = f.folder / artifact["path"]
        lines = path.read_text().splitlines(keepends=True)
        lines[4] = leaked + lines[4][lines[4].index(",") :]
        path.write_text("".join(lines))
        artifact["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()


# What only the truth gives away.


def _in_every_run(f: Forger, split: str, change: Callable[[list[str]], None], line: int = 4) -> None:
    for run in f.doc["runs"]:
        artifact = run["artifacts"][f"{split}_predictions"]
        path = f.folder / artifact["path"]
        lines = path.read_text().splitlines()
        row = lines[line].split(",")
        change(row)
        lines[line] = ",".join(row)
        path.write_text("\n".join([*lines, ""]))
        artifact["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()


@forgery("true-labels", truth=True)
def an_image_that_does_not_exist(f: Forger) -> None:
    _in_every_run(f, "test", lambda row: row.__setitem__(0, "digit-99999"))


@forgery("true-labels", truth=True)
def two_labels_exchanged_in_every_run(f: Forger) -> None:
    first, second = f.rows("A", "test")[3], f.rows("A", "test")[4]
    _in_every_run(f, "test", lambda row: row.__setitem__(0, second[0]), 4)
    _in_every_run(f, "test", lambda row: row.__setitem__(0, first[0]), 5)


@forgery("true-splits", truth=True)
def a_training_image_in_the_test_split(f: Forger) -> None:
    label = f.rows("A", "test")[3][1]
    _in_every_run(f, "test", lambda row: row.__setitem__(0, f"train-{label}"))


# What the tests of the question itself give away.


@forgery("test-close-to-validation")
def a_test_accuracy_that_validation_does_not_allow(f: Forger) -> None:
    for path in f.folder.glob("predictions/*"):
        path.unlink()  # nothing to recompute from
    metrics = f.best("A")["test"]
    metrics.update(n_correct=metrics["n_samples"], loss_sum=1.0)


@forgery("test-close-to-validation")
def a_test_accuracy_far_below_validation(f: Forger) -> None:
    for path in f.folder.glob("predictions/*"):
        path.unlink()
    metrics = f.best("B")["test"]
    metrics.update(n_correct=int(0.6 * metrics["n_samples"]), loss_sum=500.0)


def _deal(f: Forger, **sources: str) -> None:
    """Let variants have what others achieved, each with its own times."""
    achieved = ("train", "val", "test")
    for seed in f.doc["config"]["seeds"]:
        before = json.loads(json.dumps({variant: f.run(variant, seed) for variant in "ABC"}))
        for variant, source in sources.items():
            run = f.run(variant, seed)
            for mine, theirs in zip(run["epochs"], before[source]["epochs"], strict=True):
                mine.update({split: theirs[split] for split in achieved})
            own = before[source].keys() & {"best_epoch", "artifacts", "calibration"}
            run.update({key: before[source][key] for key in own})


@forgery("b-beats-a")
def b_is_worse_than_a(f: Forger) -> None:
    _deal(f, A="C", B="A", C="B")


@forgery("c-beats-a")
def c_is_worse_than_a(f: Forger) -> None:
    _deal(f, A="C", C="A")


@forgery("c-faster")
def c_is_slower_than_b(f: Forger) -> None:
    for seed in f.doc["config"]["seeds"]:
        first, second = f.run("B", seed), f.run("C", seed)
        for mine, theirs in zip(first["epochs"], second["epochs"], strict=True):
            mine_times, theirs_times = _times(mine), _times(theirs)
            mine.update(theirs_times)
            theirs.update(mine_times)
        for key in ("total_seconds", "images_per_second"):
            first[key], second[key] = second[key], first[key]


def _times(epoch: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in epoch.items() if name.endswith("_seconds")}


def _list_parameters(f: Forger, run: dict[str, Any]) -> None:
    """Make a run's list of parameters and its totals fit its groups."""
    n_classes = len(f.doc["dataset"]["classes"])
    shapes = resnet18.of_groups(n_classes, tuple(run["trained_groups"]))
    run["trainable_parameters"] = [
        {"name": name, "shape": list(shape), "count": resnet18.count({name: shape})}
        for name, shape in shapes.items()
    ]
    run["n_trained"] = resnet18.count(shapes)
    run["n_frozen"] = resnet18.count(resnet18.parameter_shapes(n_classes)) - run["n_trained"]


# What cannot be judged at all.


@forgery("unusable", "is missing")
def a_field_left_out(f: Forger) -> None:
    del f.run("B")["n_trained"]


@forgery("unusable", "unknown key")
def a_field_made_up(f: Forger) -> None:
    f.run("B")["bonus"] = 1


@forgery("unusable", "must be an integer")
def an_accuracy_in_place_of_a_count(f: Forger) -> None:
    f.best("B")["test"]["n_correct"] = 0.98


@forgery("unusable", "must match")
def a_path_that_climbs_out(f: Forger) -> None:
    f.run("B")["artifacts"]["test_predictions"]["path"] = "../honest/predictions.csv"


@forgery("unusable", "symbolic link")
def a_link_in_place_of_a_file(f: Forger) -> None:
    path = f.path("B", "test")
    path.unlink()
    path.symlink_to("/etc/hostname")


@forgery("unusable", "rows according to results.json")
def a_row_left_out(f: Forger) -> None:
    f.write_rows("C", "test", f.rows("C", "test")[1:])


@forgery("unusable", "rows according to results.json")
def a_row_added(f: Forger) -> None:
    rows = f.rows("C", "test")
    f.write_rows("C", "test", [*rows, ["extra", *rows[0][1:]]])


@forgery("unusable", "is a duplicate of line 2")
def an_easy_image_counted_twice(f: Forger) -> None:
    rows = f.rows("C", "test")
    f.write_rows("C", "test", [rows[0], rows[0], *rows[2:]])


@forgery("unusable", "must be below")
def a_class_that_does_not_exist(f: Forger) -> None:
    rows = f.rows("C", "test")
    rows[0][2] = "10000"
    f.write_rows("C", "test", rows)


@forgery("unusable", "formula")
def a_formula_in_place_of_a_name(f: Forger) -> None:
    rows = f.rows("C", "test")
    rows[0][0] = "=1+1"
    f.write_rows("C", "test", rows)


def main() -> None:
    honest, out = map(Path, sys.argv[1:])
    for entry in FORGERIES:
        forger = Forger(honest, out / f"{entry.caught_by}--{entry.name}")
        entry.change(forger)
        forger.save()


if __name__ == "__main__":
    main()
