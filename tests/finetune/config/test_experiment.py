"""Variants, recipes, presets and which options win."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from pathlib import Path

import hypothesis.strategies as st
import pytest
import tomli_w
from hypothesis import given

from finetune.config.experiment import GROUPS, STANDARD_VARIANTS, ExperimentConfig, Recipe, Variant
from finetune.config.presets import load_preset, preset_names, to_table
from finetune.errors import ConfigError

A, B, C = STANDARD_VARIANTS


def preset(tmp_path: Path, text: str) -> ExperimentConfig:
    path = tmp_path / "own.toml"
    path.write_text(text, "utf-8")
    return load_preset(str(path))


class TestVariant:
    def test_the_three_standard_variants(self) -> None:
        assert [(v.name, v.init, v.groups) for v in STANDARD_VARIANTS] == [
            ("A", "random", GROUPS),
            ("B", "pretrained", GROUPS),
            ("C", "pretrained", ("layer4", "fc")),
        ]

    def test_one_group_may_be_a_plain_string(self) -> None:
        assert Variant(name="H", init="pretrained", train="fc").groups == ("fc",)

    @pytest.mark.parametrize("train", ["layer5", ("fc", "head"), (), ("fc", "fc"), ("all",), ("",), 5, None])
    def test_an_unknown_group_lists_the_valid_ones(self, train: object) -> None:
        with pytest.raises(ConfigError, match=f"different groups from {', '.join(GROUPS)}, but .* was given"):
            Variant(name="X", init="random", train=train)  # type: ignore[arg-type]

    def test_the_unknown_group_is_named(self) -> None:
        with pytest.raises(ConfigError, match=r"train of variant X must be .* but 'layer9' was given"):
            Variant(name="X", init="random", train=("fc", "layer9"))

    @pytest.mark.parametrize("name", ["", "a b", "../x", "1a", "é", "a" * 33, "a/b", "a.b", "A\n", 7])
    def test_names_that_could_not_be_file_names(self, name: object) -> None:
        with pytest.raises(ConfigError, match="A variant's name must be a letter"):
            Variant(name=name, init="random", train="all")  # type: ignore[arg-type]

    def test_the_longest_name(self) -> None:
        assert Variant(name="a" * 32, init="random", train="all").name == "a" * 32

    def test_init(self) -> None:
        with pytest.raises(
            ConfigError, match="init of variant X must be random or pretrained, but 'zero' was given"
        ):
            Variant(name="X", init="zero", train="all")

    @pytest.mark.parametrize("lr", [0, -1.0, math.inf, math.nan, True, "0.1"])
    def test_lr(self, lr: object) -> None:
        with pytest.raises(ConfigError, match="lr of variant X must be a number above 0"):
            Variant(name="X", init="random", train="all", lr=lr)  # type: ignore[arg-type]

    @pytest.mark.parametrize("epochs", [0, 1.5, True, "3"])
    def test_epochs(self, epochs: object) -> None:
        with pytest.raises(ConfigError, match="epochs of variant X must be a whole number of at least 1"):
            Variant(name="X", init="random", train="all", epochs=epochs)  # type: ignore[arg-type]

    def test_norm(self) -> None:
        assert Variant(name="X", init="pretrained", train="fc", norm="adapt").adapts
        assert not C.adapts
        with pytest.raises(ConfigError, match="norm of variant X must be frozen or adapt, but 'batch' was"):
            Variant(name="X", init="pretrained", train="fc", norm="batch")
        with pytest.raises(ConfigError, match="norm of variant X, which freezes no layer, must be frozen"):
            Variant(name="X", init="pretrained", train="all", norm="adapt")

    @pytest.mark.parametrize("head", ["X", 3])
    def test_a_head_of_its_own(self, head: object) -> None:
        with pytest.raises(ConfigError, match="head of variant X must be the name of another variant"):
            Variant(name="X", init="pretrained", train="all", head=head)  # type: ignore[arg-type]


class TestRecipe:
    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("epochs", [0, -1, 1.0, True, "3"]),
            ("batch_size", [0, 2.5]),
            ("image_size", [7, 0, 65_537, 10**12]),
            ("lr", [0, -0.1, math.nan, math.inf, "1"]),
            ("momentum", [1, -0.1, 1.5]),
            ("weight_decay", [-1e-9]),
            ("warmup_epochs", [-1, math.inf]),
            ("crop_area_min", [0, 1.01]),
            ("flip_probability", [-0.01, 1.01]),
        ],
    )
    def test_values_out_of_range(self, name: str, values: list[object]) -> None:
        for value in values:
            with pytest.raises(ConfigError, match=f"^{name} must be .*, but .* was given"):
                Recipe(**{name: value})  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("epochs", 1),
            ("batch_size", 1),
            ("image_size", 8),
            ("momentum", 0),
            ("weight_decay", 0),
            ("warmup_epochs", 0),
            ("crop_area_min", 1),
            ("flip_probability", 0),
            ("flip_probability", 1),
        ],
    )
    def test_the_ends_of_the_ranges(self, name: str, value: int) -> None:
        assert getattr(Recipe(**{name: value}), name) == value  # type: ignore[arg-type]


class TestExperimentConfig:
    @pytest.mark.parametrize(
        "dataset", ["", "mnist", "imagefolder", "imagefolder:", "Digits", "flowers102:x"]
    )
    def test_unknown_data_sets(self, dataset: str) -> None:
        with pytest.raises(ConfigError, match="dataset must be flowers102, digits or imagefolder:PATH"):
            ExperimentConfig(dataset=dataset)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("split", "80-10-11"),
            ("split", "100-0-0"),
            ("split", "80-20"),
            ("split", "080-10-10"),
            ("split", "٨0-10-10"),
            ("split", "80-10-10\n"),
            ("split", "80/10/10"),
            ("device", "tpu"),
            ("device", "cuda:"),
            ("device", "cuda:-1"),
            ("device", "cuda:01"),
            ("device", "mps:0"),
            ("seed", -1),
            ("seed", 0.5),
            ("seed", 2**64),
            ("split_seed", -1),
            ("split_seed", 1.0),
            ("resplit", 1),
            ("seeds", 0),
            ("seeds", None),
            ("subset", 0),
            ("threads", 0),
            ("threads", "2"),
            ("workers", 0),
            ("workers", True),
        ],
    )
    def test_values_out_of_range(self, field: str, value: object) -> None:
        with pytest.raises(ConfigError, match=f"^{field} must be "):
            ExperimentConfig(**{field: value})  # type: ignore[arg-type]

    def test_names_differ_whatever_their_case(self) -> None:
        rows = (
            Variant(name="a", init="random", train="all"),
            Variant(name="A", init="random", train="fc"),
        )
        with pytest.raises(ConfigError, match="names of variants must be different"):
            ExperimentConfig(variants=rows)
        with pytest.raises(ConfigError, match="variants must be a list of at least one"):
            ExperimentConfig(variants=())

    def test_the_seed_does_not_decide_the_split(self) -> None:
        assert [ExperimentConfig(seed=5).split_seed_of(seed) for seed in (5, 6)] == [0, 0]
        own = ExperimentConfig(seed=5, split_seed=100, resplit=True)
        assert [own.split_seed_of(seed) for seed in (5, 6)] == [105, 106]

    def test_heads_come_from_an_earlier_variant_that_trains_fc(self) -> None:
        probe = Variant(name="probe", init="pretrained", train="fc")
        after = Variant(name="after", init="pretrained", train="all", head="probe")
        assert ExperimentConfig(variants=(probe, after)).variants[1].head == "probe"
        for rows in (
            (after, probe),
            (after,),
            (dataclasses.replace(probe, init="random"), after),
            (dataclasses.replace(probe, train="layer4"), after),
        ):
            with pytest.raises(
                ConfigError, match="head of variant after must be an earlier variant that trains fc from pret"
            ):
                ExperimentConfig(variants=rows)
        with pytest.raises(ConfigError, match=r"head of variant after must be .*, but 'probe' was given"):
            ExperimentConfig(variants=(probe, after)).pick("after")
        with pytest.raises(ConfigError, match="head with --parallel data must be left out"):
            ExperimentConfig(variants=(probe, after), processes=2)

    def test_longer_scratch(self) -> None:
        config = ExperimentConfig(recipe=Recipe(epochs=4)).with_longer_scratch(3)
        assert [(v.name, config.epochs_of(v)) for v in config.variants] == [
            ("A", 4),
            ("A3", 12),
            ("B", 4),
            ("C", 4),
        ]
        assert config.variants[1] == dataclasses.replace(A, name="A3", epochs=12)
        for factor in (1, 0, -2, 1.5):
            with pytest.raises(ConfigError, match="longer-scratch must be a whole number of at least 2, but"):
                ExperimentConfig().with_longer_scratch(factor)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="there is none among B, C; add A to --variants"):
            ExperimentConfig(variants=(B, C)).with_longer_scratch(3)

    def test_seed_list(self) -> None:
        assert ExperimentConfig(seed=5, seeds=3).seed_list == (5, 6, 7)

    def test_pick(self) -> None:
        picked = ExperimentConfig().pick("c, A")
        assert [v.name for v in picked.variants] == ["C", "A"]
        with pytest.raises(ConfigError, match="variant must be one of A, B, C, but 'D' was given"):
            ExperimentConfig().pick("a,D")
        with pytest.raises(ConfigError, match="different"):
            ExperimentConfig().pick("a,A")


class TestPresets:
    def test_the_ones_that_come_with_finetune(self) -> None:
        assert {"flowers102", "smoke"} <= set(preset_names())
        assert all(len(text) > 20 for text in preset_names().values())

    @pytest.mark.parametrize("name", sorted(preset_names()))
    def test_each_loads(self, name: str) -> None:
        assert load_preset(name).preset == name

    def test_flowers102(self) -> None:
        config = load_preset("flowers102")
        assert (config.dataset, config.weights, config.recipe.image_size) == ("flowers102", "imagenet", 224)
        assert config.recipe.batch_size == 64
        assert config.variants == STANDARD_VARIANTS

    def test_smoke_needs_no_download(self) -> None:
        config = load_preset("smoke")
        assert (config.dataset, config.weights) == ("digits", "bundled")
        assert 32 <= config.recipe.image_size <= 64

    def test_depth_is_a_ladder(self) -> None:
        *ladder, last = load_preset("depth").variants
        assert [set(low.groups) < set(high.groups) for low, high in itertools.pairwise(ladder)] == [True] * 5
        assert [v.init for v in (*ladder, last)] == ["pretrained"] * 7
        assert (last.groups, last.head, ladder[0].name) == (GROUPS, "fc", "fc")
        assert ladder[-1].groups == GROUPS

    def test_a_head_may_be_that_of_a_row_that_is_picked_first(self, tmp_path: Path) -> None:
        config = preset(
            tmp_path,
            'pick = ["probe", "B"]\n[variants.B]\nhead = "probe"\n'
            '[variants.probe]\ninit = "pretrained"\ntrain = "fc"\n',
        )
        assert [(v.name, v.head) for v in config.variants] == [("probe", None), ("B", "probe")]

    def test_the_config_toml_of_version_0_1_means_what_it_meant(self, tmp_path: Path) -> None:
        table = to_table(ExperimentConfig(seed=7, seeds=2))
        for name in ("split_seed", "resplit"):
            del table[name]
        del table["recipe"]["statistics"]
        config = preset(tmp_path, tomli_w.dumps(table))
        assert (config.split_seed, config.resplit, config.recipe.statistics) == (7, False, "running")
        by_hand = preset(tmp_path, "seed = 7")
        assert (by_hand.split_seed, by_hand.recipe.statistics) == (0, "auto")

    def test_unknown_preset_lists_the_known(self) -> None:
        with pytest.raises(ConfigError, match=r"preset must be .*flowers102.*smoke.* or the path"):
            load_preset("flowers")

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"none\.toml cannot be read .*; check the path"):
            load_preset(str(tmp_path / "none.toml"))

    def test_not_toml(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="must be valid TOML, but it is not: "):
            preset(tmp_path, "lr = = 1")

    def test_not_text(self, tmp_path: Path) -> None:
        path = tmp_path / "own.toml"
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ConfigError, match="cannot be read"):
            load_preset(str(path))

    @pytest.mark.parametrize("kind", ["FIFO", "device", "large file"])
    def test_no_regular_file_of_a_sensible_size(self, tmp_path: Path, kind: str) -> None:
        """In a run folder from somebody else; reading the first two would never end."""
        path = tmp_path / "config.toml"
        if kind == "FIFO":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            path.touch()
            os.truncate(path, 2**20 + 1)
        with pytest.raises(ConfigError, match=r"cannot be read \(it (is not a regular|has 1,048,577)"):
            load_preset(str(path))

    def test_adds_a_row_and_changes_another(self, tmp_path: Path) -> None:
        config = preset(
            tmp_path,
            'dataset = "digits"\n[variants.D]\ninit = "pretrained"\ntrain = "fc"\nlr = 0.1\n'
            "[variants.b]\nlr = 0.5\n[recipe]\nepochs = 3\n",
        )
        assert [(v.name, v.lr) for v in config.variants] == [("A", None), ("B", 0.5), ("C", None), ("D", 0.1)]
        assert config.variants[3].groups == ("fc",)
        assert config.variants[1].train == "all"
        assert (config.preset, config.recipe.epochs, config.recipe.batch_size) == ("own", 3, 64)

    def test_picks_rows(self, tmp_path: Path) -> None:
        assert [v.name for v in preset(tmp_path, 'pick = ["C", "a"]').variants] == ["C", "A"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("epoch = 3", "preset own has an unknown key 'epoch'; the valid ones are .*dataset.*seeds"),
            ("epochs = 3", r"preset own has the key 'epochs' outside \[recipe\]; move it into that table"),
            ("[recipe]\nbatch = 3", r"\[recipe\] of preset own has an unknown key 'batch'; .*batch_size"),
            (
                "[variants.A]\nlayers = 3",
                r"\[variants.A\] of preset own has an unknown key 'layers'; .*init, train, lr",
            ),
            (
                '[variants.D]\ninit = "random"',
                r"\[variants.D\] of preset own must have the key 'train', but it does not; add it",
            ),
            ("variants = 3", "variants in preset own must be a table, but 3 was given"),
            ("recipe = []", r"recipe in preset own must be a table, but \[\] was given"),
            ("variants.A = 1", "variants.A in preset own must be a table"),
            ('pick = "a"', "pick in preset own must be a list of variant names"),
            ("pick = [1]", "pick in preset own must be a list of variant names"),
            ("dataset = 1", "dataset in preset own must be a string"),
            ("[variants.C]\ntrain = 5", "train of variant C must be"),
            ('[variants.C]\ntrain = ["layer9"]', "train of variant C must be"),
            ("seed = true", "seed must be a whole number"),
        ],
    )
    def test_what_a_preset_may_not_hold(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            preset(tmp_path, text)


names = st.from_regex("[A-Za-z][A-Za-z0-9_-]{0,31}", fullmatch=True)
trains = st.just("all") | st.lists(st.sampled_from(GROUPS), min_size=1, unique=True).map(tuple)
rates = st.floats(1e-9, 1e9)
variants = st.builds(
    Variant,
    name=names,
    init=st.sampled_from(["random", "pretrained"]),
    train=trains,
    lr=st.none() | rates,
    epochs=st.none() | st.integers(1, 10**6),
)
recipes = st.builds(
    Recipe,
    epochs=st.integers(1, 10**6),
    batch_size=st.integers(1, 4096),
    lr=rates,
    momentum=st.floats(0, 0.999),
    weight_decay=st.floats(0, 1),
    warmup_epochs=st.floats(0, 100),
    statistics=st.sampled_from(["auto", "running", "reestimated"]),
    image_size=st.integers(8, 1024),
    crop_area_min=st.floats(0.001, 1),
    flip_probability=st.floats(0, 1),
)
paths = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=50)
configs = st.builds(
    ExperimentConfig,
    preset=paths,
    dataset=st.sampled_from(["flowers102", "digits"]) | paths.map("imagefolder:".__add__),
    data_root=paths,
    split=st.sampled_from([None, "70-15-15", "official", "1-98-1"]),
    subset=st.none() | st.integers(1, 10**6),
    weights=paths,
    split_seed=st.integers(0, 2**31),
    resplit=st.booleans(),
    seed=st.integers(0, 2**31),
    seeds=st.integers(1, 100),
    device=st.sampled_from(["auto", "cpu", "cuda", "cuda:7", "mps"]),
    threads=st.none() | st.integers(1, 64),
    workers=st.none() | st.integers(1, 64),
    variants=st.lists(variants, min_size=1, max_size=4, unique_by=lambda v: v.name.casefold()).map(tuple),
    recipe=recipes,
)


@given(config=configs)
def test_config_toml_reads_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, config: ExperimentConfig
) -> None:
    path = tmp_path_factory.mktemp("round") / "config.toml"
    path.write_bytes(tomli_w.dumps(to_table(config)).encode())
    back = load_preset(str(path))
    # The standard rows that a file changes keep their spelling; names are the same whatever their case.
    rows = tuple(
        dataclasses.replace(b, name=v.name) if b.name.casefold() == v.name.casefold() else b
        for b, v in zip(back.variants, config.variants, strict=True)
    )
    assert dataclasses.replace(back, variants=rows) == config


def test_a_preset_names_a_folder_as_the_command_line_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert preset(tmp_path, 'dataset = "photos"').dataset == "imagefolder:photos"
    assert preset(tmp_path, 'dataset = "digits"').dataset == "digits"
    with pytest.raises(ConfigError, match="digits or an existing folder of images, but 'phots' was given"):
        preset(tmp_path, 'dataset = "phots"')
