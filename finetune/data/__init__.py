"""From a folder of images to decoded, augmented batches: data sets, splits, cache, crops."""
