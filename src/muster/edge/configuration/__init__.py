"""Configuration files of a device, both official formats, into `Settings` (edge.md 4)."""
