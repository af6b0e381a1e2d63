"""The composition root: the only place that picks implementations.

`instance` builds and ends one running instance, `hub_plane` and `provisioning_plane` build the two
services, everything by plain constructor calls.
"""

from muster.app.instance import Instance

__all__ = ["Instance"]
