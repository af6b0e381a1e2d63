-- What clients know of their desired properties.

-- name: hubs
SELECT id FROM hubs WHERE twin_catch_up = 1

-- name: switch
UPDATE hubs SET twin_catch_up = :on WHERE id = :id

-- name: forget_deliveries
DELETE FROM desired_deliveries WHERE hub = :hub

-- name: forget_removals
DELETE FROM desired_removals WHERE hub = :hub

-- name: removed
INSERT INTO desired_removals (hub, device_id, module_id, version, paths)
VALUES (:hub, :device_id, :module_id, :version, :paths)
ON CONFLICT (hub, device_id, module_id) DO UPDATE
   SET version = excluded.version, paths = json_patch(paths, excluded.paths)

-- name: state
SELECT t.desired, t.desired_metadata, t.desired_version, d.generation_id, d.version, r.paths
  FROM twins t
  LEFT JOIN desired_deliveries d
    ON d.hub = t.hub AND d.device_id = t.device_id AND d.module_id = t.module_id
  LEFT JOIN desired_removals r
    ON r.hub = t.hub AND r.device_id = t.device_id AND r.module_id = t.module_id
 WHERE t.hub = :hub AND t.device_id = :device_id AND t.module_id = :module_id

-- name: delivered
-- Only for identities that still exist.
INSERT INTO desired_deliveries (hub, device_id, module_id, generation_id, version)
SELECT :hub, :device_id, :module_id, :generation_id, :version
 WHERE EXISTS (SELECT 1 FROM twins
                WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id)
ON CONFLICT (hub, device_id, module_id) DO UPDATE
   SET generation_id = excluded.generation_id, version = excluded.version

-- name: settled
-- Removals that a client knows.
DELETE FROM desired_removals
 WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id AND version <= :version
