"""What an answer says of an item in its place, signed: a client brings it back with the event and cannot invent it.

So reading writes nothing, only what was really shown is logged, and a propensity in the log is the one of the draw.

A token is 79 characters, the URL-safe base64 of 59 bytes: a format byte, 8 bytes that stand for the request and 8 for
the item (BLAKE2b), place, propensity, number of items that were drawn from, 6 bytes of the run's version, the time in
milliseconds, and the first 16 bytes of the HMAC-SHA256 of all that.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import math
import os
import re
import secrets
import struct
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from ..base.errors import RunError
from .errors import Flaw, RequestError

KEY = "signing.key"
"""File of the key in a state's folder: of everything that answers from the state, in Python and over HTTP."""
_FORMAT = 1
_FIELDS = struct.Struct(">B8s8sHdI6sQ")  # the time keeps its six low bytes of eight
_SIGNATURE = 16
_KEY_BYTES = 32
_VERSION = re.compile(r"[0-9a-f]{12}")


class TokenError(RequestError):
    """A token that no answer of this service gave."""

    def __init__(self, detail: str) -> None:
        super().__init__([Flaw("/token", detail)])


@dataclass(frozen=True)
class Exposure:
    """An item in its place, as an answer gave it.

    Attributes:
        request: 16 hexadecimal digits that stand for the request's id.
        item: likewise of the raw item id.
        slot: place, from 1.
        propensity: probability of the draw; None where the place was not drawn.
        among: items that the place was drawn from, 0 where it was not drawn.
        version: of the run, 12 hexadecimal digits.
        time: seconds, when the answer was given.
    """

    request: str
    item: str
    slot: int
    propensity: float | None
    among: int
    version: str
    time: float


class Tokens:
    """Signs and reads tokens by one key, which workers and machines share.

    Args:
        key: at least 32 random bytes, see `kept_key`.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(
        self, request: str, item: str, slot: int, propensity: float | None, among: int, version: str, time: float
    ) -> str:
        """The token of an item in its place; see `Exposure`, but `request` and `item` are ids as they are.

        A version that is no 12 hexadecimal digits is named by a hash of it.
        """
        chance = math.nan if propensity is None else propensity
        fields = _FIELDS.pack(
            _FORMAT, stand_in(request), stand_in(item), slot, chance, among, _version(version), round(time * 1000)
        )
        body = fields[:-8] + fields[-6:]
        return base64.urlsafe_b64encode(body + self._signature(body)).decode("ascii").rstrip("=")

    def read(self, token: str, item: str | None = None) -> Exposure:
        """What a token says.

        Args:
            token: as an answer gave it.
            item: raw id of the item that the event is of; any when None.

        Raises:
            TokenError: it was not signed by this key, or is of another item.
        """
        try:
            raw = base64.urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
        except (ValueError, binascii.Error):
            raw = b""
        body, signature = raw[:-_SIGNATURE], raw[-_SIGNATURE:]
        signed = hmac.compare_digest(signature, self._signature(body))
        if not signed or len(body) != _FIELDS.size - 2 or body[0] != _FORMAT:
            raise TokenError("the token was given by no answer of this service; send it back as the answer gave it")
        _, request, named, slot, chance, among, version, time = _FIELDS.unpack(body[:-6] + b"\0\0" + body[-6:])
        if item is not None and not hmac.compare_digest(named, stand_in(item)):
            raise TokenError("the token is of another item than the event; send each item's own")
        propensity = None if math.isnan(chance) else chance
        return Exposure(request.hex(), named.hex(), slot, propensity, among, version.hex(), time / 1000)

    def seed(self, request: str, page: int = 0) -> int:
        """Of the draws of a request's page: the same for a repeated one, and nobody without the key foretells it."""
        said = struct.pack(">I", page) + request.encode("utf-8", "surrogatepass")
        return int.from_bytes(hmac.digest(self._key, b"recsys seed 1" + said, "sha256")[:8], "big")

    def _signature(self, body: bytes) -> bytes:
        return hmac.digest(self._key, b"recsys token 1" + body, "sha256")[:_SIGNATURE]


def kept_key(file: Path) -> bytes:
    """The key in a file, which is made on first use and which nobody but its owner may read.

    Raises:
        RunError: others may read the file, or it holds no key.
    """
    if not file.exists():
        _make_key(file)
    if file.stat().st_mode & 0o077:
        raise RunError(f"{file} may be read by others; its mode must be 600: chmod 600 {file}")
    try:
        key = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except ValueError:
        key = b""
    if len(key) < _KEY_BYTES:
        raise RunError(f"{file} holds no key of {_KEY_BYTES} bytes in hexadecimal digits; restore it, or delete it")
    return key


def stand_in(text: str) -> bytes:
    """8 bytes that stand for an id."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _version(text: str) -> bytes:
    return bytes.fromhex(text) if _VERSION.fullmatch(text) else blake2b(text.encode(), digest_size=6).digest()


def _make_key(file: Path) -> None:
    """Write a new key, whole or not at all; of several processes that try it one wins, and all read its key."""
    draft = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as out:
            out.write(secrets.token_hex(_KEY_BYTES) + "\n")
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, file)
    finally:
        draft.unlink()
