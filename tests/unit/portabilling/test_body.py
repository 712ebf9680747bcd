"""Answers in which a text is damaged are read all the same; what is no JSON is none."""

from __future__ import annotations

import json

import pytest
from nsps.portabilling.body import Body, parsed


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"name": "M\xfcller"}', "M\ufffdller"),  # Latin-1
        (b'{"name": "M\xc3"}', "M\ufffd"),  # cut in the middle of a letter
        (b'{"name": "\xf0\x9f\x98"}', "\ufffd"),
        (b'{"name": "one\ntwo\ttabs\x00"}', "one\ntwo\ttabs\x00"),
        (b'\xef\xbb\xbf{"name": "M\xfcller\n"}', "M\ufffdller\n"),
    ],
)
def test_a_damaged_text_is_read_as_far_as_it_can_be(body: bytes, name: str) -> None:
    assert parsed(body) == Body({"name": name}, damaged=True)


@pytest.mark.parametrize(
    "body", ['{"name": "Müller"}', '\ufeff{"name": "Müller"}', '{"name":"M\\u00fcller"}']
)
def test_a_sound_one_is_not_called_damaged(body: str) -> None:
    assert parsed(body.encode()) == Body({"name": "Müller"})


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"name": "M\xfc', b"\xff\xfe", b'{"a": 1,}'])
def test_what_is_no_json_is_none(body: bytes) -> None:
    with pytest.raises(json.JSONDecodeError):
        parsed(body)
