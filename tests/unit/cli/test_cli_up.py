from __future__ import annotations

import socket
from pathlib import Path

from unit.cli.test_cli_output import muster


def test_a_taken_port_is_named_with_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        ports = ("--https-port", "0", "--mqtt-port", port, "--amqp-port", "0")
        service = muster(tmp_path / "data", "up", "--listen", "127.0.0.1", *ports)
        _, stderr = service.communicate(timeout=30)
    text = stderr.decode()
    assert service.returncode == 1
    assert f"Port {port} of 127.0.0.1 cannot be bound: another program listens there" in text
    assert f"sport = :{port}" in text
    assert "Next: " in text
    assert "--mqtt-port" in text


def test_a_name_that_is_none_is_wrong_usage(tmp_path: Path) -> None:
    ports = ("--listen", "127.0.0.1", "--https-port", "0", "--mqtt-port", "0", "--amqp-port", "0")
    for option in ("--hostname", "--hub"):
        service = muster(tmp_path / "data", "up", *ports, option, "not/a name")
        _, stderr = service.communicate(timeout=30)
        assert service.returncode == 2
        assert "'not/a name'" in stderr.decode()
