"""Folds under watch: what they do that they must not is an error that says what, at once."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import msgspec

from processors.fold import Fold, Output, Wake
from schemas.codec import Codec
from schemas.errors import HeadwaterError
from schemas.events import Event
from streams.folding.snapshots import Snapshot, dump_state, load_state
from streams.testing.purity import Purity


class FoldFailed(HeadwaterError, AssertionError):
    """A fold raised, or did what it must not. On a running instance the event would be a dead letter."""


class Halt(BaseException):
    """Carries a FoldFailed past the runner, which would make a dead letter of it."""

    def __init__(self, error: FoldFailed) -> None:
        super().__init__(error)
        self.error = error


def watched(fold: Fold[Any], codec: Codec, *, closely: bool) -> Fold[Any]:
    """A copy of the fold as it was made, under watch; `closely`: also for what is not the same in each run."""
    made = copy.deepcopy(fold)
    watch = _Watch(made, codec, closely=closely)
    on_event, on_wake, initial = made.on_event, made.on_wake, made.initial

    def event_given(state: Any, event: Event, at: float) -> Iterable[Output]:
        given = f"{type(event).__name__} at {at}"
        return watch.called(given, state, lambda: on_event(state, event, at))

    def wake_given(state: Any, at: float) -> Iterable[Output]:
        return watch.called(f"the wake at {at}", state, lambda: on_wake(state, at))

    def began(key: str) -> Any:
        return watch.begun(key, lambda: initial(key))

    for name, function in (("on_event", event_given), ("on_wake", wake_given), ("initial", began)):
        setattr(made, name, function)
    return made


class _Watch:
    def __init__(self, fold: Fold[Any], codec: Codec, *, closely: bool) -> None:
        self._fold = fold
        self._codec = codec
        self._closely = closely
        self._itself = copy.deepcopy(vars(fold))
        self._file = getattr(sys.modules.get(type(fold).__module__), "__file__", None) or ""

    def begun(self, key: str, make: Callable[[], Any]) -> Any:
        """The state of a new key."""
        state = self._asked(f"initial({key!r})", make)
        kind = self._fold.state
        if kind is not None and not isinstance(state, kind):
            raise self._failed(
                f"initial({key!r}) gave {state!r}", f"return a {kind.__name__}, which `state` says it keeps"
            )
        return state

    def called(self, given: str, state: Any, call: Callable[[], Iterable[Output]]) -> Iterable[Output]:
        """What the fold yields."""
        results: list[Output] = self._asked(given, lambda: self._listed(given, call()))
        for result in results:
            self._check(given, result)
        if self._fold.state is not None:
            self._save(state)
        return results

    def _listed(self, given: str, results: Any) -> list[Any]:
        if not isinstance(results, Iterable):
            raise self._failed(f"given {given}, it returned {results!r}", "yield what follows, or return ()")
        return list(results)

    def _asked(self, given: str, call: Callable[[], Any]) -> Any:
        """What a method of the fold gives."""
        purity = Purity(self._file) if self._closely else None
        try:
            with purity or nullcontext():
                result = call()
        except Exception as error:
            raise self._failed(
                f"given {given}, it raised {type(error).__name__}: {error}", "the traceback above says where"
            ) from error
        if purity is not None and purity.seen is not None:
            raise self._failed(
                f"given {given}, it asked {purity.seen}",
                "use `at`, the event's time, and what the event says: a restart folds it again and has to come "
                "to the same",
            )
        now = {name: value for name, value in vars(self._fold).items() if name not in _REPLACED}
        if self._closely and now != self._itself:
            changed = sorted(n for n in now if n not in self._itself or now[n] != self._itself[n])
            raise self._failed(
                f"given {given}, it changed itself: {', '.join(changed)}",
                "keep it in the state: what a fold keeps elsewhere is lost with its process",
            )
        return result

    def _check(self, given: str, result: object) -> None:
        """Whether the runner takes it."""
        name = type(result).__name__
        if isinstance(result, Wake):
            if self._fold.state is None:
                raise self._failed("it keeps no state, so it cannot ask to be woken", "give it a `state`")
            if math.isnan(result.at):
                raise self._failed(f"given {given}, it asked to be woken at {result.at}", "give a time")
        elif not isinstance(result, Event):
            raise self._failed(f"given {given}, it yielded {result!r}", "yield events and Wake alone")
        elif type(result) not in self._fold.emits:
            raise self._failed(
                f"given {given}, it yielded {name}, which it does not declare", f"add {name} to `emits`"
            )
        else:
            try:
                self._codec.encode(result)
            except Exception as error:
                raise self._failed(
                    f"given {given}, it yielded what cannot be written: {error}", ""
                ) from error

    def _save(self, state: Any) -> None:
        """Save the state and load it, as a restart would."""
        kind = self._fold.state
        assert kind is not None
        hint = (
            "state is a msgspec.Struct of MessagePack's values (numbers, text, bytes, lists, dicts, other "
            "Structs); a field typed Any may hold objects that pickle takes"
        )
        try:
            saved = dump_state(state)
            limit = self._codec.max_record_bytes
            if len(saved) > limit:
                raise self._failed(
                    f"the state of a key takes {len(saved):,} bytes, the limit is {limit:,}",
                    "keep less per key",
                )
            snapshot = Snapshot(self._fold.name, self._fold.version, "", 0, saved, None, "")
            loaded = load_state(kind, snapshot)
        except Exception as error:
            raise self._failed(f"its state cannot be saved: {error}", hint) from error
        for field in msgspec.structs.fields(kind):
            was, now = getattr(state, field.name), getattr(loaded, field.name)
            if field.type is not Any and now != was and plain(now) != plain(was):
                raise self._failed(f"`{field.name}` was {was!r}, and is {now!r} after a restart", hint)

    def _failed(self, what: str, do: str) -> Halt:
        return Halt(FoldFailed(f"fold {self._fold.name}: {what}", hint=do))


_REPLACED = ("on_event", "on_wake", "initial")


def plain(value: Any) -> Any:
    """A state as JSON's values, the same for equal states; an object of a class of its own is its class's name."""

    def named(other: Any) -> Any:
        if getattr(other, "ndim", None) == 0:
            return other.item()
        return f"<{type(other).__module__}.{type(other).__qualname__}>"

    return msgspec.to_builtins(value, enc_hook=named, order="deterministic", str_keys=True)
