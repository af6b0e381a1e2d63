"""The CA of the device and what it issues: certificates of modules, the trust bundle."""
