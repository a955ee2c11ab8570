"""``--share`` and ``--start-at``: which part of a load this host sends, and when all hosts begin."""

from __future__ import annotations

import datetime
import re
import socket
import time
from dataclasses import dataclass, replace

from loadgen.cluster.agreement import package_hash
from loadgen.errors import BadInput
from loadgen.load.client import places_of
from loadgen.profile.bounds import MOST_WORKERS
from loadgen.records import Trial
from loadgen.units import nanoseconds, seconds
from loadgen.workload_records import Share

START = "Unix seconds, HH:MM:SS of today, or ISO 8601 such as 2026-05-04T09:30:00Z; within an hour from now"
MOST_WAIT_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """``--share`` and ``--start-at``."""

    number: int
    of: int
    start_at_ns: int


def asked_share(share: str | None, start_at: str | None) -> Asked | None:
    """What was asked for; ``None`` where nothing was. Raises BadInput."""
    if share is None:
        if start_at is not None:
            raise BadInput(f"--start-at {start_at}: of which share? (accepted: together with --share)")
        return None
    told = re.fullmatch(r"(\d{1,9})/(\d{1,9})", share)
    number, of = (int(told[1]), int(told[2])) if told else (0, 0)
    if not 1 <= of <= MOST_WORKERS or number >= of:
        accepted = f"0/{of} to {of - 1}/{of}" if 1 <= of <= MOST_WORKERS else "I/N, such as 0/2 and 1/2"
        raise BadInput(f"--share {share}: not a share (accepted: {accepted})")
    if start_at is None:
        raise BadInput(f"--share {share}: when do all hosts begin? (accepted: together with --start-at)")
    return Asked(number=number, of=of, start_at_ns=start_ns(start_at, time.time()))


def start_ns(text: str, now_s: float) -> int:
    """An instant as people write it, in Unix ns; without a zone it is this host's. Raises BadInput for what is none,
    has passed, or is more than an hour away."""
    if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", text):
        whole, _, rest = text.partition(".")
        at_ns = int(whole) * 1_000_000_000 + int(rest.ljust(9, "0") or 0)
    else:
        try:
            if re.fullmatch(r"\d\d:\d\d(:\d\d)?", text):
                today = datetime.datetime.fromtimestamp(now_s).date()
                at = datetime.datetime.combine(today, datetime.time.fromisoformat(text))
            else:
                at = datetime.datetime.fromisoformat(text)
            at_ns = nanoseconds(at.timestamp())
        except (ValueError, OverflowError, OSError):
            raise BadInput(f"--start-at {text}: not an instant (accepted: {START})") from None
    left_s = seconds(at_ns) - now_s
    if left_s <= 0:
        raise BadInput(f"--start-at {text}: that was {-left_s:.1f} s ago (accepted: {START})")
    if left_s > MOST_WAIT_S:
        raise BadInput(f"--start-at {text}: that is {left_s:.0f} s away (accepted: {START})")
    return at_ns


def share_of(trial: Trial, asked: Asked, *, text: bool) -> Trial:
    """The part of a trial that this host sends, its prompts as ``text`` or as ids. Raises BadInput where there are more
    workers than requests at once."""
    try:
        places_of(trial.load, (0, asked.of * trial.load.workers))
    except BadInput as error:
        raise BadInput(f"--share {asked.number}/{asked.of}: on all hosts together {error}") from None
    share = Share(
        number=asked.number,
        of=asked.of,
        trial=trial.id,
        start_at_ns=asked.start_at_ns,
        package=package_hash(),
        text=text,
    )
    return replace(trial, id=f"{trial.id}-{asked.number}-of-{asked.of}", share=share)


def waiting_words(share: Share) -> str:
    """When a share begins, and how long it waits."""
    at = datetime.datetime.fromtimestamp(seconds(share.start_at_ns)).astimezone()
    left_s = seconds(share.start_at_ns - time.time_ns())
    return f"{share.words} on {socket.gethostname()}: warms up, then begins at {at.isoformat()}, in {left_s:.1f} s"
