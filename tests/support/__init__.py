"""What the tests share: a running service, raw clients, keys and tokens."""
