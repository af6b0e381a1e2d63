"""The edge hub's own database: queues, scope, subscriptions, twins, settings."""

from __future__ import annotations

from typing import Final

from muster.store.queries import load
from muster.store.sqlite import Profile

SQL: Final = load("edge_hub")

PROFILE: Final = Profile(schema="edge_hub", cache_kib=1_024, shrinks=True)
"""Small, and gives space back when queues have been emptied."""

FILE_NAME: Final = "edgehub.db"
