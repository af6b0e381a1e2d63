-- What an edge hub keeps on its device.

-- A queue holds what one sink gets of one sender (empty: of all) at one priority.
CREATE TABLE queues (
    number INTEGER PRIMARY KEY,
    sink TEXT NOT NULL,
    sender TEXT NOT NULL,
    priority INTEGER NOT NULL,
    UNIQUE (sink, sender, priority)
) STRICT;

-- The upper bits of an id are the queue's number, so that each queue is one range of this table:
-- messages are added at its end and taken from its beginning, and there is no index to write.
CREATE TABLE queued (
    id INTEGER PRIMARY KEY,
    enqueued_at REAL NOT NULL,
    ttl_s INTEGER NOT NULL,
    size INTEGER NOT NULL,
    bag TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;

-- Identities are `device` or `device/module`.
CREATE TABLE scope (
    identity TEXT PRIMARY KEY,
    document TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    identity TEXT PRIMARY KEY,
    subscriptions TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE twins (
    identity TEXT PRIMARY KEY,
    document TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
