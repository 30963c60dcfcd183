"""Chips become one query, with the weights that people gave them."""

from __future__ import annotations

from sentinel_app.terms import Term, query_of, reweighted, words
from sentinel_client import Box


def test_no_terms_are_no_query() -> None:
    assert query_of([]) is None


def test_terms_add_up_with_their_weights() -> None:
    terms = [
        words(" a beach "),
        words("people", -0.5),
        Term("pic", image=b"data", crop=Box(right=0.5)),
        Term("hit", item_id="abc", weight=2.0),
    ]
    query = query_of(terms)
    assert query is not None
    beach, people, picture, hit = query.terms
    assert (beach.text, beach.weight) == ("a beach", 1.0)
    assert (people.text, people.weight) == ("people", -0.5)
    assert (picture.image, picture.crop) == (b"data", Box(right=0.5))
    assert (hit.item_id, hit.weight) == ("abc", 2.0)


def test_chips_that_were_removed_are_gone_and_the_others_take_their_new_weights() -> None:
    one, two = words("one"), words("two")
    [left] = reweighted([one, two], {two.key: -1.5})
    assert (left.text, left.weight) == ("two", -1.5)
