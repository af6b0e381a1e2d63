-- Whether faults may be injected into the traffic of a hub; the faults themselves are not stored.

ALTER TABLE hubs ADD COLUMN fault_injection INTEGER NOT NULL DEFAULT 0;
