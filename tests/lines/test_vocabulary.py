"""Characters and ids: there and back, whatever the alphabet."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from popgpt.lines.vocabulary import Vocabulary
from popgpt.text.errors import UserError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT)
def test_decoding_gives_back_the_text(text: str) -> None:
    vocabulary = Vocabulary("".join(sorted({*text, "\n"})))
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert len(vocabulary) == len({*text, "\n"})
    assert vocabulary.characters[vocabulary.newline] == "\n"
    assert ids.tolist() == [vocabulary.characters.index(character) for character in text]


@given(TEXT, st.characters())
def test_an_unknown_character_is_named(text: str, other: str) -> None:
    vocabulary = Vocabulary("".join(sorted({*text, "\n"})))
    if other not in vocabulary.characters:
        with pytest.raises(UserError) as error:
            vocabulary.encode(text + other)
        assert repr(other) in str(error.value)
        assert "\n" not in str(error.value)


def test_characters_that_are_not_sorted_are_refused() -> None:
    with pytest.raises(ValueError, match="sorted"):
        Vocabulary("ba\n")
    with pytest.raises(ValueError, match="newline"):
        Vocabulary("ab")


def test_ids_of_nothing() -> None:
    assert Vocabulary("\n").encode("").tolist() == []
    assert Vocabulary("\n").decode(np.zeros(0, np.int64)) == ""
