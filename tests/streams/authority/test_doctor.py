"""The doctor tells a registry that waits for the first start from one that lost what it gave out."""

from __future__ import annotations

from pathlib import Path

import msgspec

from schemas.registry import load
from streams.authority.issued import COMMITTED, as_issued, issued_ids
from streams.authority.settle import remember, settle
from streams.doctor.schemas import schema_ids
from streams.settings import Settings
from tests.streams.authority.apicurio import Door


async def test_an_empty_registry_is_no_failure_before_the_first_start(door: Door, tmp_path: Path) -> None:
    """Nothing was given out yet: a warning that the first start registers; afterwards all is well."""
    settings = Settings(data=tmp_path, registry=door.url)
    (found,) = await schema_ids(settings)
    assert (found.level, found.do) == ("warn", "the first start registers them")
    ids, _ = await settle(settings)
    await remember(settings, ids)
    (found,) = await schema_ids(settings)
    assert (found.level, found.check) == ("ok", "schema ids")
    assert found.says.endswith(f"from {door.address}, as the log remembers them")


async def test_an_empty_registry_fails_once_ids_were_given_out(door: Door, tmp_path: Path) -> None:
    """The log has ids and the registry has none: what it lacks is named, with the command."""
    settings = Settings(data=tmp_path, registry=door.url)
    await issued_ids(settings).add(as_issued(load(), COMMITTED))
    (found,) = await schema_ids(settings)
    assert found.level == "fail"
    assert "lacks headwater.AgentAnnounced version 1" in found.says


async def test_without_a_registry_the_lock_file_is_compared(tmp_path: Path) -> None:
    """Committed ids on an empty log are well, and on a log with others not."""
    settings = Settings(data=tmp_path)
    (found,) = await schema_ids(settings)
    assert (found.level, "the log remembers none yet" in found.says) == ("ok", True)
    others = [
        msgspec.structs.replace(i, id=i.id + 1000, by="http://registry") for i in as_issued(load(), COMMITTED)
    ]
    await issued_ids(settings).add(others)
    (found,) = await schema_ids(settings)
    assert found.level == "fail"
    assert found.do.startswith("set HEADWATER_REGISTRY to http://registry")
