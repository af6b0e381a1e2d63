"""The agent: keeps the modules of a device as its deployment says (edge.md 5)."""
