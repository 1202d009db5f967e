"""The whole job: the same images, every variant, every seed, one results file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from finetune import environment, results
from finetune.config import ExperimentConfig, Variant
from finetune.console import Reporter
from finetune.datasets import load_dataset
from finetune.models import build, fingerprint, state_shapes
from finetune.report import curves, epoch_line, start_line, summary
from finetune.splits import Split, Splits, make_splits
from finetune.store import Store, decode_evaluation, decode_training
from finetune.train import Images, Trainer
from finetune.weights import Weights, load_weights


def run_experiment(config: ExperimentConfig, out: Path, reporter: Reporter) -> dict[str, Any]:
    """Train every variant with every seed and write the run folder; the results as written.

    The results file is written anew after each run, so an interrupted job keeps what has ended.

    Raises:
        FinetuneError: something the user can put right; no variant has been trained then, or a write failed.
    """
    device = environment.choose_device(config.device)
    workers = config.workers or environment.cores()
    torch.set_num_threads(environment.cores())
    results.create_run_folder(out, config)

    dataset = load_dataset(config.dataset, Path(config.data_root))
    splits = make_splits(dataset, config.split, config.subset, config.seed, workers)
    for note in splits.notes:
        reporter.say(note)
    weights = _weights(config, len(dataset.classes), reporter)
    listed = time.time()
    images = _decode(splits, config.recipe.image_size, workers, reporter)
    decoded = time.time()

    download_seconds = dataset.download_seconds + (weights.download_seconds if weights else 0.0)
    record = {
        "tool": environment.describe_tool(),
        "environment": environment.describe(device),
        "config": results.config_record(config, splits.kind),
        "dataset": results.dataset_record(dataset, splits),
        "weights": results.weights_record(weights),
        "timings": {
            "start_seconds": max(0.0, listed - environment.process_start() - download_seconds),
            "download_seconds": download_seconds,
            "decode_seconds": decoded - listed,
        },
        "runs": [],
    }
    for seed in config.seed_list:
        for variant in config.variants:
            run = _run(variant, seed, config, splits, images, weights, device, workers, out, reporter)
            record["runs"].append(run)
            record["timings"]["total_seconds"] = time.time() - environment.process_start()
            results.write_results(out, record)
    curves(record, out / "curves.png")
    reporter.table(summary(record))
    reporter.say(f"Results: {out / 'results.json'}   Curves: {out / 'curves.png'}   Grade them: grader {out}")
    return record


def _weights(config: ExperimentConfig, n_classes: int, reporter: Reporter) -> Weights | None:
    """The pretrained weights, if any variant wants them, and what was said about their head."""
    if all(v.init == "random" for v in config.variants):
        return None
    weights = load_weights(config.weights, state_shapes(n_classes))
    reporter.say(f"Pretrained weights: {weights.source} (SHA-256 {weights.sha256[:12]}...)")
    if weights.dropped:
        reporter.say(f"Their head has another number of classes and was dropped: {', '.join(weights.dropped)}.")
    return weights


def _decode(splits: Splits, image_size: int, workers: int, reporter: Reporter) -> Images:
    """Every image decoded once, before any training, so that a damaged one ends the job early."""
    total = sum(len(s.samples) for s in (splits.train, splits.val, splits.test))
    with reporter.bar("decoding", total) as advance:

        def tick() -> None:
            advance(1)

        train = decode_training(splits.train.samples, image_size, workers, tick)
        val = decode_evaluation(splits.val.samples, image_size, workers, tick)
        test = decode_evaluation(splits.test.samples, image_size, workers, tick)
    where = "memory" if all(s.in_memory for s in (train, val, test)) else "a temporary file, for lack of memory"
    reporter.say(f"{total:,} images decoded into {where}: {sum(s.pixels.nbytes for s in (train, val, test)) / 1e6:,.0f} MB.")
    return Images(
        train=train,
        train_labels=_labels(splits.train),
        held_out={
            "val": (_pixels(val, image_size), _labels(splits.val)),
            "test": (_pixels(test, image_size), _labels(splits.test)),
        },
    )


def _labels(split: Split) -> torch.Tensor:
    return torch.tensor([s.label for s in split.samples])


def _pixels(store: Store, image_size: int) -> torch.Tensor:
    return torch.from_numpy(store.pixels).view(len(store), image_size, image_size, 3)


def _run(
    variant: Variant,
    seed: int,
    config: ExperimentConfig,
    splits: Splits,
    images: Images,
    weights: Weights | None,
    device: torch.device,
    workers: int,
    out: Path,
    reporter: Reporter,
) -> dict[str, Any]:
    """Train one variant with one seed and write its artifacts; its entry in the results."""
    started = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    network = build(variant, len(splits.train.class_counts), seed, weights.state if weights else None)
    peak = variant.lr or config.recipe.lr
    start = results.start_record(variant, seed, network, fingerprint(network.state_dict()), peak)
    reporter.say(start_line(start))
    with reporter.bar(f"{variant.name} seed {seed}", config.recipe.epochs * len(images.train)) as advance:
        trainer = Trainer(
            network, images, config.recipe, peak=peak, seed=seed, device=device, workers=workers, tick=advance
        )
        training = trainer.run(lambda e: reporter.say(epoch_line(variant.name, e, config.recipe.epochs)))
    if training.failure:
        reporter.say(f"{variant.name} seed {seed} failed. {training.failure}")
    artifacts = None
    if training.best_state is not None and training.best_predictions is not None:
        artifacts = results.write_artifacts(
            out, f"{variant.name}-seed{seed}", splits, training.best_state, training.best_predictions
        )
    return {
        **start,
        **results.end_record(training, network, artifacts),
        "total_seconds": time.perf_counter() - started,
        "peak_memory_bytes": environment.peak_memory_bytes(device),
    }
