"""The load client: a process of its own that plays devices and counts what the server spends."""
