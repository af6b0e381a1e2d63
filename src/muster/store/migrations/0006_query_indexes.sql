-- Indexes on paths of twins, made for the conditions that look there (`hub/query_indexes.py`).

-- name: of the index in the database.
-- modules: whether it is of the twins of modules or of devices.
-- expressions: JSON array of what is indexed, in the order of the index.
-- saved: whether a target condition wants it, or queries that were asked often.
CREATE TABLE query_indexes (
    name        TEXT PRIMARY KEY,
    modules     INTEGER NOT NULL,
    expressions TEXT NOT NULL,
    saved       INTEGER NOT NULL
) WITHOUT ROWID;
