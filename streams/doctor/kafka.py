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
    if not reachable(settings.bootstrap, 2.0):
        if not settings.embedded:
            return [
                Finding(
                    "kafka",
                    "fail",
                    f"{settings.bootstrap} (HEADWATER_KAFKA) does not answer",
                    "start it, or set HEADWATER_KAFKA to where it is",
                )
            ]
        runs = instance_lock(settings).is_held() or "broker" in read_all(settings)
        log = settings.log_folder / "broker.log"
        if runs:
            return [Finding("kafka", "fail", f"{settings.bootstrap} does not answer", f"see {log}")]
        return [Finding("kafka", "ok", "the embedded broker is not running: `headwater up` starts it")]
    from streams.admin import declared, differences  # noqa: PLC0415 - brings the folds along

    try:
        wrong = await differences(settings)
    except HeadwaterError as error:
        return [Finding("kafka", "fail", error.message, error.hint)]
    found = [Finding("kafka", "ok", f"{settings.bootstrap} answers")]
    for sentence in wrong:
        says, _, do = sentence.partition(": ")
        # Missing topics and other counts stop the folds; another retention does not.
        stops = "missing" in says or "partitions" in says
        found.append(Finding("topics", "fail" if stops else "warn", says, do))
    if not wrong:
        found.append(Finding("topics", "ok", f"{len(declared(settings))}, all as declared"))
    return found
