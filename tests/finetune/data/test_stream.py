"""Images decoded on demand: the same pixels as decoded once, and bad ones told whenever they turn up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.data.datasets import Sample
from finetune.data.sources import ahead
from finetune.data.store import decode
from finetune.data.stream import StreamedImages, evaluation_stream, training_stream, visit
from finetune.errors import BadImagesError
from tests.builders.images import photo

Kind = Callable[..., StreamedImages]
KINDS = [training_stream, evaluation_stream]


def nothing(_: int) -> None:
    """A progress bar that nobody looks at."""


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Seven images of different sizes, one of them an array in memory."""
    paths = [photo(tmp_path / f"{i}.png", i, 20 + 3 * i, 70 - i) for i in range(6)]
    grey = np.random.default_rng(9).integers(0, 256, (30, 22), dtype=np.uint8)
    return [*(Sample(p.name, 0, p) for p in paths), Sample("6", 0, grey)]


def path_of(sample: Sample) -> Path:
    assert isinstance(sample.content, Path)
    return sample.content


class TestStream:
    @pytest.mark.parametrize("workers", [1, 3])
    @pytest.mark.parametrize("batch_size", [1, 3, 7, 8])
    def test_a_split_equals_the_decoded_one(
        self, samples: list[Sample], workers: int, batch_size: int
    ) -> None:
        stream = evaluation_stream(samples, 16, workers)
        batches = list(stream.batches(batch_size))
        assert [len(b) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert torch.equal(torch.cat(batches), torch.cat(list(decode(stream, nothing).batches(100))))

    @pytest.mark.parametrize("kind", KINDS)
    def test_each_image_equals_the_decoded_one(self, samples: list[Sample], kind: Kind) -> None:
        stream = kind(samples, 16, 2)
        kept = decode(stream, nothing)
        assert len(stream) == 7
        assert stream.n_bytes == len(kept.pixels)
        for i in range(7):
            np.testing.assert_array_equal(stream.image(i), kept.image(i))

    @pytest.mark.parametrize("part", [slice(2, 5), slice(None), slice(5, None), slice(None, None, 3)])
    def test_batches_of_a_part_are_those_of_the_whole(self, samples: list[Sample], part: slice) -> None:
        stream = evaluation_stream(samples, 16, 2)
        whole = torch.cat(list(stream.batches(7)))
        assert torch.equal(torch.cat(list(stream.batches(2, part))), whole[part])

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_image_that_breaks_after_the_scan(self, samples: list[Sample], kind: Kind) -> None:
        stream = kind(samples, 16, 2)
        visit(stream, nothing)
        path_of(samples[3]).write_bytes(b"bad")
        with pytest.raises(BadImagesError) as caught:
            stream.image(3)
        assert caught.value.reasons == {"3.png": "not an image"}
        path_of(samples[3]).unlink()
        with pytest.raises(BadImagesError, match=r"3\.png \(No such file or directory\)"):
            stream.image(3)
        with pytest.raises(BadImagesError, match=r"3\.png"):
            list(stream.batches(2, slice(3, 4)))

    @pytest.mark.parametrize(("width", "height"), [(28, 67), (29, 66), (67, 29), (1, 1)])
    def test_an_image_that_becomes_another_size_after_the_scan(
        self, samples: list[Sample], width: int, height: int
    ) -> None:
        """Its crop was drawn for the size it had."""
        stream = training_stream(samples, 64, 2)
        photo(path_of(samples[3]), 99, width, height)
        with pytest.raises(BadImagesError, match=r"3\.png \(its size differs from the one in its header\)"):
            stream.image(3)
        with pytest.raises(BadImagesError, match=r"3\.png \(its size"):
            visit(stream, nothing)

    def test_bugs_pass_through(self, samples: list[Sample]) -> None:
        def broken(_: object) -> None:
            raise KeyError("bug")

        stream = StreamedImages(samples, np.ones((7, 2), dtype=np.int64), broken, 2)  # type: ignore[arg-type]
        with pytest.raises(KeyError):
            stream.image(0)
        with pytest.raises(KeyError):
            visit(stream, nothing)


class TestCheckAll:
    @pytest.mark.parametrize("workers", [1, 3])
    @pytest.mark.parametrize("kind", KINDS)
    def test_all_bad_images_are_reported_together(
        self, samples: list[Sample], kind: Kind, workers: int
    ) -> None:
        path_of(samples[1]).write_bytes(b"bad")
        path_of(samples[4]).unlink()
        path_of(samples[5]).write_bytes(path_of(samples[5]).read_bytes()[:300])  # only the header is whole
        told: list[int] = []
        with pytest.raises(BadImagesError) as caught:
            visit(kind(samples, 16, workers), told.append)
        assert list(caught.value.reasons) == ["1.png", "4.png", "5.png"]
        assert caught.value.reasons["1.png"] == "not an image"
        assert sum(told) == 4

    def test_progress_counts_good_images_one_by_one(self, samples: list[Sample]) -> None:
        told: list[int] = []
        visit(training_stream(samples, 16, 3), told.append)
        assert told == [1] * 7


class TestAhead:
    @pytest.fixture
    def pool(self) -> Iterator[ThreadPoolExecutor]:
        with ThreadPoolExecutor(4) as pool:
            yield pool

    @pytest.mark.parametrize("most", [0, 1, 3, 50])
    def test_in_order(self, pool: ThreadPoolExecutor, most: int) -> None:
        first = threading.Event()

        def work(item: int) -> int:
            if item == 0 and most:
                first.wait(0.05)  # the later ones are done earlier
            else:
                first.set()
            return item * item

        assert list(ahead(pool, work, range(20), most)) == [i * i for i in range(20)]

    @pytest.mark.parametrize("most", [0, 1, 3])
    def test_no_further_than_asked(self, pool: ThreadPoolExecutor, most: int) -> None:
        taken: list[int] = []

        def items() -> Iterator[int]:
            for i in range(10):
                taken.append(i)
                yield i

        for item in ahead(pool, lambda i: i, items(), most):
            assert len(taken) == min(10, item + 1 + most)

    def test_nothing_is_begun_before_it_is_asked_for(self, pool: ThreadPoolExecutor) -> None:
        begun: list[int] = []
        made = ahead(pool, begun.append, range(5), 3)
        assert begun == []
        next(made)
        assert 0 in begun

    def test_no_items(self, pool: ThreadPoolExecutor) -> None:
        assert list(ahead(pool, lambda i: i, [], 3)) == []

    @pytest.mark.parametrize("most", [0, 2, 9])
    def test_an_exception_comes_in_its_turn(self, pool: ThreadPoolExecutor, most: int) -> None:
        def work(item: int) -> int:
            if item == 3:
                raise KeyError("bug")
            return item

        made = ahead(pool, work, range(9), most)
        assert [next(made) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(KeyError):
            next(made)

    @pytest.mark.parametrize("fails", [False, True])
    def test_what_waits_is_cancelled_when_it_ends_early(self, fails: bool) -> None:
        ended, begun = threading.Event(), []

        def work(item: int) -> int:
            begun.append(item)
            if fails and item == 1:
                raise KeyError("bug")
            if item > 0:
                ended.wait(10)
            return item

        with ThreadPoolExecutor(1) as pool:
            made = ahead(pool, work, range(9), 5)
            assert next(made) == 0
            if fails:
                with pytest.raises(KeyError):
                    next(made)
            else:
                made.close()  # type: ignore[attr-defined]
            ended.set()
        assert max(begun) <= 1 + fails  # the pool's one thread took one more before the rest was cancelled
