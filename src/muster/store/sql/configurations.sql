-- Configurations, and the twins they apply to.

-- name: list
SELECT hub, id, counter, document FROM configurations ORDER BY hub, id

-- name: insert
INSERT INTO configurations (hub, id, counter, document) VALUES (:hub, :id, :counter, :document)

-- name: update
-- Only if nobody changed it since it was read.
UPDATE configurations SET counter = :counter, document = :document
 WHERE hub = :hub AND id = :id AND counter = :expected

-- name: delete
-- Only if nobody changed it since it was read.
DELETE FROM configurations WHERE hub = :hub AND id = :id AND counter = :expected

-- name: counts scan
-- For how many twins each of some configurations is targeted and applied.
SELECT wanted.value,
       (SELECT count(*) FROM twin_configurations c
         WHERE c.hub = :hub AND c.configuration_id = wanted.value),
       (SELECT coalesce(sum(c.applied), 0) FROM twin_configurations c
         WHERE c.hub = :hub AND c.configuration_id = wanted.value)
  FROM json_each(:ids) AS wanted

-- name: reported_counts scan
-- Of the edge devices each of some configurations is applied to, how many agents say they did what
-- it asks, and how many that they could not (hub-service.md 6.3).
SELECT wanted.value,
       coalesce(sum(json_extract(t.reported, '$.lastDesiredStatus.code') = 200), 0),
       coalesce(sum(json_extract(t.reported, '$.lastDesiredStatus.code') <> 200), 0)
  FROM json_each(:ids) AS wanted
  LEFT JOIN twin_configurations c
    ON c.hub = :hub AND c.configuration_id = wanted.value AND c.applied = 1
   AND c.module_id = '$edgeAgent'
  LEFT JOIN twins t
    ON t.hub = c.hub AND t.device_id = c.device_id AND t.module_id = c.module_id
   AND json_extract(t.reported, '$.lastDesiredVersion') = t.desired_version
 GROUP BY wanted.key

-- name: holders scan
-- A page of the twins it is something to, after a given one.
SELECT device_id, module_id FROM twin_configurations
 WHERE hub = :hub AND configuration_id = :id AND (device_id, module_id) > (:device_id, :module_id)
 ORDER BY device_id, module_id
 LIMIT :limit

-- name: twins
-- All twins of some devices, as far as configurations decide about them.
SELECT t.device_id, t.module_id, t.revision, t.version, t.etag_counter, t.desired,
       t.desired_metadata, t.desired_version, t.configurations, t.managed
  FROM json_each(:device_ids) AS wanted
  CROSS JOIN twins t ON t.hub = :hub AND t.device_id = wanted.value

-- name: apply
-- twins: JSON, pairs of device ID and revision; those that nobody changed since they were read.
UPDATE twins
   SET revision = revision + 1, version = version + 1, etag_counter = etag_counter + 1,
       desired = :desired, desired_metadata = :desired_metadata,
       desired_version = :desired_version, configurations = :configurations, managed = :managed
 WHERE rowid IN (
       SELECT t.rowid
         FROM json_each(:twins) AS wanted
        CROSS JOIN twins t
           ON t.hub = :hub AND t.device_id = json_extract(wanted.value, '$[0]')
          AND t.module_id = :module_id AND t.revision = json_extract(wanted.value, '$[1]'))

-- name: mark
-- The section alone; what the twins say does not change. As above.
UPDATE twins
   SET revision = revision + 1, configurations = :configurations, managed = :managed
 WHERE rowid IN (
       SELECT t.rowid
         FROM json_each(:twins) AS wanted
        CROSS JOIN twins t
           ON t.hub = :hub AND t.device_id = json_extract(wanted.value, '$[0]')
          AND t.module_id = :module_id AND t.revision = json_extract(wanted.value, '$[1]'))

-- name: insert_modules
-- A module of the same name on several devices. owners: JSON, for each device its ID, and the
-- generation ID and the etag of the module.
INSERT INTO modules (hub, device_id, module_id, generation_id, etag, managed_by, auth_type)
SELECT :hub, json_extract(value, '$[0]'), :module_id,
       json_extract(value, '$[1]'), json_extract(value, '$[2]'), :managed_by, :auth_type
  FROM json_each(:owners)

-- name: insert_module_twins
-- Their twins, which are the same. owners: as above.
INSERT INTO twins (hub, device_id, module_id, revision, version, etag_counter, tags,
                   desired, desired_metadata, desired_version,
                   reported, reported_metadata, reported_version, managed)
SELECT :hub, json_extract(value, '$[0]'), :module_id, 1, :version, :etag_counter, :tags,
       :desired, :desired_metadata, :desired_version,
       :reported, :reported_metadata, :reported_version, :managed
  FROM json_each(:owners)
