"""A SERVER_SECRET_KEY for embedded installations that were given none.

What lives here: the file that keeps it. What must not: the decision when that is allowed (`settings`).
"""

from __future__ import annotations

import base64
import os
import pathlib
import secrets

SECRET_BYTES = 32
FILE_NAME = "secret.key"


def load_or_create(data_dir: pathlib.Path) -> str:
    """The installation's key from `<data_dir>/secret.key`, created (mode 0600) at the first start.

    Several processes may start together: the first one's key is everybody's. Raises OSError when the folder cannot be
    written, ValueError when the file is there but holds no key.
    """
    path = data_dir / FILE_NAME
    if not path.exists():
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(path, base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode())
    key = path.read_text().strip()
    if len(key) < SECRET_BYTES:
        raise ValueError(f"{path} holds no secret key: restore it, or remove it if this store has no secrets to keep")
    return key


def _create(path: pathlib.Path, key: str) -> None:
    # A complete file appears at once under its name, and never replaces one that is there.
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        os.unlink(draft)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
