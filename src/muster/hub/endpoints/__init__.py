"""The hub on each transport. No rules here."""
