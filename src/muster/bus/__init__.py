"""What must reach a connection on some node."""
