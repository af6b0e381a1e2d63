"""Finding the service: a connection string, or the instance that runs on a data directory.

`--login` (or MUSTER_CONNECTION_STRING) wins; without it `<data-dir>/instance.json` tells hosts,
keys and the CA file of the running instance (design.md 3). TLS trust is `--ca-file`, else the
instance's CA file, else MUSTER_CA_FILE, REQUESTS_CA_BUNDLE, or the system's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import click
import msgspec

from muster.auth import connection_string
from muster.auth.connection_string import ConnectionString
from muster.cli.failures import FailedError, RefusedError, UnreachableError
from muster.config import InstanceInfo
from muster.errors import InvalidArgumentError

if TYPE_CHECKING:
    from muster.cli.client import RestClient

INSTANCE_FILE: Final = "instance.json"
DPS_API_VERSION: Final = "2021-10-01"
HUB_API_VERSION: Final = "2021-04-12"

_DPS_OWNER: Final = "provisioningserviceowner"
_HUB_OWNER: Final = "iothubowner"
_DEVICE: Final = "registration"
"""The `skn` of a device that registers (dps.md 2.1)."""
_CA_VARIABLES: Final = ("MUSTER_CA_FILE", "REQUESTS_CA_BUNDLE")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One service to talk to, and as whom.

    Attributes:
        login: host and access policy; its key is never shown.
        address: host, and port where it is not 443, to connect to. For an instance that was found
            through its data directory it is the address it listens on: one listener serves the
            provisioning service and all hubs (design.md 3), and none of their names need be
            known to this machine.
        ca_file: certificates to trust; `None` for the system's.
        api_version: sent with every call.
        lost: what to say when nothing answers there.
        signed: the resource its tokens are for; `None` for the service itself.
    """

    login: ConnectionString
    address: str
    ca_file: Path | None
    api_version: str
    lost: str
    signed: str | None = None

    @property
    def url(self) -> str:
        """Where its paths begin."""
        return f"https://{self.address}"


@final
class Invocation:
    """What every command is given: where the service is, and how to print.

    Args:
        data_dir: of the instance to talk to.
        login: connection string that wins over the instance's.
        ca_file: trusted instead of everything else.
        as_json: print JSON only.
    """

    def __init__(
        self, *, data_dir: Path, login: str | None, ca_file: Path | None, as_json: bool
    ) -> None:
        self.data_dir = data_dir
        self.as_json = as_json
        self._login_text = login
        self._ca_file = ca_file

    # -- clients -------------------------------------------------------------------------------

    def dps(self) -> RestClient:
        """Return a client of the provisioning service.

        Raises:
            click.UsageError: the connection string cannot be read.
            UnreachableError: no instance runs on the data directory.
        """
        return self._client(self._dps_login(), DPS_API_VERSION)

    def device(self, resource: str, key: str) -> RestClient:
        """Return a client of the provisioning service that comes as a device.

        Args:
            resource: what its tokens are for, `{idScope}/registrations/{registrationId}`.
            key: the device's own.
        """
        login = msgspec.structs.replace(self._dps_login(), key_name=_DEVICE, key=key)
        return self._client(login, DPS_API_VERSION, signed=resource)

    def _dps_login(self) -> ConnectionString:
        return self._given_login() or _parse(self._instance().dps_connection_string, INSTANCE_FILE)

    def hub(self, host: str | None = None) -> RestClient:
        """Return a client of a hub.

        Args:
            host: which; needed when there are several. A connection string of the provisioning
                service will do, too: the hub's own is asked for there.

        Raises:
            click.UsageError: no host was given and there are several hubs.
            UnreachableError: no instance runs on the data directory.
        """
        login = self._given_login()
        if login is None:
            return self._hub_of_instance(host)
        is_dps = login.key_name == _DPS_OWNER
        if is_dps or (host is not None and not _same_host(login, host)):
            return self._ask_for_hub(host)
        return self._client(login, HUB_API_VERSION)

    def _client(
        self,
        login: ConnectionString,
        api_version: str,
        address: str | None = None,
        signed: str | None = None,
    ) -> RestClient:
        from muster.cli.client import RestClient  # noqa: PLC0415 - `requests` is slow to import

        return RestClient(
            Target(
                login=login,
                address=address or self._address(login),
                ca_file=self._trust(login),
                api_version=api_version,
                lost=self._lost(login),
                signed=signed,
            )
        )

    # -- hubs ----------------------------------------------------------------------------------

    def _hub_of_instance(self, host: str | None) -> RestClient:
        instance = self._instance()
        if host is None and len(instance.hubs) != 1:
            raise _which_hub([hub.host for hub in instance.hubs])
        for hub in instance.hubs:
            login = _parse(hub.connection_string, INSTANCE_FILE)
            if host is None or hub.host.lower() == host.lower() or _same_host(login, host):
                return self._client(login, HUB_API_VERSION)
        return self._ask_for_hub(host)  # it was created or linked after the instance started

    def own_hub(self, host: str | None) -> str:
        """Return the host of the hub that is meant: the given one, or the service's only one.

        Raises:
            click.UsageError: none is given and there are several, or none.
        """
        if host is not None:
            return host
        local = [hub["host"] for hub in self.dps().get("/admin/v1/hubs") if hub.get("local")]
        if len(local) != 1:
            raise _which_hub(local)
        return str(local[0])

    def _ask_for_hub(self, host: str | None) -> RestClient:
        dps = self.dps()
        host = self.own_hub(host)
        try:
            policies: list[dict[str, Any]] = dps.get("/admin/v1/policies/hubs", host)
        except RefusedError as error:
            if error.status != 404:
                raise
            known = ", ".join(str(hub["host"]) for hub in dps.get("/admin/v1/hubs"))
            raise FailedError(
                f"The hub {host} is not one of this service's own",
                details=(f"It knows: {known or 'no hub'}.",),
                next_step="for a linked hub that runs elsewhere, give that hub's connection "
                "string with --login",
            ) from None
        policies.sort(key=lambda policy: policy.get("name") != _HUB_OWNER)
        for policy in policies:
            text = policy.get("connectionString")
            if text:
                login = _parse(str(text), f"the policy {policy.get('name')} of {host}")
                return self._client(login, HUB_API_VERSION, dps.target.address)
        raise FailedError(
            f"The hub {host} has no access policy to call it with",
            next_step=f"muster policy create {_HUB_OWNER} --hub {host} --rights RegistryWrite "
            "--rights ServiceConnect",
        )

    def instance_if_any(self) -> InstanceInfo | None:
        """Return the instance that runs on the data directory, unless a login was given."""
        return None if self._login_text else self._instance_if_any()

    def trust(self, host: str) -> Path | None:
        """Return the CA file for a service that is named by its host alone; `None`: the system's.

        Raises:
            click.UsageError: an environment variable names a file that does not exist.
        """
        instance = self._instance_if_any()
        if self._ca_file is None and instance is not None and _serves(instance, host):
            return self.data_dir / instance.ca_file
        return self._chosen_ca_file()

    # -- the instance --------------------------------------------------------------------------

    def _given_login(self) -> ConnectionString | None:
        if not self._login_text:
            return None
        login = _parse(self._login_text, "--login")
        if login.key_name is None or login.key is None:
            raise click.UsageError(
                "--login: the connection string must have HostName, SharedAccessKeyName and "
                "SharedAccessKey. Those of devices cannot manage anything; muster info --json "
                "has the service's."
            )
        return login

    def _instance(self) -> InstanceInfo:
        path = self.data_dir / INSTANCE_FILE
        try:
            return msgspec.json.decode(path.read_bytes(), type=InstanceInfo)
        except (FileNotFoundError, NotADirectoryError):
            raise UnreachableError(
                f"No service runs on {self.data_dir} (there is no {INSTANCE_FILE} in it)",
                next_step="start one with muster up, or say where it is: --data-dir, --login, "
                "MUSTER_DATA_DIR or MUSTER_CONNECTION_STRING",
            ) from None
        except PermissionError:
            raise UnreachableError(
                f"{path} belongs to another user and holds keys",
                next_step="run this as the user of the service, or use --login",
            ) from None
        except (OSError, msgspec.MsgspecError) as error:
            raise UnreachableError(
                f"{path} cannot be read: {error}", next_step="restart the service, or use --login"
            ) from None

    def _instance_if_any(self) -> InstanceInfo | None:
        try:
            return self._instance()
        except UnreachableError:
            return None

    def _address(self, login: ConnectionString) -> str:
        return login.host_name if self._login_text else self._instance().address

    def _lost(self, login: ConnectionString) -> str:
        if self._login_text:
            return "check the host in the connection string, and that the service runs there"
        return f"check that it runs: muster info --data-dir {self.data_dir}"

    def _trust(self, login: ConnectionString) -> Path | None:
        instance = self._instance_if_any()
        if (
            self._ca_file is None
            and instance is not None
            and (not self._login_text or _serves(instance, login.host))
        ):
            return self.data_dir / instance.ca_file  # stays as it is when it is absolute
        return self._chosen_ca_file()

    def _chosen_ca_file(self) -> Path | None:
        if self._ca_file is not None:
            return self._ca_file
        for variable in _CA_VARIABLES:
            text = os.environ.get(variable)
            if text:
                if not Path(text).exists():
                    raise click.UsageError(f"{variable} names {text}, which does not exist.")
                return Path(text)
        return None


def _parse(text: str, origin: str) -> ConnectionString:
    try:
        return connection_string.parse(text)
    except InvalidArgumentError as error:
        raise click.UsageError(f"{origin}: {error.message}") from None


def _same_host(login: ConnectionString, host: str) -> bool:
    return host.lower() in (login.host.lower(), login.host_name.lower())


def _serves(instance: InstanceInfo, host: str) -> bool:
    hosts = {instance.dps_host.partition(":")[0].lower()}
    hosts.update(hub.host.partition(":")[0].lower() for hub in instance.hubs)
    return host.lower() in hosts


def _which_hub(hosts: list[str]) -> click.UsageError:
    if not hosts:
        return click.UsageError("The service has no hub of its own: muster hub create HOST.")
    return click.UsageError(
        "There are several hubs. Say which with --hub HOST: " + ", ".join(sorted(hosts))
    )
