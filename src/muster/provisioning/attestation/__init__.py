"""How a device proves itself, one file per mechanism."""
