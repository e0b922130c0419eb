"""State of one key to bytes and back: MessagePack, river models inside as pickles, all under a signature.

Unpickling runs code, so nothing is unpickled that was not signed by the holder of the key for
this very namespace, topic, partition, changelog key, fold, version and offset.
"""

from __future__ import annotations

import pickle
from functools import cache
from hashlib import blake2b
from hmac import compare_digest
from importlib.metadata import version
from typing import Any

import msgspec

from schemas.errors import HeadwaterError
from streams.folding.pickling import dumps

_PICKLE = 1
_MAC_BYTES = 32
RIVER = version("river")


class SnapshotRefused(HeadwaterError):
    """A snapshot is not ours, is of another river, or of another fold version: fold the log anew."""


class Snapshot(msgspec.Struct, frozen=True, array_like=True):
    """One key's state. It covers all records below `position`; `wake` and `clock` are the open wake."""

    fold: str
    version: int
    key: str
    position: int
    state: bytes
    wake: float | None
    clock: str
    river: str = RIVER
    term: int = 0
    """How many switches of the fold came before in this partition: a version may be in force twice."""


class Marker(msgspec.Struct, frozen=True, array_like=True):
    """Says that every change below `position` is in the snapshots of the named fold versions."""

    position: int
    folds: dict[str, int]
    clocks: dict[str, float]
    """Greatest event time of each replayed project; that of live ones ("") is the last tick."""
    tick_offset: int
    terms: dict[str, int] = {}


class Skip(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A record (`offset`), or a wake (`wake` of `key`, offset -1), that a fold is not given again."""

    fold: str
    offset: int
    key: str = ""
    wake: float = 0.0


def _encode_hook(value: Any) -> Any:
    if getattr(value, "ndim", None) == 0:
        return value.item()  # numpy's numbers, river's results, land in fields typed float, int and bool
    return _pickled(value)


def _pickled(value: Any) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(_PICKLE, dumps(value))


@cache
def _fields_of_any(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(field.name for field in msgspec.structs.fields(kind) if field.type is Any)


_state_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_hook)
_encode = msgspec.msgpack.Encoder().encode


class Sealer:
    """Signs and checks what stands in one partition's changelog, by keyed BLAKE2b (RFC 7693).

    HMAC-SHA256 takes three times as long on a small state, and a restore checks every one.
    """

    def __init__(self, secret: bytes, context: str) -> None:
        # `secret` may be of any length, a key of BLAKE2b may not.
        key = blake2b(secret).digest()
        self._keyed = blake2b(context.encode() + b"\x00", key=key, digest_size=_MAC_BYTES)
        self._decoders: dict[type, msgspec.msgpack.Decoder[Any]] = {
            t: msgspec.msgpack.Decoder(t) for t in (Snapshot, Marker, Skip)
        }

    def seal(self, name: bytes, content: Snapshot | Marker | Skip) -> bytes:
        """The signature, then the content; `name` is the record key that it will stand under."""
        body = _encode(content)
        return self._mac(name, body) + body

    def open(self, kind: type[Any], name: bytes, value: bytes) -> Any:
        """The content, of type `kind`, found under the record key `name`. Raises SnapshotRefused."""
        mac, body = value[:_MAC_BYTES], value[_MAC_BYTES:]
        if not compare_digest(mac, self._mac(name, body)):
            raise SnapshotRefused("a snapshot's signature is wrong", hint="the log is folded anew")
        try:
            return self._decoders[kind].decode(body)
        except msgspec.MsgspecError as error:
            raise SnapshotRefused(
                f"a snapshot is not readable: {error}", hint="the log is folded anew"
            ) from error

    def _mac(self, name: bytes, body: bytes) -> bytes:
        mac = self._keyed.copy()
        mac.update(b"%b%b%b" % (len(name).to_bytes(4), name, body))  # so it cannot be cut at another place
        return mac.digest()


def dump_state(state: msgspec.Struct) -> bytes:
    """The state as MessagePack. Raises what msgspec and pickle raise on what they cannot write.

    A field typed `Any` is pickled whole: as MessagePack a tuple would come back as a list, a
    defaultdict as a dict.
    """
    pickled = {name: _pickled(getattr(state, name)) for name in _fields_of_any(type(state))}
    return _state_encoder.encode(msgspec.structs.replace(state, **pickled) if pickled else state)


def load_state(kind: type[msgspec.Struct], snapshot: Snapshot) -> msgspec.Struct:
    """The state of a snapshot whose seal was opened. Raises SnapshotRefused."""
    try:
        return _decoder(kind, snapshot.river).decode(snapshot.state)
    except SnapshotRefused:
        raise
    except Exception as error:  # a class that changed fails to unpickle in ways of its own
        raise SnapshotRefused(f"a state is not readable: {error!r}", hint="the log is folded anew") from error


@cache
def _decoder(kind: type[msgspec.Struct], river: str) -> msgspec.msgpack.Decoder[msgspec.Struct]:
    def unpickle(code: int, data: memoryview) -> Any:
        if code != _PICKLE or river != RIVER:
            raise SnapshotRefused(
                f"the snapshot's models are of river {river}, here is {RIVER}",
                hint="the log is folded anew",
            )
        return pickle.loads(data)  # noqa: S301 - its signature was checked before

    return msgspec.msgpack.Decoder(kind, ext_hook=unpickle)
