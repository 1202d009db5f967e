"""Variants, recipe and options of an experiment, validated on construction; presets are TOML files."""
