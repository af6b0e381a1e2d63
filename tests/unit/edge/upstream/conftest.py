from __future__ import annotations

from unit.net.net_fixtures import certificate, fine_wheel, listen

__all__ = ["certificate", "fine_wheel", "listen"]
