"""Chips become one query, with the weights that people gave them."""

from __future__ import annotations

from sentinel_app.streamlit_page.search_job import Term, combined_query, text_term, with_weights
from sentinel_client import Box


def test_no_terms_are_no_query() -> None:
    assert combined_query([]) is None


def test_terms_add_up_with_their_weights() -> None:
    terms = [
        text_term(" a beach "),
        text_term("people", -0.5),
        Term("pic", image=b"data", crop=Box(right=0.5)),
        Term("hit", item_id="abc", weight=2.0),
    ]
    query = combined_query(terms)
    assert query is not None
    beach, people, picture, hit = query.terms
    assert (beach.text, beach.weight) == ("a beach", 1.0)
    assert (people.text, people.weight) == ("people", -0.5)
    assert (picture.image, picture.crop) == (b"data", Box(right=0.5))
    assert (hit.item_id, hit.weight) == ("abc", 2.0)


def test_chips_that_were_removed_are_gone_and_the_others_take_their_new_weights() -> None:
    one, two = text_term("one"), text_term("two")
    [left] = with_weights([one, two], {two.key: -1.5})
    assert (left.text, left.weight) == ("two", -1.5)
