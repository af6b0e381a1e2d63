"""The user names of SASL PLAIN, whose password is a token.

Sources: hub-device.md 3.1, hub-service.md 3.6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.hub.authentication import RefusedError

if TYPE_CHECKING:
    from muster.hub.endpoints.amqp_grants import Grant


def check_user(user: str, grant: Grant) -> None:
    """Refuse a user who is not the one that the token is good for.

    `{policy}@sas.root.{hub}`, `{device}@sas.{hub}` or `{device}/{module}@sas.{hub}`. What stands
    for the hub is not compared: it is only the first label of its name (hub-service.md 10.26).

    Raises:
        RefusedError: check `wrong-sasl-user`.
    """
    name, _, where = user.rpartition("@")
    where = where.lower()
    if where.startswith("sas.root."):
        if name and name == grant.policy:
            return
    elif where.startswith("sas."):
        device_id, _, module_id = name.partition("/")
        if device_id and grant.covers(device_id, module_id):
            return
    raise RefusedError(
        "The user name does not go with the token.",
        "wrong-sasl-user",
        user=user[:256],
        token_subject=grant.subject,
    )
