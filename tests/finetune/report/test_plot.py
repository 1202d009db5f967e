"""Axes: round ticks, never none, epochs whole."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.report.plot import Panel, epoch_axis, linear_axis, log_axis, loss_axis, swatch

LOSSES = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20)


class TestLinearAxis:
    @given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
    def test_it_holds_all_values_between_labelled_ends(self, values: list[float]) -> None:
        axis = linear_axis(values, "{:g}".format)
        places = [place for place, _ in axis.ticks]
        slack = 1e-6 * (axis.high - axis.low)
        assert axis.low - slack <= min(values) <= max(values) <= axis.high + slack
        assert places[0] == pytest.approx(axis.low)
        assert places[-1] == pytest.approx(axis.high)
        assert 2 <= len(places) <= 8

    def test_steps_are_round(self) -> None:
        assert [label for _, label in linear_axis([0.07, 0.93], "{:.3g}".format).ticks] == [
            *("0", "0.2", "0.4", "0.6", "0.8", "1")
        ]

    def test_nothing_but_one_value(self) -> None:
        axis = linear_axis([0.0, 0.0], "{:g}".format)
        assert axis.low < 0 < axis.high


class TestLossAxis:
    @given(LOSSES)
    def test_at_least_two_labels_and_not_many(self, values: list[float]) -> None:
        axis = loss_axis(values)
        assert axis.low <= min(values) * (1 + 1e-9)
        assert axis.high >= max(values) * (1 - 1e-9)
        assert 2 <= len(axis.ticks) <= 8
        assert len({label for _, label in axis.ticks}) == len(axis.ticks)

    def test_logarithmic_where_the_last_epochs_would_look_alike(self) -> None:
        assert loss_axis([0.1, 60.0]).is_log
        assert not loss_axis([0.9, 2.3]).is_log

    def test_losses_of_zero(self) -> None:
        assert len(loss_axis([0.0, 0.0]).ticks) >= 2
        assert loss_axis([0.0, 1.0, 100.0]).share(0.0) == 0.0

    def test_equal_ratios_are_equal_distances(self) -> None:
        axis = log_axis([1.0, 100.0])
        assert axis.share(10) - axis.share(1) == pytest.approx(axis.share(100) - axis.share(10))


@pytest.mark.parametrize(("epochs", "labels"), [(1, "1"), (3, "1 2 3"), (10, "1 2 4 6 8 10")])
def test_a_few_epochs(epochs: int, labels: str) -> None:
    assert [label for _, label in epoch_axis(epochs).ticks] == labels.split()


@given(st.integers(1, 10_000))
def test_ticks_are_whole_epochs(epochs: int) -> None:
    axis = epoch_axis(epochs)
    assert all(isinstance(place, int) and 1 <= place <= epochs for place, _ in axis.ticks)
    assert 1 <= len(axis.ticks) <= 8
    assert axis.low < 1 <= epochs < axis.high


class TestPanel:
    @staticmethod
    def panel() -> Panel:
        return Panel(epoch_axis(4), linear_axis([0.0, 1.0], "{:g}".format), "a <label> & 'more'")

    def test_text_is_escaped(self) -> None:
        panel = self.panel()
        panel.marker(1, 0.5, 0, "<script>")
        markup = panel.markup()
        assert "a &lt;label&gt; &amp; 'more'" in markup
        assert "&lt;script&gt;" in markup

    def test_names_at_the_ends_of_lines_do_not_overlap(self) -> None:
        panel = self.panel()
        for name, value in (("A", 0.5), ("B", 0.51), ("C", 0.5)):
            panel.name_end(4, value, name)
        panel.markup()
        places = sorted(float(t.get("y", "")) for t in panel.svg.iter("text") if t.get("class") == "name")
        assert len(places) == 3
        assert min(b - a for a, b in itertools.pairwise(places)) >= 12

    def test_twelve_variants_look_different(self) -> None:
        assert len({swatch(index) for index in range(12)}) == 12
