"""The field's values and pure rules: no I/O, no transport, no database."""
