-- Device and module identities of the hubs.

-- name: get_device
-- One device with what is known of its connection.
SELECT d.device_id, d.generation_id, d.etag, d.enabled, d.status_reason, d.status_updated_at,
       d.auth_type, d.keys, d.iot_edge, d.parent_scope,
       p.connected_run, p.state_updated_at, p.last_activity_at, r.alive_at,
       (SELECT COUNT(*) FROM queued_messages q
         WHERE q.hub = d.hub AND q.device_id = d.device_id AND q.kind = 0 AND q.module_id = ''),
       d.primary_thumbprint, d.secondary_thumbprint
  FROM devices d
  LEFT JOIN presence p
    ON p.hub = d.hub AND p.device_id = d.device_id AND p.module_id = ''
  LEFT JOIN hub_runs r ON r.id = p.connected_run
 WHERE d.hub = :hub AND d.device_id = :device_id

-- name: list_devices scan
-- A page of devices in the order of their IDs, after a given one ('' for the first page).
SELECT d.device_id, d.generation_id, d.etag, d.enabled, d.status_reason, d.status_updated_at,
       d.auth_type, d.keys, d.iot_edge, d.parent_scope,
       p.connected_run, p.state_updated_at, p.last_activity_at, r.alive_at,
       (SELECT COUNT(*) FROM queued_messages q
         WHERE q.hub = d.hub AND q.device_id = d.device_id AND q.kind = 0 AND q.module_id = ''),
       d.primary_thumbprint, d.secondary_thumbprint
  FROM devices d
  LEFT JOIN presence p
    ON p.hub = d.hub AND p.device_id = d.device_id AND p.module_id = ''
  LEFT JOIN hub_runs r ON r.id = p.connected_run
 WHERE d.hub = :hub AND d.device_id > :after
 ORDER BY d.device_id
 LIMIT :limit

-- name: list_scope
-- A page of an edge device and the devices below it, in the order of their IDs.
SELECT d.device_id, d.generation_id, d.etag, d.enabled, d.status_reason, d.status_updated_at,
       d.auth_type, d.keys, d.iot_edge, d.parent_scope,
       p.connected_run, p.state_updated_at, p.last_activity_at, r.alive_at,
       (SELECT COUNT(*) FROM queued_messages q
         WHERE q.hub = d.hub AND q.device_id = d.device_id AND q.kind = 0 AND q.module_id = ''),
       d.primary_thumbprint, d.secondary_thumbprint
  FROM devices d
  LEFT JOIN presence p
    ON p.hub = d.hub AND p.device_id = d.device_id AND p.module_id = ''
  LEFT JOIN hub_runs r ON r.id = p.connected_run
 WHERE d.hub = :hub AND (d.device_id = :device_id OR d.parent_scope = :scope)
   AND d.device_id > :after
 ORDER BY d.device_id
 LIMIT :limit

-- name: insert_device
INSERT INTO devices (hub, device_id, generation_id, etag, enabled, status_reason,
                     status_updated_at, auth_type, keys, iot_edge, parent_scope,
                     primary_thumbprint, secondary_thumbprint)
VALUES (:hub, :device_id, :generation_id, :etag, :enabled, :status_reason,
        :status_updated_at, :auth_type, :keys, :iot_edge, :parent_scope,
        :primary_thumbprint, :secondary_thumbprint)

-- name: update_device
-- Only if nobody changed it since it was read.
UPDATE devices
   SET etag = :etag, enabled = :enabled, status_reason = :status_reason,
       status_updated_at = :status_updated_at, auth_type = :auth_type, keys = :keys,
       iot_edge = :iot_edge, parent_scope = :parent_scope,
       primary_thumbprint = :primary_thumbprint, secondary_thumbprint = :secondary_thumbprint
 WHERE hub = :hub AND device_id = :device_id AND etag = :expected

-- name: delete_device
-- Only if nobody changed it since it was read.
DELETE FROM devices WHERE hub = :hub AND device_id = :device_id AND etag = :expected

-- name: delete_device_if_present
DELETE FROM devices WHERE hub = :hub AND device_id = :device_id

-- name: hold_device
-- Changes nothing; as a step of a write it fails when the device does not exist.
UPDATE devices SET etag = etag WHERE hub = :hub AND device_id = :device_id

-- name: hold_devices
-- The same for several devices. device_ids: JSON, none twice.
UPDATE devices SET etag = etag
 WHERE hub = :hub AND device_id IN (SELECT value FROM json_each(:device_ids))

-- name: hold_scope
-- Changes nothing; as a step of a write it fails when the edge device of a scope does not exist.
UPDATE devices SET etag = etag
 WHERE hub = :hub AND device_id = :device_id AND generation_id = :generation_id AND iot_edge = 1

-- name: hold_scope_beside
-- Changes nothing; as a step of a write it fails when the edge device of a scope is below another
-- one, or that one itself. A scope is `ms-azure-iot-edge://`, the device's ID, `-` and digits.
WITH RECURSIVE above(device_id) AS (
  SELECT :device_id
  UNION
  SELECT substr(rtrim(d.parent_scope, '0123456789'), 21,
                length(rtrim(d.parent_scope, '0123456789')) - 21)
    FROM above JOIN devices d ON d.hub = :hub AND d.device_id = above.device_id
   WHERE d.parent_scope IS NOT NULL
)
UPDATE devices SET etag = etag
 WHERE hub = :hub AND device_id = :device_id
   AND NOT EXISTS (SELECT 1 FROM above WHERE above.device_id = :below)

-- name: parent_of
-- What is needed to check a device scope: the edge device it names, and that one's own parent.
SELECT generation_id, iot_edge, parent_scope
  FROM devices WHERE hub = :hub AND device_id = :device_id

-- name: generations_of
-- Of those of some devices that are edge devices.
SELECT d.device_id, d.generation_id
  FROM json_each(:device_ids) AS wanted
 CROSS JOIN devices d ON d.hub = :hub AND d.device_id = wanted.value
 WHERE d.iot_edge = 1

-- name: first_child
SELECT device_id FROM devices WHERE hub = :hub AND parent_scope = :scope LIMIT 1

-- name: orphan_children
UPDATE devices SET parent_scope = NULL, etag = :etag WHERE hub = :hub AND parent_scope = :scope

-- name: get_module
-- One module with what is known of its connection.
SELECT m.module_id, m.device_id, m.generation_id, m.etag, m.managed_by, m.auth_type, m.keys,
       p.connected_run, p.state_updated_at, p.last_activity_at, r.alive_at,
       (SELECT COUNT(*) FROM queued_messages q
         WHERE q.hub = m.hub AND q.device_id = m.device_id AND q.kind = 0
           AND q.module_id = m.module_id),
       m.primary_thumbprint, m.secondary_thumbprint
  FROM modules m
  LEFT JOIN presence p
    ON p.hub = m.hub AND p.device_id = m.device_id AND p.module_id = m.module_id
  LEFT JOIN hub_runs r ON r.id = p.connected_run
 WHERE m.hub = :hub AND m.device_id = :device_id AND m.module_id = :module_id

-- name: list_modules
-- All modules of a device in the order of their IDs.
SELECT m.module_id, m.device_id, m.generation_id, m.etag, m.managed_by, m.auth_type, m.keys,
       p.connected_run, p.state_updated_at, p.last_activity_at, r.alive_at,
       (SELECT COUNT(*) FROM queued_messages q
         WHERE q.hub = m.hub AND q.device_id = m.device_id AND q.kind = 0
           AND q.module_id = m.module_id),
       m.primary_thumbprint, m.secondary_thumbprint
  FROM modules m
  LEFT JOIN presence p
    ON p.hub = m.hub AND p.device_id = m.device_id AND p.module_id = m.module_id
  LEFT JOIN hub_runs r ON r.id = p.connected_run
 WHERE m.hub = :hub AND m.device_id = :device_id
 ORDER BY m.module_id

-- name: list_modules_of
-- All modules of some devices.
SELECT m.module_id, m.device_id, m.generation_id, m.etag, m.managed_by, m.auth_type, m.keys,
       p.connected_run, p.state_updated_at, p.last_activity_at, r.alive_at,
       (SELECT COUNT(*) FROM queued_messages q
         WHERE q.hub = m.hub AND q.device_id = m.device_id AND q.kind = 0
           AND q.module_id = m.module_id),
       m.primary_thumbprint, m.secondary_thumbprint
  FROM json_each(:device_ids) AS wanted
 CROSS JOIN modules m ON m.hub = :hub AND m.device_id = wanted.value
  LEFT JOIN presence p
    ON p.hub = m.hub AND p.device_id = m.device_id AND p.module_id = m.module_id
  LEFT JOIN hub_runs r ON r.id = p.connected_run

-- name: insert_module
INSERT INTO modules (hub, device_id, module_id, generation_id, etag, managed_by, auth_type, keys,
                     primary_thumbprint, secondary_thumbprint)
VALUES (:hub, :device_id, :module_id, :generation_id, :etag, :managed_by, :auth_type, :keys,
        :primary_thumbprint, :secondary_thumbprint)

-- name: update_module
-- Only if nobody changed it since it was read.
UPDATE modules
   SET etag = :etag, managed_by = :managed_by, auth_type = :auth_type, keys = :keys,
       primary_thumbprint = :primary_thumbprint, secondary_thumbprint = :secondary_thumbprint
 WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id AND etag = :expected

-- name: delete_module
-- Only if nobody changed it since it was read.
DELETE FROM modules
 WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id AND etag = :expected

-- name: delete_module_if_present
DELETE FROM modules WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id

-- name: delete_module_twin
DELETE FROM twins WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id

-- name: delete_module_presence
DELETE FROM presence WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id

-- name: delete_module_session
DELETE FROM mqtt_sessions WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id

-- name: delete_module_deliveries
DELETE FROM desired_deliveries
 WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id

-- name: delete_module_removals
DELETE FROM desired_removals
 WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id

-- name: delete_module_messages
DELETE FROM queued_messages
 WHERE hub = :hub AND device_id = :device_id AND kind = 0 AND module_id = :module_id

-- name: delete_modules
DELETE FROM modules WHERE hub = :hub AND device_id = :device_id

-- name: delete_twins
-- The device's own and all its modules'.
DELETE FROM twins WHERE hub = :hub AND device_id = :device_id

-- name: delete_presences
DELETE FROM presence WHERE hub = :hub AND device_id = :device_id

-- name: delete_sessions
DELETE FROM mqtt_sessions WHERE hub = :hub AND device_id = :device_id

-- name: delete_deliveries
DELETE FROM desired_deliveries WHERE hub = :hub AND device_id = :device_id

-- name: delete_removals
DELETE FROM desired_removals WHERE hub = :hub AND device_id = :device_id

-- name: delete_messages
-- The device's own and all its modules'.
DELETE FROM queued_messages WHERE hub = :hub AND device_id = :device_id

-- name: delete_feedback
DELETE FROM feedback_records WHERE hub = :hub AND device_id = :device_id

-- name: login_device
-- All that a connecting device is checked against, with its MQTT session.
SELECT d.generation_id, d.enabled, d.auth_type, d.keys, t.model_id, s.subscriptions,
       d.primary_thumbprint, d.secondary_thumbprint
  FROM devices d
  JOIN twins t ON t.hub = d.hub AND t.device_id = d.device_id AND t.module_id = ''
  LEFT JOIN mqtt_sessions s
    ON s.hub = d.hub AND s.device_id = d.device_id AND s.module_id = ''
 WHERE d.hub = :hub AND d.device_id = :device_id

-- name: login_module
-- All that a connecting module is checked against; no row when its device does not exist, NULL for
-- the module's columns when the device has no such module.
SELECT m.generation_id, d.enabled, m.auth_type, m.keys, t.model_id, s.subscriptions,
       m.primary_thumbprint, m.secondary_thumbprint
  FROM devices d
  LEFT JOIN modules m
    ON m.hub = d.hub AND m.device_id = d.device_id AND m.module_id = :module_id
  LEFT JOIN twins t
    ON t.hub = d.hub AND t.device_id = d.device_id AND t.module_id = :module_id
  LEFT JOIN mqtt_sessions s
    ON s.hub = d.hub AND s.device_id = d.device_id AND s.module_id = :module_id
 WHERE d.hub = :hub AND d.device_id = :device_id

-- name: chain
-- The devices of a chain, with the proof of the module by which the last one speaks.
-- device_ids: JSON, none twice.
SELECT d.device_id, d.generation_id, d.enabled, d.iot_edge, d.parent_scope, m.auth_type, m.keys
  FROM json_each(:device_ids) AS wanted
 CROSS JOIN devices d ON d.hub = :hub AND d.device_id = wanted.value
  LEFT JOIN modules m ON m.hub = d.hub AND m.device_id = :actor AND m.module_id = :module_id
   AND d.device_id = :actor

-- name: counts
SELECT enabled, disabled FROM device_counts WHERE hub = :hub
