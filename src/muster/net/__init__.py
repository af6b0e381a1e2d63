"""Sockets, TLS, timers and the HTTP, MQTT and AMQP runners. Knows no device."""
