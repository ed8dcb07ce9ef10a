"""The permutation is one, depends on its key, looks random, and never changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from popgpt.lines.shuffle import LARGEST, derive_key, mix, permute

KEYS = st.integers(0, 2**64 - 1)


@given(n=st.integers(1, 3000), key=KEYS)
def test_is_a_bijection(n: int, key: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(n), n, key)), np.arange(n))


@given(n=st.integers(1, LARGEST), key=KEYS, data=st.data())
def test_distinct_indices_have_distinct_images_below_n(n: int, key: int, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=50))
    images = permute(np.array(indices, np.uint64), n, key)
    assert len(set(images.tolist())) == len(indices)
    assert all(image < n for image in images.tolist())


@given(st.lists(st.tuples(st.integers(1, LARGEST), KEYS, st.integers(0, LARGEST)), min_size=1, max_size=20))
def test_many_permutations_at_once_are_each_its_own(cases: list[tuple[int, int, int]]) -> None:
    sizes, keys, indices = zip(*((n, key, index % n) for n, key, index in cases), strict=True)
    together = permute(np.array(indices, np.uint64), np.array(sizes, np.uint64), np.array(keys, np.uint64))
    apart = [int(permute(index, n, key)[0]) for index, n, key in zip(indices, sizes, keys, strict=True)]
    assert together.tolist() == apart


def test_every_order_of_four_is_about_as_likely() -> None:
    orders, counts = np.unique(
        [permute(np.arange(4), 4, derive_key("order", k)) for k in range(4800)], axis=0, return_counts=True
    )
    assert len(orders) == 24
    assert counts.min() > 140
    assert counts.max() < 260


@pytest.mark.parametrize("n", [1000, 204_000, 10**6 + 3])
def test_images_of_a_run_of_indices_are_spread_evenly(n: int) -> None:
    images = permute(np.arange(1000), n, derive_key("spread"))
    counts = np.bincount((images * np.uint64(10) // np.uint64(n)).astype(np.int64), minlength=10)
    assert ((counts - 100) ** 2 / 100).sum() < 33  # chi-squared, 9 degrees of freedom, p = 0.0001
    assert abs(np.corrcoef(np.arange(1000), images.astype(np.int64))[0, 1]) < 0.13


def test_numbers_never_change() -> None:
    assert derive_key("rows", 1, 2, 3) == 1040138944884313332
    assert permute(np.arange(8), 1000, 7).tolist() == [103, 518, 391, 935, 368, 147, 497, 178]
    assert mix(np.arange(3, dtype=np.uint64)).tolist() == [0, 6238072747940578789, 15839785061582574730]
