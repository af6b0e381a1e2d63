-- MQTT sessions with CleanSession 0: the subscriptions that survive a disconnect and a restart.

-- name: get
SELECT subscriptions FROM mqtt_sessions
 WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id

-- name: save
-- Only for identities that still exist.
INSERT INTO mqtt_sessions (hub, device_id, module_id, subscriptions)
SELECT :hub, :device_id, :module_id, :subscriptions
 WHERE EXISTS (SELECT 1 FROM twins
                WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id)
ON CONFLICT (hub, device_id, module_id) DO UPDATE SET subscriptions = excluded.subscriptions

-- name: delete
DELETE FROM mqtt_sessions WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id
