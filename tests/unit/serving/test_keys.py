"""API keys: shown once, kept as hashes."""

from pathlib import Path

import pytest

from semievol.errors import UserError
from semievol.serving.keys import Keys, add, read


def test_keys_are_named_and_only_their_hashes_are_kept(tmp_path: Path) -> None:
    file = f"{tmp_path}/keys.txt"
    alice, bob = add("alice", file), add("bob", file)
    kept = read(file, None)
    keys = Keys.parse(f"# who may ask\n{kept}", file)
    assert len(keys) == 2 and alice not in kept and bob not in kept
    assert (keys.owner(alice), keys.owner(bob)) == ("alice", "bob")
    assert keys.owner(alice[:-1]) is None and keys.owner("") is None and keys.owner("\ud800") is None
    both = Keys.parse(",".join(kept.splitlines()), "the environment")
    assert both.owner(bob) == "bob" and len(Keys.parse(read(None, None), "nothing")) == 0


def test_what_is_no_key_line_is_refused_without_showing_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"keys\.txt, entry 2: not NAME:sha256:HEX") as refused:
        Keys.parse("\nalice:sk-semievol-a-real-key", "keys.txt")
    assert "a-real-key" not in str(refused.value)
    with pytest.raises(UserError, match="entry 2: the name 'alice' is there twice"):
        Keys.parse("\n".join([f"alice:sha256:{'0' * 64}"] * 2), "keys.txt")
    with pytest.raises(UserError, match="'alice' has a key already"):
        add("alice", f"{tmp_path}/k") and add("alice", f"{tmp_path}/k")
    with pytest.raises(UserError, match="is not a valid key name"):
        add("al ice", f"{tmp_path}/k")
    with pytest.raises(UserError, match="semievol key NAME"):
        read(f"{tmp_path}/none", None)
