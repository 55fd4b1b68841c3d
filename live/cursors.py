"""Pages without a memory: a cursor holds what was given, signed, so that the next page gives none of it again."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from dataclasses import dataclass

import numpy as np

from ..data.hashing import U64
from .errors import Flaw, RequestError

MOST = 1000
"""Items that a cursor remembers; there is no page behind them."""
_HEAD = struct.Struct(">HH")
_SIGNED = 16
_PURPOSE = b"recsys cursor 1"


@dataclass(frozen=True)
class Cursor:
    """What was given.

    Attributes:
        request_id: of the first page.
        page: number of the next one; the first is 0.
        given: uint64 [n] hashes of the items given so far, in order.
    """

    request_id: str
    page: int
    given: U64

    def text(self, key: bytes) -> str:
        """As a client carries it."""
        name = self.request_id.encode()
        content = _HEAD.pack(self.page, len(name)) + name + self.given.astype(">u8").tobytes()
        return base64.urlsafe_b64encode(content + _signature(key, content)).rstrip(b"=").decode()


def read_cursor(text: str, key: bytes) -> Cursor:
    """What a client brings back.

    Raises:
        RequestError: it is none of ours.
    """
    wrong = RequestError([Flaw("/cursor", "the cursor is none that this service gave; send it as the answer had it")])
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise wrong from None
    content, signature = raw[:-_SIGNED], raw[-_SIGNED:]
    if not hmac.compare_digest(signature, _signature(key, content)) or len(content) < _HEAD.size:
        raise wrong
    page, length = _HEAD.unpack_from(content)
    name, given = content[_HEAD.size : _HEAD.size + length], content[_HEAD.size + length :]
    return Cursor(name.decode(), page, np.frombuffer(given, dtype=">u8").astype(np.uint64))


def _signature(key: bytes, content: bytes) -> bytes:
    return hmac.new(key, _PURPOSE + content, hashlib.sha256).digest()[:_SIGNED]
