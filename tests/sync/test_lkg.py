"""The last known good snapshot on disk: its form, its rights, and what is not believed."""

from __future__ import annotations

import os
import pathlib
import stat

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trustgate.sync.lkg import Damaged, LastKnownGood

KEY = b"0123456789abcdef0123456789abcdef"


def test_the_file_is_nonce_and_ciphertext_with_tag(tmp_path: pathlib.Path) -> None:
    kept = LastKnownGood(str(tmp_path / "a" / "b" / "s.lkg"), KEY)
    kept.write(b"snapshot")
    sealed = kept.path.read_bytes()
    assert len(sealed) == 12 + len(b"snapshot") + 16
    assert AESGCM(KEY).decrypt(sealed[:12], sealed[12:], None) == b"snapshot"
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.path.parent.stat().st_mode) == 0o700


def test_a_file_of_another_implementation_is_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s.lkg"
    path.write_bytes(b"n" * 12 + AESGCM(KEY).encrypt(b"n" * 12, b"theirs", None))
    os.utime(path, (1000, 1000))
    found = LastKnownGood(str(path), KEY).read()
    assert found is not None
    assert (found.data, found.written) == (b"theirs", 1000)


def test_every_write_has_a_nonce_of_its_own_and_leaves_no_other_file(tmp_path: pathlib.Path) -> None:
    kept = LastKnownGood(str(tmp_path / "s.lkg"), KEY)
    seen = set[bytes]()
    for _ in range(3):
        kept.write(b"same")
        seen.add(kept.path.read_bytes())
    assert len(seen) == 3
    assert os.listdir(tmp_path) == ["s.lkg"]


def test_no_file_is_nothing(tmp_path: pathlib.Path) -> None:
    assert LastKnownGood(str(tmp_path / "s.lkg"), KEY).read() is None


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:20] + b"!" + data[21:]]
)
def test_a_file_that_was_changed_is_refused(tmp_path: pathlib.Path, damage: object) -> None:
    kept = LastKnownGood(str(tmp_path / "s.lkg"), KEY)
    kept.write(b"a snapshot of some length")
    kept.path.write_bytes(damage(kept.path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(Damaged):
        kept.read()


def test_another_key_does_not_open_it(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s.lkg")
    LastKnownGood(path, KEY).write(b"x")
    with pytest.raises(Damaged):
        LastKnownGood(path, b"x" * 32).read()


def test_a_folder_that_cannot_be_written_raises_and_keeps_the_old_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        LastKnownGood(str(tmp_path / "file" / "s.lkg"), KEY).write(b"x")
