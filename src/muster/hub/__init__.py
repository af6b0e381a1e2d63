"""The IoT Hub: identities, twins, connections, telemetry."""
