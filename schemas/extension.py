"""What installed packages add, by entry points, and in words what is wrong with it.

A broken package must not stop what has nothing to do with it, so nothing here raises for one: what
can be used is found, and the rest is a fault. Processes that would lose events without it ask for
the faults before they start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, NamedTuple, TypeVar

from schemas.errors import ConfigurationError

T = TypeVar("T")
HEADWATER = "Headwater"
"""Whose it is that no package adds."""


class Fault(NamedTuple):
    """What is wrong with what a package adds, and what to do about it."""

    package: str
    says: str
    do: str


class Added(NamedTuple, Generic[T]):
    """Something that a package adds: `at` is where it stands there, `module:name`."""

    package: str
    at: str
    value: T


@dataclass(frozen=True)
class Survey(Generic[T]):
    """What packages add of one kind: what can be used, and what is wrong with the rest."""

    found: tuple[Added[T], ...] = ()
    faults: tuple[Fault, ...] = ()


Rule = Callable[[T], Iterator[tuple[str, str]]]
"""Yields what is wrong with a value and what to do, each a part of a sentence that begins with its name."""


@cache
def _points() -> Any:
    """All of them: looking through what is installed takes 10 ms."""
    return entry_points()


def added(group: str) -> Survey[Any]:
    """Everything that packages add by an entry point of this group, in an order that is the same everywhere."""
    found, faults = [], []
    for package, point in sorted(
        ((_package(point), point) for point in _points().select(group=group)),
        key=lambda pair: (pair[0], pair[1].name, pair[1].value),
    ):
        try:
            found.append(Added(package, point.value, point.load()))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a package's own code runs here
            faults.append(broken(package, f"{point.value} cannot be imported", error))
    return Survey(tuple(found), tuple(faults))


def broken(package: str, what: str, error: BaseException) -> Fault:
    """The fault of a package whose code raised."""
    said = f"{type(error).__name__}: {error}"
    return Fault(package, f"{what}: {said}", f"mend it, or `pip uninstall {package.partition(' ')[0]}`")


def judged(added: Added[T], rules: Iterable[Rule[T]]) -> list[Fault]:
    """What the first rule that finds something finds wrong with something."""
    for rule in rules:
        try:
            wrong = [Fault(added.package, f"{added.at}: {says}", do) for says, do in rule(added.value)]
        except Exception as error:  # noqa: BLE001 - rules ask the package's own code
            wrong = [broken(added.package, added.at, error)]
        if wrong:
            return wrong
    return []


def chosen(
    group: str,
    kind: str,
    owners: dict[str, str],
    *rules: Rule[Any],
    called: Callable[[Any], str] = lambda made: str(made.name),
) -> Survey[Callable[[], Any]]:
    """How to make each of the named things of a group, once the rules have nothing against it.

    `called` gives what tells a thing from others; `owners` says whose these names are that are taken already.
    """
    points = added(group)
    found, faults = [], list(points.faults)
    for its in points.found:
        try:
            made = its.value()
        except Exception as error:  # noqa: BLE001 - a package's own code runs here
            faults.append(
                broken(its.package, f"{its.at} cannot be made by calling it without arguments", error)
            )
            continue
        wrong = judged(its._replace(value=made), rules)
        if not wrong and called(made) in owners:
            wrong = [twice(owners[called(made)], its, f"{kind} {called(made)}")]
        faults += wrong
        if not wrong:
            owners[called(made)] = its.package
            found.append(its)
    return Survey(tuple(found), tuple(faults))


def twice(one: str, other: Added[Any], what: str) -> Fault:
    """The fault of `other`, which has a name that something of package `one` has already."""
    return Fault(other.package, f"{other.at}: {what} is {one}'s already", "give yours another name")


def require_none(faults: Iterable[Fault]) -> None:
    """Raise ConfigurationError for the first fault, if there is one."""
    faults = list(faults)
    if faults:
        package, says, do = faults[0]
        more = f" ({len(faults) - 1} more: see `headwater doctor`)" if len(faults) > 1 else ""
        raise ConfigurationError(f"package {package}: {says}{more}", hint=do)


def _package(point: EntryPoint) -> str:
    """Name and version of the distribution that has it."""
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown"
