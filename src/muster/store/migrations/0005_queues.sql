-- Messages that wait: for devices and modules (kind 0), delivery feedback (1) and file
-- notifications (2) for back ends.
--
-- An id is never used again, so that who still holds a message that is gone cannot settle another.
-- device_id, module_id: whose queue it is; both '' for kinds 1 and 2.
-- generation_id: of the device, for feedback.
-- head: JSON, everything of the message but its body.
-- lock_token, locked_until: NULL and 0 unless a receiver holds it that comes back by token (HTTP).
-- What a connection holds is known in memory: it ends with the connection, and with the process.
CREATE TABLE queued_messages (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    hub            INTEGER NOT NULL,
    kind           INTEGER NOT NULL,
    device_id      TEXT NOT NULL,
    module_id      TEXT NOT NULL,
    generation_id  TEXT NOT NULL,
    message_id     TEXT NOT NULL,
    ack            TEXT NOT NULL,
    head           TEXT NOT NULL,
    body           BLOB NOT NULL,
    enqueued_at    REAL NOT NULL,
    expires_at     REAL NOT NULL,
    delivery_count INTEGER NOT NULL DEFAULT 0,
    lock_token     TEXT,
    locked_until   REAL NOT NULL DEFAULT 0
);

CREATE INDEX queued_messages_by_queue
    ON queued_messages (hub, device_id, kind, module_id, id);
CREATE INDEX queued_messages_by_expiry ON queued_messages (expires_at);
CREATE INDEX queued_messages_by_lock ON queued_messages (locked_until) WHERE locked_until > 0;

-- Outcomes of messages whose senders asked, until they leave in a batch.
CREATE TABLE feedback_records (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    hub           INTEGER NOT NULL,
    device_id     TEXT NOT NULL,
    generation_id TEXT NOT NULL,
    message_id    TEXT NOT NULL,
    outcome       TEXT NOT NULL,
    recorded_at   REAL NOT NULL
);

CREATE INDEX feedback_records_by_hub ON feedback_records (hub, id);
CREATE INDEX feedback_records_by_device ON feedback_records (hub, device_id);
