"""Times as people write them."""

from __future__ import annotations

import re

from latentsync.errors import UsageError

_TIME = re.compile(
    r"(?:(?:(?P<hours>\d{1,4}):)?(?P<minutes>\d{1,2}):)?(?P<seconds>\d{1,9}(?:\.\d*)?|\.\d+)", re.ASCII
)


def seconds_from(flag: str, time: float | str) -> float:
    """Read a time: seconds, or hours, minutes and seconds.

    Args:
        flag: what took it, for the message.

    Raises:
        UsageError: it is not a time.

    >>> seconds_from("--start", "1:02:03.5"), seconds_from("--start", "90")
    (3723.5, 90.0)
    """
    if not isinstance(time, str):
        return float(time)
    match = _TIME.fullmatch(time.strip())
    if match is None:
        raise UsageError(f"{flag} '{time}': is not a time", hint="write seconds such as 2.5, or 00:01:30.250")
    hours, minutes, seconds = match["hours"] or 0, match["minutes"] or 0, match["seconds"]
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
