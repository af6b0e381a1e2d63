"""Muster: zero-touch provisioning and fleet management for IoT Edge devices, self-hosted."""

__version__ = "0.1.0"
