"""Which hub a device gets, one file per policy."""
