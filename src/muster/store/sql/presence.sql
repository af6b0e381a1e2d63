-- Who is or was connected. What is connected right now is known in memory; these rows are for
-- after a restart.

-- name: last_run
SELECT COALESCE(MAX(id), 0) FROM hub_runs

-- name: begin_run
INSERT INTO hub_runs (id, started_at, alive_at) VALUES (:id, :now, :now)

-- name: keep_run
UPDATE hub_runs SET alive_at = :now WHERE id = :id

-- name: save
-- Only for identities that still exist: a device may be deleted while its presence waits here.
INSERT INTO presence (hub, device_id, module_id, connected_run, state_updated_at,
                      last_activity_at)
SELECT :hub, :device_id, :module_id, :connected_run, :state_updated_at, :last_activity_at
 WHERE EXISTS (SELECT 1 FROM twins
                WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id)
ON CONFLICT (hub, device_id, module_id) DO UPDATE
   SET connected_run = excluded.connected_run, state_updated_at = excluded.state_updated_at,
       last_activity_at = excluded.last_activity_at

-- name: save_activity
-- Of an identity that is not connected. A connection that ended with its run has ended when the
-- run did, not when the identity came back by other ways.
INSERT INTO presence (hub, device_id, module_id, connected_run, state_updated_at,
                      last_activity_at)
SELECT :hub, :device_id, :module_id, NULL, 0, :last_activity_at
 WHERE EXISTS (SELECT 1 FROM twins
                WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id)
ON CONFLICT (hub, device_id, module_id) DO UPDATE
   SET state_updated_at =
           CASE WHEN connected_run IS NULL OR connected_run = :run THEN state_updated_at
                ELSE MAX(state_updated_at, last_activity_at,
                         COALESCE((SELECT alive_at FROM hub_runs WHERE id = connected_run), 0))
           END,
       connected_run = CASE WHEN connected_run = :run THEN connected_run END,
       last_activity_at = MAX(last_activity_at, excluded.last_activity_at)
