"""The local broker: what modules and leaf devices say, kept and passed on (edge.md 6)."""
