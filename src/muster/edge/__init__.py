"""The edge runtime: the device side, one process for daemon, agent and edge hub."""
