"""Pickles that leave the pickled objects as fast as they were.

CPython before 3.13 keeps the attributes of an instance inline until somebody asks for its `__dict__`.
pickle asks every object, and asks again when it loads one; from then on each access goes through a
dictionary, for ever. To learn took river's models 1.5 times as long after their first snapshot, and
1.8 times in a restored state. So attributes are read one by one here, and written in the form
(`slotstate`) that `pickle.loads` sets one by one.
"""

from __future__ import annotations

import copyreg
import gc
import io
import pickle
import sys
from typing import Any, ClassVar

_MANAGED_DICT = 1 << 4
"""Py_TPFLAGS_MANAGED_DICT: instances of the class can have their attributes inline."""
_read = object.__getattribute__


class _Ordinary:
    """Its instances are of the size that all have whose class has no builtin base and no slots."""


def _is_ordinary(kind: type) -> bool:
    """Whether pickle would save nothing of an instance but its `__dict__`, by object's own methods."""
    return (
        bool(kind.__flags__ & _MANAGED_DICT)
        and (kind.__basicsize__, kind.__itemsize__) == (_Ordinary.__basicsize__, 0)
        and all(
            getattr(kind, name) is getattr(object, name)
            for name in ("__reduce_ex__", "__reduce__", "__getstate__", "__getattribute__", "__setattr__")
        )
        and not any(hasattr(kind, name) for name in ("__setstate__", "__getnewargs__", "__getnewargs_ex__"))
    )


class _Pickler(pickle.Pickler):
    _names: ClassVar[dict[type, dict[str, None] | None]] = {}
    """Attributes that instances of a class were seen to have; None: left to pickle."""

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        try:
            names = self._names[kind]
        except KeyError:
            names = self._names[kind] = {} if _is_ordinary(kind) else None
        if names is None:
            return NotImplemented
        held = gc.get_referents(obj)  # the values of inline attributes, and the class
        if len(held) == 2 and type(held[0]) is dict:
            return NotImplemented  # its attributes are in a dictionary already
        state = {}
        for name in names:
            try:
                state[name] = _read(obj, name)
            except AttributeError:
                continue
        if len(state) == len(held) - 1:
            return copyreg.__newobj__, (kind,), (None, state)  # type: ignore[attr-defined]
        names.update(dict.fromkeys(vars(obj)))
        if any(hasattr(kind, name) for name in names):
            self._names[kind] = None  # reading would not tell the instance's attributes from the class's
        return NotImplemented


def dumps(value: Any) -> bytes:
    """What `pickle.loads` makes `value` from. Raises what pickle raises."""
    if sys.version_info >= (3, 13):
        return pickle.dumps(value, protocol=5)
    file = io.BytesIO()
    _Pickler(file, protocol=5).dump(value)
    return file.getvalue()
