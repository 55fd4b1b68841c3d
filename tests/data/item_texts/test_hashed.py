"""Hashed tf-idf and its axes are what their formulas say, and know of a later text what they knew of the first ones."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys.base.errors import DataError
from recsys.data.item_texts.hashed import HashedTexts

TEXTS = [
    "Toy Story (1995)",
    "toy story 2 (1999)",
    "Heat (1995)",
    "Heat of the Night",
    "The Night Train",
    "Œuvre, œuvre!",
    "œuvre du train",
    None,
    "",
    "zzz",
]


def pieces(text: str | None) -> Counter[str]:
    """Words and their runs of three letters, by hand."""
    words = "".join(letter if letter.isalnum() else " " for letter in (text or "").lower()).split()
    found: Counter[str] = Counter()
    for word in words:
        marked = f"<{word}>"
        found[f"word {word}"] += 1
        found.update(f"part {marked[at : at + 3]}" for at in range(len(marked) - 2))
    return found


def by_hand() -> np.ndarray:
    """Rows of the texts, a column for each piece that two texts have."""
    counted = [pieces(text) for text in TEXTS]
    having = Counter(piece for one in counted for piece in one)
    columns = sorted(piece for piece, texts in having.items() if texts > 1)
    known = sum(text is not None for text in TEXTS)
    rows = np.array(
        [
            [
                (1 + math.log(one[piece])) * math.log((1 + known) / (1 + having[piece])) if one[piece] else 0.0
                for piece in columns
            ]
            for one in counted
        ]
    )
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def test_the_best_axes_keep_the_products_of_the_rows_as_well_as_any() -> None:
    """Eckart and Young: of all spaces of that width, that of the singular vectors is nearest."""
    rows = by_hand()
    exact = rows @ np.linalg.svd(rows)[2][:4].T
    exact /= np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-12)
    texts = pa.array(TEXTS)
    made = HashedTexts.fit(texts, 4).vectors(texts)
    np.testing.assert_allclose(made @ made.T, exact @ exact.T, atol=1e-5)
    assert made.shape == (10, 4)


def test_a_text_without_a_known_word_is_zero_and_the_others_have_length_one() -> None:
    texts = pa.array(TEXTS)
    learned = HashedTexts.fit(texts, 5)
    lengths = np.linalg.norm(learned.vectors(texts), axis=1)
    np.testing.assert_allclose(lengths[:7], 1.0, rtol=1e-5)
    assert (lengths[7:] == 0).all()
    assert not learned.vectors(pa.array(["qqq www", None])).any()


def test_like_texts_are_near_and_others_far() -> None:
    texts = pa.array(TEXTS)
    made = HashedTexts.fit(texts, 4).vectors(texts)
    assert made[0] @ made[1] > 0.8  # Toy Story and its sequel
    assert made[5] @ made[6] > 0.8
    assert abs(made[0] @ made[5]) < 0.2


def test_a_later_text_gets_the_vector_it_would_have_had_and_changes_none(tmp_path: Path) -> None:
    learned = HashedTexts.fit(pa.array(TEXTS), 4)
    learned.save(tmp_path / "fit.safetensors")
    again = HashedTexts.load(tmp_path / "fit.safetensors")
    assert again.width == learned.width
    for name in ("columns", "weights", "axes"):
        np.testing.assert_array_equal(getattr(again, name), getattr(learned, name))
    np.testing.assert_array_equal(again.vectors(pa.array(["Toy Story (1995)"])), learned.vectors(pa.array(TEXTS))[:1])


def test_the_order_of_the_texts_and_other_seeds_leave_the_products() -> None:
    order = np.random.default_rng(1).permutation(len(TEXTS))
    texts = pa.array(TEXTS)
    first = HashedTexts.fit(texts, 4).vectors(texts)
    shuffled = HashedTexts.fit(texts.take(pa.array(order)), 4, seed=7).vectors(texts)
    np.testing.assert_allclose(shuffled @ shuffled.T, first @ first.T, atol=1e-5)


def test_too_little_to_compare_and_a_wrong_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few to be compared"):
        HashedTexts.fit(pa.array(["one", "two", "three"]), 4)
    (tmp_path / "other.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="cannot be read as fitted texts"):
        HashedTexts.load(tmp_path / "other.safetensors")
