-- What an edge hub keeps on its device; see migrations/edge_hub.

-- name: queues
SELECT number, sink, sender, priority FROM queues

-- name: add_queue
INSERT OR IGNORE INTO queues (number, sink, sender, priority) VALUES (:number, :sink, :sender, :priority)

-- How many messages stand in each block of ids, and their bytes. Reads no bodies, but all rows.
-- name: blocks scan
SELECT id >> 8, count(*), sum(size), max(id) FROM queued GROUP BY id >> 8 ORDER BY id >> 8

-- name: add
INSERT INTO queued (id, enqueued_at, ttl_s, size, bag, body)
VALUES (:id, :enqueued_at, :ttl_s, :size, :bag, :body)

-- name: sizes
SELECT id, size FROM queued WHERE id > :after AND id <= :last ORDER BY id LIMIT :most

-- name: read
SELECT id, enqueued_at, ttl_s, size, bag, body FROM queued
WHERE id > :after AND id <= :last ORDER BY id

-- name: oldest
SELECT id, enqueued_at, ttl_s, size FROM queued
WHERE id > :after AND id <= :last ORDER BY id LIMIT :most

-- name: redate
UPDATE queued SET enqueued_at = enqueued_at + :step_s WHERE id > :after AND id <= :last

-- name: remove
DELETE FROM queued WHERE id BETWEEN :first AND :last

-- name: scope
SELECT document FROM scope

-- name: put_scope
REPLACE INTO scope (identity, document) VALUES (:identity, :document)

-- name: drop_scope
DELETE FROM scope WHERE identity = :identity

-- name: session
SELECT subscriptions FROM sessions WHERE identity = :identity

-- name: put_session
REPLACE INTO sessions (identity, subscriptions) VALUES (:identity, :subscriptions)

-- name: drop_session
DELETE FROM sessions WHERE identity = :identity

-- name: twins
SELECT identity, document FROM twins

-- name: twin
SELECT document FROM twins WHERE identity = :identity

-- name: put_twin
REPLACE INTO twins (identity, document) VALUES (:identity, :document)

-- name: drop_twin
DELETE FROM twins WHERE identity = :identity

-- name: setting
SELECT value FROM settings WHERE name = :name

-- name: put_setting
REPLACE INTO settings (name, value) VALUES (:name, :value)
