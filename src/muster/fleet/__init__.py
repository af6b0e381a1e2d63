"""Simulated devices: many light clients that speak the real protocols to any service."""
