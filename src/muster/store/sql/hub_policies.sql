-- Shared access policies of the hubs.

-- name: list
SELECT hub, name, rights, keys FROM hub_policies ORDER BY hub, name

-- name: save
INSERT INTO hub_policies (hub, name, rights, keys) VALUES (:hub, :name, :rights, :keys)
ON CONFLICT (hub, name) DO UPDATE SET rights = excluded.rights, keys = excluded.keys

-- name: delete
DELETE FROM hub_policies WHERE hub = :hub AND name = :name
