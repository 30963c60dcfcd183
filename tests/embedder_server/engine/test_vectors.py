"""Conversions of vectors: whatever a finite vector holds, what comes back is near it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from embedder_server.engine.results import shaped_rows, unit_rows
from embedder_server.types import FloatArray
from sentinel_core.vectors import Element, encode

finite = arrays.arrays(
    np.float32,
    st.integers(1, 70),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)
moderate = arrays.arrays(
    np.float32, st.integers(1, 70), elements=st.floats(-1, 1, width=32, allow_subnormal=False)
)


def decode(data: bytes, element: Element, dimensions: int, scale: float) -> FloatArray:
    """What the contract tells a client to do."""
    if element is Element.BINARY:
        bits = np.unpackbits(np.frombuffer(data, np.uint8))
        assert not bits[dimensions:].any()
        return bits[:dimensions].astype(np.float32)
    if element is Element.BFLOAT16:
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    kind = {Element.FLOAT32: "<f4", Element.FLOAT16: "<f2", Element.INT8: "i1"}[element]
    return np.frombuffer(data, kind).astype(np.float32) * np.float32(scale or 1)


@given(finite, st.sampled_from(Element))
@example(np.array([np.finfo(np.float32).max], np.float32), Element.INT8)
def test_every_finite_vector_stays_finite_and_keeps_its_length(
    vector: FloatArray, element: Element
) -> None:
    encoded = encode(vector, element)
    decoded = decode(encoded.data, element, encoded.dimensions, encoded.scale)
    assert encoded.dimensions == len(vector) == len(decoded)
    assert np.isfinite(decoded).all()
    assert (encoded.scale > 0) == (element is Element.INT8)


@given(finite)
def test_float32_is_exact(vector: FloatArray) -> None:
    assert encode(vector, Element.FLOAT32).data == vector.astype("<f4").tobytes()


@given(moderate)
def test_precision(vector: FloatArray) -> None:
    for element, relative in ((Element.FLOAT16, 2**-11), (Element.BFLOAT16, 2**-8)):
        decoded = decode(encode(vector, element).data, element, len(vector), 0)
        assert np.all(np.abs(decoded - vector) <= np.abs(vector) * relative + 2**-25)
    encoded = encode(vector, Element.INT8)
    decoded = decode(encoded.data, Element.INT8, len(vector), encoded.scale)
    assert np.all(np.abs(decoded - vector) <= encoded.scale * 0.5001)


@given(finite)
def test_a_bit_is_set_where_the_element_is_above_zero(vector: FloatArray) -> None:
    encoded = encode(vector, Element.BINARY)
    assert len(encoded.data) == (len(vector) + 7) // 8
    assert np.array_equal(decode(encoded.data, Element.BINARY, len(vector), 0), vector > 0)


def test_the_first_element_is_the_most_significant_bit() -> None:
    vector = np.array([1, -1, -1, -1, -1, -1, -1, 1, 1], dtype=np.float32)
    assert encode(vector, Element.BINARY).data == bytes([0b1000_0001, 0b1000_0000])


def test_bfloat16_rounds_to_nearest_even() -> None:
    # Halfway between two bfloat16 values, over an even one and over an odd one.
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF], dtype=np.uint32)
    data = encode(bits.view(np.float32), Element.BFLOAT16).data
    assert list(np.frombuffer(data, "<u2")) == [0x3F80, 0x3F82, 0x3F81, 0x7F7F]


def test_float16_clamps() -> None:
    vector = np.array([1e6, -1e6], dtype=np.float32)
    assert list(np.frombuffer(encode(vector, Element.FLOAT16).data, "<f2")) == [65504, -65504]


@given(
    arrays.arrays(
        np.float32, (3, 8), elements=st.floats(-100, 100, width=32, allow_subnormal=False)
    ),
    st.integers(0, 8),
)
def test_cut_vectors_have_length_one_again(rows: FloatArray, dimensions: int) -> None:
    units, norms = unit_rows(rows)
    cut, usable = shaped_rows(
        np.where(norms[:, None] > 0, units, 0).astype(np.float32),
        norms,
        dimensions=dimensions,
        normalize=True,
    )
    assert cut.shape == (3, dimensions or 8)
    assert np.linalg.norm(cut[usable], axis=1) == pytest.approx(np.ones(usable.sum()), abs=1e-5)


@given(
    arrays.arrays(np.float32, (2, 8), elements=st.floats(-100, 100, width=32)), st.integers(0, 8)
)
def test_without_normalising_the_model_s_own_elements_come_back(
    rows: FloatArray, dimensions: int
) -> None:
    units, norms = unit_rows(rows)
    good = norms > 0
    cut, _ = shaped_rows(units[good], norms[good], dimensions=dimensions, normalize=False)
    expected = rows[good][:, : dimensions or None]
    assert np.allclose(cut, expected, rtol=1e-5, atol=1e-30 + 1e-6 * np.abs(rows).max())


@pytest.mark.parametrize(
    ("row", "usable"),
    [
        pytest.param([3, 4], True, id="plain"),
        pytest.param([3e30, 4e30], True, id="square overflows float32"),
        pytest.param([3e-30, 4e-30], True, id="square underflows float32"),
        pytest.param([0, 0], False, id="zero"),
        pytest.param([np.nan, 1], False, id="nan"),
        pytest.param([np.inf, 1], False, id="inf"),
    ],
)
def test_rows_become_unit_vectors_or_have_no_length(row: list[float], usable: bool) -> None:
    units, norms = unit_rows(np.array([row], dtype=np.float32))
    if usable:
        assert units[0] == pytest.approx([0.6, 0.8], abs=1e-6)
    else:
        assert norms[0] == 0
