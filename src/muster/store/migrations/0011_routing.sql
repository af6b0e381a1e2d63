-- Message routing of the hubs: where messages go, and who reads the built-in endpoint.

-- retention_s, retention_bytes: of the telemetry; NULL for what the service does by default.
-- fallback_enabled: whether messages of devices that no route takes go to the built-in endpoint.
ALTER TABLE hubs ADD COLUMN retention_s REAL;
ALTER TABLE hubs ADD COLUMN retention_bytes INTEGER;
ALTER TABLE hubs ADD COLUMN fallback_enabled INTEGER NOT NULL DEFAULT 1;

-- document: JSON, as the administrative API shows it, without the name.
CREATE TABLE routes (
    hub      INTEGER NOT NULL,
    name     TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (hub, name)
) WITHOUT ROWID;

CREATE TABLE enrichments (
    hub      INTEGER NOT NULL,
    key      TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (hub, key)
) WITHOUT ROWID;

-- number: stands in the records of messages on their way to the endpoint, so never used again.
-- secret: of a webhook, sealed; NULL for none.
CREATE TABLE routing_endpoints (
    number   INTEGER PRIMARY KEY AUTOINCREMENT,
    hub      INTEGER NOT NULL,
    name     TEXT NOT NULL,
    document TEXT NOT NULL,
    secret   BLOB,
    UNIQUE (hub, name)
);

-- sequence: the first record of the partition that the endpoint does not have yet.
CREATE TABLE endpoint_positions (
    endpoint  INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    sequence  INTEGER NOT NULL,
    PRIMARY KEY (endpoint, partition)
) WITHOUT ROWID;

-- Besides $Default, which every hub has. Names are unique in any case.
CREATE TABLE consumer_groups (
    hub        INTEGER NOT NULL,
    name       TEXT NOT NULL COLLATE NOCASE,
    created_at REAL NOT NULL,
    PRIMARY KEY (hub, name)
) WITHOUT ROWID;
