"""Variants, recipe and settings of an experiment, validated when constructed; presets are TOML files."""
