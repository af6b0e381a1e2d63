-- Device and module twins. A device's own twin has module_id = ''.

-- name: insert
INSERT INTO twins (hub, device_id, module_id, revision, version, etag_counter, tags,
                   desired, desired_metadata, desired_version,
                   reported, reported_metadata, reported_version)
VALUES (:hub, :device_id, :module_id, 1, :version, :etag_counter, :tags,
        :desired, :desired_metadata, :desired_version,
        :reported, :reported_metadata, :reported_version)

-- name: get
-- The twin alone, to change it.
SELECT revision, version, etag_counter, tags, desired, desired_metadata, desired_version,
       reported, reported_metadata, reported_version
  FROM twins WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id

-- name: get_reported
-- What devices have reported, to change it. refs: JSON, for each its hub, device and module ID.
SELECT t.hub, t.device_id, t.module_id,
       t.revision, t.version, t.reported, t.reported_metadata, t.reported_version
  FROM json_each(:refs) w
 CROSS JOIN twins t
    ON t.hub = json_extract(w.value, '$[0]') AND t.device_id = json_extract(w.value, '$[1]')
   AND t.module_id = json_extract(w.value, '$[2]')

-- name: some
-- Several twins alone, to change them. refs: JSON, pairs of device and module IDs.
SELECT t.device_id, t.module_id,
       t.revision, t.version, t.etag_counter, t.tags, t.desired, t.desired_metadata,
       t.desired_version, t.reported, t.reported_metadata, t.reported_version
  FROM json_each(:refs) w
 CROSS JOIN twins t
    ON t.hub = :hub AND t.device_id = json_extract(w.value, '$[0]')
   AND t.module_id = json_extract(w.value, '$[1]')

-- name: between scan
-- The twins of the devices whose IDs lie between two, and of their modules.
SELECT device_id, module_id, revision, version, etag_counter, tags, desired, desired_metadata,
       desired_version, reported, reported_metadata, reported_version
  FROM twins WHERE hub = :hub AND device_id BETWEEN :first AND :last

-- name: get_documents
-- What a device sees of its twin.
SELECT desired, desired_version, reported, reported_version
  FROM twins WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id

-- name: list
-- The twins of a device and of all its modules.
SELECT module_id, revision, version, etag_counter, tags, desired, desired_metadata,
       desired_version, reported, reported_metadata, reported_version
  FROM twins WHERE hub = :hub AND device_id = :device_id ORDER BY module_id

-- name: update
-- Only if nobody changed it since it was read.
UPDATE twins
   SET revision = revision + 1, version = :version, etag_counter = :etag_counter, tags = :tags,
       desired = :desired, desired_metadata = :desired_metadata,
       desired_version = :desired_version,
       reported = :reported, reported_metadata = :reported_metadata,
       reported_version = :reported_version
 WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id
   AND revision = :expected

-- name: report
-- What devices report. updates: JSON, for each twin its hub, device and module ID, the revision it
-- was read at, and the reported properties, their metadata and their version. Only those that
-- nobody changed since they were read.
UPDATE twins
   SET revision = twins.revision + 1, version = twins.version + 1,
       reported = json_extract(w.value, '$[4]'),
       reported_metadata = json_extract(w.value, '$[5]'),
       reported_version = json_extract(w.value, '$[6]')
  FROM json_each(:updates) w
 WHERE twins.hub = json_extract(w.value, '$[0]') AND twins.device_id = json_extract(w.value, '$[1]')
   AND twins.module_id = json_extract(w.value, '$[2]')
   AND twins.revision = json_extract(w.value, '$[3]')

-- name: set_model
-- The Plug and Play model a device announced at its last connect ('' for none).
UPDATE twins SET revision = revision + 1, model_id = :model_id
 WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id

-- name: get_device_twin
-- The twin of a device with what the service view shows of its identity.
SELECT t.revision, t.version, t.etag_counter, t.tags, t.desired, t.desired_metadata,
       t.desired_version, t.reported, t.reported_metadata, t.reported_version,
       t.model_id, d.etag, d.auth_type, d.enabled, d.status_reason, d.status_updated_at,
       d.iot_edge, d.generation_id, d.parent_scope,
       p.connected_run, p.state_updated_at, p.last_activity_at, r.alive_at,
       t.configurations,
       (SELECT COUNT(*) FROM queued_messages q
         WHERE q.hub = t.hub AND q.device_id = t.device_id AND q.kind = 0 AND q.module_id = ''),
       d.primary_thumbprint, d.secondary_thumbprint
  FROM twins t
  JOIN devices d ON d.hub = t.hub AND d.device_id = t.device_id
  LEFT JOIN presence p
    ON p.hub = t.hub AND p.device_id = t.device_id AND p.module_id = ''
  LEFT JOIN hub_runs r ON r.id = p.connected_run
 WHERE t.hub = :hub AND t.device_id = :device_id AND t.module_id = ''

-- name: get_module_twin
-- The twin of a module with what the service view shows of its identity. No row when the device
-- does not exist, NULL for the twin's columns when the device has no such module.
SELECT t.revision, t.version, t.etag_counter, t.tags, t.desired, t.desired_metadata,
       t.desired_version, t.reported, t.reported_metadata, t.reported_version,
       t.model_id, m.etag, m.auth_type, d.enabled, d.status_reason, d.status_updated_at,
       0, m.generation_id, NULL,
       p.connected_run, p.state_updated_at, p.last_activity_at, r.alive_at,
       t.configurations,
       (SELECT COUNT(*) FROM queued_messages q
         WHERE q.hub = d.hub AND q.device_id = d.device_id AND q.kind = 0
           AND q.module_id = :module_id),
       m.primary_thumbprint, m.secondary_thumbprint
  FROM devices d
  LEFT JOIN modules m
    ON m.hub = d.hub AND m.device_id = d.device_id AND m.module_id = :module_id
  LEFT JOIN twins t
    ON t.hub = d.hub AND t.device_id = d.device_id AND t.module_id = :module_id
  LEFT JOIN presence p
    ON p.hub = d.hub AND p.device_id = d.device_id AND p.module_id = :module_id
  LEFT JOIN hub_runs r ON r.id = p.connected_run
 WHERE d.hub = :hub AND d.device_id = :device_id

-- name: device_twins scan
-- Twins of devices with what the service view shows of their identities, by row number.
SELECT t.device_id, t.module_id,
       t.revision, t.version, t.etag_counter, t.tags, t.desired, t.desired_metadata,
       t.desired_version, t.reported, t.reported_metadata, t.reported_version,
       t.model_id, d.etag, d.auth_type, d.enabled, d.status_reason, d.status_updated_at,
       d.iot_edge, d.generation_id, d.parent_scope,
       p.connected_run, p.state_updated_at, p.last_activity_at, r.alive_at,
       t.configurations,
       (SELECT COUNT(*) FROM queued_messages q
         WHERE q.hub = t.hub AND q.device_id = t.device_id AND q.kind = 0
           AND q.module_id = t.module_id),
       d.primary_thumbprint, d.secondary_thumbprint
  FROM json_each(:rows) w
 CROSS JOIN twins t ON t.rowid = w.value
  JOIN devices d ON d.hub = t.hub AND d.device_id = t.device_id
  LEFT JOIN presence p
    ON p.hub = t.hub AND p.device_id = t.device_id AND p.module_id = ''
  LEFT JOIN hub_runs r ON r.id = p.connected_run

-- name: module_twins scan
-- Twins of modules with what the service view shows of their identities, by row number.
SELECT t.device_id, t.module_id,
       t.revision, t.version, t.etag_counter, t.tags, t.desired, t.desired_metadata,
       t.desired_version, t.reported, t.reported_metadata, t.reported_version,
       t.model_id, m.etag, m.auth_type, d.enabled, d.status_reason, d.status_updated_at,
       0, m.generation_id, NULL,
       p.connected_run, p.state_updated_at, p.last_activity_at, r.alive_at,
       t.configurations,
       (SELECT COUNT(*) FROM queued_messages q
         WHERE q.hub = t.hub AND q.device_id = t.device_id AND q.kind = 0
           AND q.module_id = t.module_id),
       m.primary_thumbprint, m.secondary_thumbprint
  FROM json_each(:rows) w
 CROSS JOIN twins t ON t.rowid = w.value
  JOIN devices d ON d.hub = t.hub AND d.device_id = t.device_id
  JOIN modules m
    ON m.hub = t.hub AND m.device_id = t.device_id AND m.module_id = t.module_id
  LEFT JOIN presence p
    ON p.hub = t.hub AND p.device_id = t.device_id AND p.module_id = t.module_id
  LEFT JOIN hub_runs r ON r.id = p.connected_run
