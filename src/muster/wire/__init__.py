"""Sans-IO protocols: bytes in, packets out, and back."""
