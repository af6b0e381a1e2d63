-- Consumer groups of the built-in endpoints.

-- name: list
SELECT hub, name, created_at FROM consumer_groups ORDER BY hub, name

-- name: insert
INSERT INTO consumer_groups (hub, name, created_at) VALUES (:hub, :name, :created_at)

-- name: delete
DELETE FROM consumer_groups WHERE hub = :hub AND name = :name
