"""The provisioning service on each transport. No rules here."""
