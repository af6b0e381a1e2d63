"""Modules that are programs of this device, each under a supervisor that outlives the daemon."""
