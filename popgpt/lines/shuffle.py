"""Keyed pseudorandom permutations and hashes: the same numbers on every machine and with every numpy."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

U64 = NDArray[np.uint64]

LARGEST = 2**60
_ROUNDS = (0xA0761D6478BD642F, 0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3, 0x589965CC75374CC3, 0x1D8E4E27C1F25B31)


def derive_key(*parts: int | str) -> int:
    """A 64-bit key for what `parts` name, for example `derive_key("rows", seed, epoch, shard)`."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def mix(values: U64) -> U64:
    """The finalizer of splitmix64: a bijection of 64-bit words whose output bits look independent."""
    mixed = values ^ (values >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def permute(indices: ArrayLike, n: ArrayLike, key: ArrayLike) -> U64:
    """The images of `indices` under the permutation of range(n) that `key` names.

    A Feistel network over pairs (left < 2**k, right < b) with 2**k * b just above n; what lands beyond n walks
    on along its cycle. Nothing is stored, so any part of a permutation can be had alone, in any order.

    Args:
        indices: [m] integers, each below its n.
        n, key: scalars or [m]; n from 1 to 2**60, key any 64-bit word.
    """
    index = np.atleast_1d(np.asarray(indices, np.uint64))
    size = np.atleast_1d(np.asarray(n, np.uint64))
    word = np.atleast_1d(np.asarray(key, np.uint64))
    image = _feistel(index, size, word)
    outside = np.flatnonzero(image >= size)
    size, word = np.broadcast_to(size, index.shape), np.broadcast_to(word, index.shape)
    while outside.size:
        walked = _feistel(image[outside], size[outside], word[outside])
        image[outside] = walked
        outside = outside[walked >= size[outside]]
    return image


def _feistel(index: U64, size: U64, key: U64) -> U64:
    """One pass of the network over each index: a bijection of range(2**k * b), which holds range(size)."""
    bits = np.frexp(np.maximum(size, np.uint64(2)) - np.uint64(1))[1]
    shift = ((bits + 1) // 2).astype(np.uint64)
    mask = (np.uint64(1) << shift) - np.uint64(1)
    rights = (size + mask) >> shift
    left, right = index & mask, index >> shift
    for number, constant in enumerate(_ROUNDS):
        keyed = key ^ np.uint64(constant)
        if number % 2:
            left = (left + _scramble(right, keyed)) & mask
        else:
            right = right + (_scramble(left, keyed) * rights >> np.uint64(32))
            right = np.minimum(right, right - rights)
    image: U64 = left | (right << shift)
    return image


def _scramble(values: U64, keys: U64) -> U64:
    """A 32-bit hash of each value under its key."""
    word = (values ^ keys) * np.uint64(0x9FB21C651E98DF25)
    word ^= word >> np.uint64(32)
    word *= np.uint64(0xD6E8FEB86659FD93)
    word >>= np.uint64(32)
    return word
