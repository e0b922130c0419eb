"""The doctor's look at Kafka: whether it answers, and has the topics as they are declared."""

from __future__ import annotations

from schemas.errors import HeadwaterError
from streams.doctor.finding import Finding
from streams.settings import Settings
from streams.supervision.instance import instance_lock
from streams.supervision.overview import reachable
from streams.supervision.status import read_all


async def kafka(settings: Settings) -> list[Finding]:
    """Whether Kafka answers and its topics are as declared. An embedded broker may be stopped."""
    if settings.embedded and not reachable(settings.bootstrap, 2.0):
        runs = instance_lock(settings).is_held() or "broker" in read_all(settings)
        log = settings.log_folder / "broker.log"
        if runs:
            return [Finding("kafka", "fail", f"{settings.bootstrap} does not answer", f"see {log}")]
        return [Finding("kafka", "ok", "the embedded broker is not running: `headwater up` starts it")]
    from streams.admin import declared, differences  # noqa: PLC0415 - brings the folds along

    try:
        found = await _addresses(settings)
        wrong = await differences(settings)
    except HeadwaterError as error:
        return [Finding("kafka", "fail", error.message, error.hint)]
    for sentence in wrong:
        says, _, do = sentence.partition(": ")
        # Missing topics and other counts stop the folds; another retention does not.
        stops = "missing" in says or "partitions" in says
        found.append(Finding("topics", "fail" if stops else "warn", says, do))
    if not wrong:
        found.append(Finding("topics", "ok", f"{len(declared(settings))}, all as declared"))
    return found


async def _addresses(settings: Settings) -> list[Finding]:
    """What each address answers; raises what stands in the way where none can be used."""
    from streams.exploring import explore  # noqa: PLC0415
    from streams.kafka import client_options  # noqa: PLC0415

    seen = await explore(settings, client_options(settings))
    if seen.unusable is not None:
        raise seen.unusable
    login = f" as {settings.kafka_username}" if settings.kafka_username else ""
    how = f"{settings.kafka_security}{login}, {len(seen.brokers)} brokers"
    return [
        Finding("kafka", "ok", f"{settings.bootstrap} answers ({how})"),
        *(
            Finding("kafka", "warn", obstacle.message, obstacle.hint)
            for obstacle in (seen.given | seen.brokers).values()
            if obstacle is not None
        ),
    ]
