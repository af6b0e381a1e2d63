"""Why the service decided as it did: recorded always, explained on request."""
