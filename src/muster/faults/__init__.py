"""Injected faults: what the hubs and the provisioning service have in common."""
