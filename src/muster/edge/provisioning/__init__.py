"""How this device comes by its identity and its modules by theirs, and keeps both while offline."""
