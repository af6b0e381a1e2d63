"""The local APIs over Unix sockets: management for people, workload for modules (edge.md 3)."""
