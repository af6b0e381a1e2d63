-- Every refusal and every registration outcome, for `muster registration explain`.
CREATE TABLE decisions (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    tracking_id TEXT NOT NULL,
    subject_key TEXT NOT NULL,
    decided_at REAL NOT NULL,
    document BLOB NOT NULL
) STRICT;
CREATE INDEX decisions_by_tracking_id ON decisions (tracking_id);
CREATE INDEX decisions_by_subject ON decisions (subject_key, sequence);
CREATE INDEX decisions_by_time ON decisions (decided_at);
