"""`iotedge check`: does what the device does, step by step, and says what to do where it fails."""
