"""Sockets, TLS, timers and the HTTP and MQTT runners. Knows no device."""
