"""Secrets in configuration: the log holds references and fingerprints, the vault holds ciphertext.

What lives here: the shape of a secret reference inside free-form JSON, and pure walks over it. What must not: ciphers
and storage (`store.vault`).

A secret leaf is the mapping `{"$secret": ref, "fp": fingerprint, "mask": mask}`:
- `ref`: id of the vault entry that holds the ciphertext;
- `fp`: first 16 hex characters of HMAC-SHA-256 of the value under the installation's fingerprint key, for audit;
- `mask`: what the Admin API shows, `***` or `***` + last 4 (spec 01 §3.5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

REF = "$secret"


def mask(value: str) -> str:
    """What is shown of a secret (spec 01 §3.5): `***` for up to 8 bytes, else `***` and the last 4.

    Bytes, because four characters can be a whole secret; a character that these cut is left out.
    """
    encoded = value.encode()
    return "***" if len(encoded) <= 8 else "***" + encoded[-4:].decode(errors="ignore")


def reference(ref: str, fingerprint: str, plaintext: str) -> dict[str, Any]:
    """A secret reference to vault entry `ref`, which holds `plaintext`."""
    return {REF: ref, "fp": fingerprint, "mask": mask(plaintext)}


def is_ref(value: Any) -> bool:
    """Whether `value` is a secret reference."""
    return isinstance(value, dict) and REF in value


def refs(value: Any) -> Iterator[str]:
    """Every vault reference inside `value`, depth first."""
    if isinstance(value, dict):
        mapping = cast("dict[str, Any]", value)
        if REF in mapping:
            yield mapping[REF]
        else:
            for item in mapping.values():
                yield from refs(item)
    elif isinstance(value, (list, tuple)):
        for item in cast("list[Any]", value):
            yield from refs(item)


def replace(value: Any, convert: Callable[[dict[str, Any]], Any]) -> Any:
    """A copy of `value` in which every secret reference is what `convert` makes of it; other values are shared."""
    if isinstance(value, dict):
        mapping = cast("dict[str, Any]", value)
        if REF in mapping:
            return convert(mapping)
        return {key: replace(item, convert) for key, item in mapping.items()}
    if isinstance(value, (list, tuple)):
        return [replace(item, convert) for item in cast("list[Any]", value)]
    return value


def masked(value: Any) -> Any:
    """`value` as the Admin API shows it: each secret reference becomes its mask."""
    return replace(value, lambda ref: ref["mask"])
