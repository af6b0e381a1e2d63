"""A queue of the edge hub that does not drain while the link is up (users.md, pain 20).

The hub is a peer that takes messages and acknowledges none, which no real hub does when asked; the
session, the queue and its way up are the real ones.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import structlog

from muster.clock import ManualClock
from muster.edge.hub.broker import UPSTREAM, Broker
from muster.edge.hub.clients import Clients
from muster.edge.hub.database import FILE_NAME, PROFILE
from muster.edge.hub.line import Line
from muster.edge.hub.members import local
from muster.edge.hub.methods import Methods
from muster.edge.hub.queue import Entry, Key
from muster.edge.hub.queues import Queues
from muster.edge.hub.twins import Twins
from muster.edge.hub.upstreams import DrainPace
from muster.ids import Randomness
from muster.store.sqlite import SqliteEngine
from support.edge import until
from unit.edge.upstream.session_subject import LOGIN, TUNING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from unit.edge.upstream.session_subject import Subject
    from unit.edge.upstream.upstream_peer import Peer

REF = local("d1")


async def test_a_queue_that_stands_still_reconnects_by_itself_and_says_so(
    peer: Peer, begin: Callable[..., Subject], tmp_path: Path
) -> None:
    clock = ManualClock()
    engine = await SqliteEngine.open(tmp_path / FILE_NAME, PROFILE)
    queues = await Queues.open(engine, clock, max_bytes=1 << 20, ttl_s=7200)
    clients = Clients(clock)
    twins = Twins(engine, clients, Broker(queues, "d1", clock, Randomness()))
    line = Line(
        REF,
        LOGIN,
        queues=queues,
        twins=twins,
        clients=clients,
        methods=Methods(clients, Randomness()),
        pace=DrainPace(clock, 1e6),
        refused=lambda *_: None,
    )
    bodies = [str(number).encode() for number in range(20)]
    key = Key(UPSTREAM, REF.text, 1)
    await queues.put([Entry(key, 0, "", body) for body in bodies])
    peer.acknowledging = False
    with structlog.testing.capture_logs() as events:
        subject = begin(owner=line, tuning=msgspec.structs.replace(TUNING, progress_s=0.3))
        line.open(subject.session)
        # The link is up, the messages are with the hub, and the queue stands still.
        await until(lambda: len(peer.lines) >= 2)
        assert line.waiting == len(bodies)
        peer.acknowledging = True
        await until(lambda: not line.waiting)
    assert list(dict.fromkeys(peer.telemetry)) == bodies
    said = [str(each.get("reason", "")) for each in events]
    assert any(
        re.search(r"is connected but has left \d+ packets unanswered", each) for each in said
    )
    await line.close()
    await queues.flush()
    await engine.close()
