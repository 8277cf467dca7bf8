from pathlib import Path

import numpy as np
import pytest

from semievol.errors import UserError
from semievol.retrieval.lexical import LexicalIndex

IDS = np.array([-5, 7, 2**62, 9], dtype=np.int64)
TEXTS = ["A cat sleeps.", "The dog barks, the dog runs!", "Zwei Katzen: 7 + 5", "A cat and a dog"]


def test_bm25_finds_shared_words_excludes_the_row_itself_and_survives_storage(tmp_path: Path) -> None:
    built = LexicalIndex(TEXTS, IDS)
    assert len(built.save(f"{tmp_path}/index")) == 64
    index = LexicalIndex.load(f"{tmp_path}/index")
    queries = ["DOG barks", "7", "nothing in common", "", TEXTS[3]]
    exclude = np.array([1, 1, 1, 1, IDS[3]], dtype=np.int64)
    ids, scores = index.search(queries, 3, exclude)
    assert ids[:4] == [[7, 9], [2**62], [], []]
    assert set(ids[4]) == {-5, 7}
    assert scores[0][0] > scores[0][1] > 0
    assert index.search(queries, 3, exclude) == built.search(queries, 3, exclude)
    assert index.search(queries, 1, exclude)[0][0] == [7]
    assert index.search(queries, 0, exclude) == ([[]] * 5, [[]] * 5)
    with pytest.raises(UserError, match="bm25 finds no word"):
        LexicalIndex(["?", ""], IDS[:2])
