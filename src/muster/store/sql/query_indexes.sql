-- Indexes on paths of twins. The indexes themselves are made and dropped in `hub/query_indexes.py`.

-- name: list
SELECT name, modules, expressions, saved FROM query_indexes ORDER BY name

-- name: save
INSERT INTO query_indexes (name, modules, expressions, saved)
VALUES (:name, :modules, :expressions, :saved)
ON CONFLICT (name) DO UPDATE SET saved = excluded.saved

-- name: delete
DELETE FROM query_indexes WHERE name = :name

-- name: devices
-- In all hubs, which share the table of twins and its indexes.
SELECT COALESCE(SUM(enabled + disabled), 0) FROM device_counts
