-- Files that devices upload, and lists of identities: blobs in containers, as Azure Storage has them.

CREATE TABLE blobs (
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    hub          INTEGER NOT NULL,
    container    TEXT NOT NULL,
    name         TEXT NOT NULL,
    size         INTEGER NOT NULL,
    content_type TEXT NOT NULL,
    md5          BLOB,
    created_at   REAL NOT NULL,
    modified_at  REAL NOT NULL,
    UNIQUE (hub, container, name)
);

-- The files a blob is made of, in the order of their positions. A block that is not part of its blob
-- yet has no position. block: its ID, '' for the only part of a blob that came in one piece.
CREATE TABLE blob_parts (
    file       TEXT PRIMARY KEY,
    hub        INTEGER NOT NULL,
    container  TEXT NOT NULL,
    name       TEXT NOT NULL,
    block      TEXT NOT NULL,
    position   INTEGER,
    size       INTEGER NOT NULL,
    written_at REAL NOT NULL
) WITHOUT ROWID;

CREATE INDEX blob_parts_by_blob ON blob_parts (hub, container, name, position);

-- Uploads that devices have begun and not ended.
CREATE TABLE file_uploads (
    correlation_id TEXT PRIMARY KEY,
    hub            INTEGER NOT NULL,
    device_id      TEXT NOT NULL,
    name           TEXT NOT NULL,
    expires_at     REAL NOT NULL
) WITHOUT ROWID;

CREATE INDEX file_uploads_by_device ON file_uploads (hub, device_id, expires_at);
