"""Heads from another variant's best epoch: linear probe first, then fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from finetune.config.experiment import STANDARD_VARIANTS, Variant
from finetune.distributed.group import Peers
from finetune.distributed.launcher import LaunchInfo
from finetune.errors import RunFolderError
from finetune.network.network import fingerprint
from finetune.network.resnet18 import build
from finetune.run.experiment import run_experiment
from finetune.run.folder import RunFolder
from finetune.run.heads import trained_together
from finetune.run.merge import merge_runs
from finetune.run.records import Shard
from finetune.run.shards import train_shard
from finetune.system.signals import Stopped, StopRequest
from tests.builders.config import tiny_config
from tests.builders.runs import RecordingReporter, StopAt, results_of
from tests.compare_runs import file_digests, without_times

A, B, C = STANDARD_VARIANTS
PROBE = Variant(name="probe", init="pretrained", train="fc")
AFTER = Variant(name="after", init="pretrained", train="all", head="probe")
ROWS = (PROBE, B, AFTER)
Run = Callable[..., dict[str, Any]]


class TestHead:
    def test_is_that_of_the_best_epoch_and_the_rest_pretrained(
        self, experiment: Run, narrow_file: Path, tmp_path: Path
    ) -> None:
        record = experiment(tmp_path / "run", variants=ROWS, seeds=2)
        assert [(r["variant"], r["seed"]) for r in record["runs"]] == [
            (v.name, seed) for seed in (0, 1) for v in ROWS
        ]
        pretrained = safetensors.torch.load_file(narrow_file)
        for probe, plain, after in (record["runs"][:3], record["runs"][3:]):
            expected = build(AFTER, 10, after["seed"], pretrained)
            stem = f"probe-seed{probe['seed']}"
            state = safetensors.torch.load_file(tmp_path / "run" / "checkpoints" / f"{stem}.safetensors")
            expected.load_state_dict({n: state[n] for n in ("fc.weight", "fc.bias")}, strict=False)
            assert after["initial_sha256"] == fingerprint(expected.state_dict()) != plain["initial_sha256"]
        assert record["config"]["variants"][2]["head"] == "probe"

    @pytest.mark.parametrize("n", [12, 22, 30])
    def test_a_run_stopped_after_the_probe_ends_the_same(
        self, experiment: Run, tmp_path: Path, n: int
    ) -> None:
        rows = (PROBE, AFTER)
        whole = experiment(tmp_path / "whole", variants=rows)
        with pytest.raises(Stopped):
            experiment(tmp_path / "run", variants=rows, stop=StopAt(n))
        again = experiment(tmp_path / "run", variants=rows, resume=True)
        assert without_times(again) == without_times(whole)
        same = (".lock", "results.json", "report.html", "config.toml")
        assert file_digests(tmp_path / "run", same) == file_digests(tmp_path / "whole", same)

    def test_of_a_run_that_failed_is_a_failure_that_names_it(self, experiment: Run, tmp_path: Path) -> None:
        probe = Variant(name="probe", init="pretrained", train="fc", lr=1e30)
        record = experiment(tmp_path / "run", variants=(probe, AFTER))
        assert [r["status"] for r in record["runs"]] == ["failed", "failed"]
        assert record["runs"][1]["failure"] == (
            "The head comes from probe-seed0, which failed before it had a best epoch."
        )
        assert record["runs"][1]["artifacts"] is None

    def test_from_a_damaged_checkpoint_is_refused(self, experiment: Run, tmp_path: Path) -> None:
        out = tmp_path / "run"
        with pytest.raises(Stopped):
            experiment(out, variants=(PROBE, AFTER), stop=StopAt(34))
        assert [r["variant"] for r in results_of(out)["runs"]] == ["probe"]
        (out / "checkpoints" / "probe-seed0.safetensors").write_bytes(b"")
        with pytest.raises(RunFolderError, match="does not match its recorded SHA-256"):
            experiment(out, variants=(PROBE, AFTER), resume=True)


class TestDealing:
    def test_what_depends_on_another_run_stays_with_it(self) -> None:
        last = Variant(name="last", init="pretrained", train=("layer4", "fc"), head="after")
        config = tiny_config(variants=(PROBE, B, AFTER, C, last), seeds=2)
        assert trained_together(config) == [
            group
            for seed in (0, 1)
            for group in (
                [("probe", seed), ("after", seed), ("last", seed)],
                [("B", seed)],
                [("C", seed)],
            )
        ]

    def test_shards_train_the_same_as_one_process(
        self, experiment: Run, narrow_weights: Path, tmp_path: Path
    ) -> None:
        whole = experiment(tmp_path / "whole", variants=ROWS)
        config = tiny_config(weights=str(narrow_weights), variants=ROWS)

        def train(folder: Path, shard: Shard, resume: bool, _peers: Peers | None) -> Any:
            return run_experiment(config, folder, RecordingReporter(), StopRequest(), resume, shard)

        out = tmp_path / "out"
        for rank in range(3):
            info = LaunchInfo(rank, 3)
            train_shard(config, out, info, RecordingReporter(), StopRequest(), train)
        folders = [out / f"shard-{rank:03d}" for rank in range(2)]
        assert sorted(out.iterdir()) == folders  # the third process had nothing to do
        assert [r["variant"] for r in RunFolder(folders[0]).read()["runs"]] == ["probe", "after"]
        assert without_times(merge_runs(folders, out, RecordingReporter())) == without_times(whole)
