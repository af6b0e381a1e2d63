-- The provisioning service. `key` columns hold IDs in lower case (they are case-insensitive);
-- `keys` columns hold both symmetric keys, sealed; documents are JSON as in the REST API.
CREATE TABLE enrollments (
    key TEXT PRIMARY KEY,
    etag TEXT NOT NULL,
    keys BLOB NOT NULL,
    document BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE enrollment_groups (
    key TEXT PRIMARY KEY,
    etag TEXT NOT NULL,
    keys BLOB NOT NULL,
    document BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE registrations (
    key TEXT PRIMARY KEY,
    etag TEXT NOT NULL,
    group_key TEXT,
    document BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX registrations_by_group ON registrations (group_key, key) WHERE group_key IS NOT NULL;

CREATE TABLE linked_hubs (
    host TEXT PRIMARY KEY,
    allocation_weight INTEGER NOT NULL,
    apply_allocation_policy INTEGER NOT NULL,
    connection_string BLOB
) STRICT, WITHOUT ROWID;

CREATE TABLE dps_policies (
    name TEXT PRIMARY KEY,
    rights TEXT NOT NULL,
    keys BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE revocations (
    key TEXT PRIMARY KEY,
    document BLOB NOT NULL
) STRICT, WITHOUT ROWID;
