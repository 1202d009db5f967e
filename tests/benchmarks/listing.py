"""Prints the files and labels of each split as finetune divides them, for the plain programs to read."""

from __future__ import annotations

import json
import sys

from finetune.data.datasets import load_dataset
from finetune.data.splits import make_splits
from finetune.system.host import cores
from tests.benchmarks.job import SPLITS, options


def main() -> None:
    args = options()
    dataset = load_dataset(args.dataset, args.data_root)
    splits = make_splits(dataset, args.split, args.subset, seed=args.seed, workers=cores())
    files = {name: [(str(s.content), s.label) for s in splits.by_name[name].samples] for name in SPLITS}
    json.dump({"n_classes": len(dataset.classes), **files}, sys.stdout)


if __name__ == "__main__":
    main()
