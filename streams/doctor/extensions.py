"""The doctor's look at what installed packages add, and at those that the log knows and that are gone."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.catalog import by_subject
from streams.authority.issued import Issued
from streams.doctor.finding import Finding
from streams.extensions import faults, surveys


def extensions() -> list[Finding]:
    """What each package adds, and what of it cannot be used."""
    adds: dict[str, list[str]] = {}
    for kind, survey in surveys().items():
        for added in survey.found:
            adds.setdefault(added.package, []).append(f"{kind} {added.at}")
    return [
        *(Finding(f"package {name}", "ok", f"adds {', '.join(what)}") for name, what in sorted(adds.items())),
        *(Finding(f"package {package}", "fail", says, do) for package, says, do in faults()),
    ]


def gone(known: Iterable[Issued]) -> list[Finding]:
    """Event types that the log may hold and that no installed package declares."""
    absent: dict[str, set[str]] = {}
    for issued in known:
        if issued.subject not in by_subject():
            absent.setdefault(issued.by, set()).add(issued.subject)
    return [
        Finding(
            "event types",
            "warn",
            f"the log may hold {', '.join(sorted(subjects))}, given by {by}: not installed here, so not read",
            "install the package again to have them back; its folds go on where the log is",
        )
        for by, subjects in sorted(absent.items())
    ]
