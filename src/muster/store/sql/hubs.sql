-- The hubs of this service.

-- name: list
SELECT id, host, created_at, retention_s, retention_bytes FROM hubs ORDER BY id

-- name: with_fault_injection
SELECT id FROM hubs WHERE fault_injection = 1

-- name: switch_fault_injection
UPDATE hubs SET fault_injection = :on WHERE id = :id

-- name: insert
-- Number and host come from the caller, who keeps all hubs in memory.
INSERT INTO hubs (id, host, created_at) VALUES (:id, :host, :created_at)

-- name: insert_counts
INSERT INTO device_counts (hub, enabled, disabled) VALUES (:id, 0, 0)

-- name: save_retention
UPDATE hubs SET retention_s = :max_age_s, retention_bytes = :max_bytes WHERE id = :id
