"""Deployments for tests of the agent."""

from __future__ import annotations

from typing import Any

JsonObject = dict[str, Any]


def docker_module(image: str = "registry.example/a:1", **fields: Any) -> JsonObject:
    settings = {"image": image, "createOptions": "{}"}
    return {"type": "docker", "status": "running", "settings": settings, **fields}


def process_module(command: str | list[str] = "run", **fields: Any) -> JsonObject:
    settings = {"command": command}
    return {"type": "process", "status": "running", "settings": settings, **fields}


def desired(version: int = 1, **modules: JsonObject) -> JsonObject:
    """Return desired properties of `$edgeAgent` with these modules."""
    return {
        "schemaVersion": "1.1",
        "runtime": {
            "type": "docker",
            "settings": {
                "minDockerVersion": "v1.25",
                "loggingOptions": "",
                "registryCredentials": {
                    "site": {
                        "address": "registry.example",
                        "username": "reader",
                        "password": "open sesame",
                    }
                },
            },
        },
        "systemModules": {
            "edgeAgent": {
                "type": "docker",
                "settings": {"image": "mcr.example/agent:1.5", "createOptions": "{}"},
            },
            "edgeHub": {
                "type": "docker",
                "status": "running",
                "restartPolicy": "always",
                "startupOrder": 0,
                "settings": {
                    "image": "mcr.example/hub:1.5",
                    "createOptions": '{"HostConfig":{"Privileged":false}}',
                },
                "env": {"OptimizeForPerformance": {"value": "false"}},
            },
        },
        "modules": modules,
        "$version": version,
    }
