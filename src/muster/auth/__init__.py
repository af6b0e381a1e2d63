"""Who may do what: SAS tokens, symmetric keys, access policies, the keyring, our own CA."""
