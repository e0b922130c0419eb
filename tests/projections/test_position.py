"""Position tokens."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from projections.position import BadToken, Cursor, decode, encode, position_of

OFFSETS = st.integers(0, 2**63 - 1)


@given(st.dictionaries(st.text(), st.dictionaries(OFFSETS, OFFSETS)))
def test_a_token_is_read_as_it_was_written(position: dict[str, dict[int, int]]) -> None:
    """Decoding an encoded position gives the position."""
    assert decode(encode(position)) == position


@pytest.mark.parametrize(
    "plain",
    [b"", b"x", b"[]", b"1", b'{"a": 1}', b'{"a": {"x": 1}}', b'{"a": {"0": -1}}', b'{"a": {"0": 1.5}}',
     b'{"a": {"0": true}}', b'{"a": {"0": 9223372036854775808}}', b'{"a": null}', b"\xff"],
)  # fmt: skip
def test_a_token_of_another_shape_is_refused(plain: bytes) -> None:
    """What is not a position is refused with a clear error."""
    with pytest.raises(BadToken, match="not a position token"):
        decode(base64.urlsafe_b64encode(plain).decode())


@given(st.text())
def test_any_text_is_a_token_or_refused(text: str) -> None:
    """No text makes the decoder fail otherwise than by its own error."""
    try:
        decode(text)
    except BadToken:
        return


def test_the_position_of_two_views_is_what_both_reflect() -> None:
    """Where two views read the same place, the smaller offset counts."""
    one, other = {("a", 0): 5, ("a", 1): 2}, {("a", 0): 3, ("b", 0): 1}
    assert position_of([one, other]) == {"a": {0: 3, 1: 2}, "b": {0: 1}}


PLACES = st.tuples(st.text(max_size=3), st.integers(0, 30))


@settings(deadline=None)
@given(st.dictionaries(PLACES, st.integers(0, 50), min_size=1), st.data())
def test_a_cursor_gives_the_tokens_of_its_positions(
    offsets: dict[tuple[str, int], int], data: st.DataObject
) -> None:
    """Wherever it is moved, its token is that of the whole position; it moves only forward, within its places."""
    cursor = Cursor(offsets)
    position = dict(offsets)
    for place, offset in data.draw(
        st.lists(st.tuples(st.sampled_from(sorted(offsets)) | PLACES, st.integers(0, 60)))
    ):
        forward = place in position and offset > position[place]
        assert cursor.move(place, offset) == forward
        if forward:
            position[place] = offset
        if data.draw(st.booleans()):
            assert cursor.token().decode() == encode(position_of([position]))
    assert cursor.token().decode() == encode(position_of([position]))
