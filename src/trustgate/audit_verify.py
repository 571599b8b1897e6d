#!/usr/bin/env python3
"""Verify an audit export of TrustGate, offline. Needs Python 3.9 or later and the `cryptography` package; this file has
no other part of TrustGate and may be copied anywhere.

    python audit_verify.py EXPORT --key PUBLIC_KEY [--known ID] [--gateway ID ...]

EXPORT is what `trustgate audit export` wrote: one JSON object a line, `-` for standard input.
    {"kind": "key", "public_key": HEX}
    {"kind": "event", "position": N, "stream": S, "version": N, "previous": HEX or "", "data": TEXT}
    {"kind": "checkpoint", "statement": TEXT, "signature": HEX}
PUBLIC_KEY (64 hex characters, or a file with them) is what `trustgate audit key` printed when the installation was set
up: keep it elsewhere. The id of the last checkpoint, which this program prints, is worth keeping too: given as --known,
it proves that the log was not cut off before it. --gateway: the export is of these gateways alone.

What is checked:
1. Each event carries the hash of its predecessor in its stream:
   hash(n) = SHA-256(hash(n-1) LF stream LF version LF carried LF data), hash(0) = 64 zeros. `carried` is the hash that
   the event holds of its predecessor; events from before the chain hold none ("").
2. Versions of a stream count 1, 2, 3, ... and positions of the log only grow.
3. Checkpoints count 1, 2, 3, ...; each is signed (Ed25519) and names the SHA-256 of the statement before it.
4. For each stream, a checkpoint holds, under SHA-256 of the stream's name, the SHA-256 of the lines "position hash LF"
   of the stream's events since the checkpoint before. Nothing is missing, added, moved or changed.
What follows the last checkpoint is linked, but nobody has signed it yet. Exit code: 0 verified, 1 not, 2 misused.
"""

import argparse
import hashlib
import json
import os
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ZEROS = "0" * 64


class Tampered(Exception):
    """What is wrong with an export, and in which line."""


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Verifier:
    """Takes the lines of an export in order; `finish` when there are no more. Raises `Tampered`."""

    def __init__(self, key, gateways=(), known=None):
        self.public = key.lower()
        self.key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
        self.streams = {"gateway:" + gateway for gateway in gateways}  # empty: the export is of the whole log
        self.known = known
        self.heads = {}  # stream: (version, hash) of its last event
        self.fresh = {}  # stream: digest of its events since the last checkpoint
        self.position = 0  # of the last event
        self.checkpoint = {"number": 0, "position": 0, "time": ""}
        self.checkpoint_id = ZEROS
        self.events = self.unchained = self.unsealed = 0

    def line(self, number, text):
        try:
            item = json.loads(text, object_pairs_hook=without_duplicates)
            kind = item["kind"]
            if (kind == "key") != (number == 1):
                raise Tampered("the first line, and no other, names the key")
            if kind == "event":
                self.event(item)
            elif kind == "checkpoint":
                self.seal(item)
            elif item != {"kind": "key", "public_key": self.public}:
                raise Tampered("the export is of another installation: it names another key")
        except Tampered as error:
            raise Tampered(f"line {number}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Tampered(f"line {number}: not a line of an export ({type(error).__name__}: {error})") from None

    def event(self, item):
        if set(item) != {"kind", "position", "stream", "version", "previous", "data"}:
            raise Tampered("an event has members that it should not have, or lacks some")
        stream, version, previous, position = item["stream"], item["version"], item["previous"], item["position"]
        if type(version) is not int or type(position) is not int:
            raise Tampered("version and position must be whole numbers")
        if self.streams and stream not in self.streams:
            raise Tampered(f"{stream} is not one of the gateways that were asked for")
        if position <= max(self.position, self.checkpoint["position"]):
            raise Tampered(f"position {position} is out of order")
        last_version, head = self.heads.get(stream, (0, ZEROS))
        if version != last_version + 1:
            raise Tampered(f"event {last_version + 1} of {stream} is missing or out of order (found {version})")
        if previous not in ("", head):
            raise Tampered(f"event {version} of {stream} does not follow its predecessor: one of them was changed")
        head = sha256(f"{head}\n{stream}\n{version}\n{previous}\n".encode() + item["data"].encode())
        self.heads[stream] = version, head
        self.fresh.setdefault(stream, hashlib.sha256()).update(f"{position} {head}\n".encode())
        self.position = position
        self.events += 1
        self.unsealed += 1
        self.unchained += previous == ""

    def seal(self, item):
        if set(item) != {"kind", "statement", "signature"}:
            raise Tampered("a checkpoint has members that it should not have, or lacks some")
        data = item["statement"].encode()
        try:
            self.key.verify(bytes.fromhex(item["signature"]), data)
            if item["signature"] != item["signature"].lower():
                raise Tampered("the signature of the checkpoint is not as it was written")
        except InvalidSignature:
            raise Tampered("the signature of the checkpoint is not of the given key") from None
        statement = json.loads(data)
        number = statement["number"]
        if number != self.checkpoint["number"] + 1 or statement["previous"] != self.checkpoint_id:
            raise Tampered(f"checkpoint {number} does not follow checkpoint {self.checkpoint['number']}")
        if self.position > statement["position"]:
            raise Tampered(f"checkpoint {number} is not where it belongs")
        found = {sha256(stream.encode()): digest.hexdigest() for stream, digest in self.fresh.items()}
        names = {sha256(stream.encode()): stream for stream in (*self.heads, *self.streams)}
        for key in sorted(set(found) | set(statement["streams"])):
            if self.streams and key not in names:
                continue  # another gateway's: only its owner can tell
            if found.get(key) != statement["streams"].get(key):
                what = names.get(key, "a stream that is not in the export")
                raise Tampered(f"checkpoint {number} covers other events of {what} than the export holds")
        self.checkpoint, self.checkpoint_id = statement, sha256(data)
        self.fresh = {}
        self.unsealed = 0
        if self.checkpoint_id == self.known:
            self.known = None

    def finish(self):
        if self.known is not None:
            raise Tampered(f"the known checkpoint {self.known} is not in the export: its end was cut off, or replaced")
        for stream in sorted(self.streams.difference(self.heads)):
            raise Tampered(f"the export holds nothing of {stream}")
        if not self.checkpoint["number"]:
            raise Tampered("the export holds no checkpoint: nothing in it is signed")


def without_duplicates(pairs):
    item = dict(pairs)
    if len(item) != len(pairs):
        raise ValueError("a member appears twice")
    return item


def verify(lines, key, gateways=(), known=None):
    """Verify an export given as lines of bytes; the `Verifier`, which has counts. Raises `Tampered`."""
    verifier = Verifier(key, gateways, known)
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            raise Tampered(f"line {number}: the file was cut off")
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise Tampered(f"line {number}: not UTF-8") from None
        verifier.line(number, text)
    verifier.finish()
    return verifier


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Verify an audit export of TrustGate, offline.")
    parser.add_argument("export", help="file written by `trustgate audit export`, - for standard input")
    parser.add_argument("--key", required=True, help="Ed25519 public key: 64 hex characters, or a file with them")
    parser.add_argument("--known", help="id of a checkpoint that must be in the export")
    parser.add_argument("--gateway", action="append", default=[], help="id of a gateway the export is restricted to")
    given = parser.parse_args(arguments)
    key = given.key
    try:
        if os.path.exists(key):
            with open(key) as file:
                key = file.read().strip()
        source = sys.stdin.buffer if given.export == "-" else open(given.export, "rb")  # noqa: SIM115
        with source:
            done = verify(source, key, given.gateway, given.known)
    except Tampered as error:
        print(f"NOT VERIFIED: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"cannot verify: {error}", file=sys.stderr)
        return 2
    last = done.checkpoint
    print(f"verified: {done.events} events of {len(done.heads)} streams, {last['number']} checkpoints")
    print(f"last checkpoint: {last['number']} of {last['time']}, id {done.checkpoint_id}")
    if done.unchained:
        print(f"note: {done.unchained} events are from before the hash chain; the checkpoints cover them")
    if done.unsealed:
        print(f"note: {done.unsealed} events follow the last checkpoint: linked, but not signed yet")
    return 0


if __name__ == "__main__":
    sys.exit(main())
