-- Blobs, their parts, and uploads that are under way.

-- name: get
SELECT number, name, size, content_type, md5, created_at, modified_at
  FROM blobs WHERE hub = :hub AND container = :container AND name = :name

-- name: list scan
-- A page in the order of their names, after a given one; prefix_end is the first text that does not
-- begin with the prefix.
SELECT number, name, size, content_type, md5, created_at, modified_at
  FROM blobs
 WHERE hub = :hub AND container = :container AND name > :after
   AND name >= :prefix AND (:prefix_end IS NULL OR name < :prefix_end)
 ORDER BY name LIMIT :limit

-- name: forget
DELETE FROM blobs WHERE hub = :hub AND container = :container AND name = :name

-- name: insert
-- After `forget`: a blob that is replaced gets another number, and with it another etag.
INSERT INTO blobs (hub, container, name, size, content_type, md5, created_at, modified_at)
VALUES (:hub, :container, :name, :size, :content_type, :md5, :created_at, :now)

-- name: parts
-- All parts of a blob, blocks that are not part of it yet included.
SELECT file, block, position, size FROM blob_parts
 WHERE hub = :hub AND container = :container AND name = :name ORDER BY position, written_at

-- name: content
SELECT file, size FROM blob_parts
 WHERE hub = :hub AND container = :container AND name = :name AND position IS NOT NULL
 ORDER BY position

-- name: insert_part
INSERT INTO blob_parts (file, hub, container, name, block, position, size, written_at)
VALUES (:file, :hub, :container, :name, :block, :position, :size, :now)

-- name: place_part
UPDATE blob_parts SET position = :position WHERE file = :file

-- name: remove_part
DELETE FROM blob_parts WHERE file = :file

-- name: files scan
SELECT file FROM blob_parts

-- name: stale scan
-- Blocks that nobody has made a part of anything for long.
SELECT file FROM blob_parts WHERE position IS NULL AND written_at < :before

-- name: begin_upload
-- Unless the device has too many under way.
INSERT INTO file_uploads (correlation_id, hub, device_id, name, expires_at)
SELECT :correlation_id, :hub, :device_id, :name, :expires_at
 WHERE (SELECT COUNT(*) FROM file_uploads
         WHERE hub = :hub AND device_id = :device_id AND expires_at > :now) < :most

-- name: upload
SELECT name, expires_at FROM file_uploads
 WHERE correlation_id = :correlation_id AND hub = :hub AND device_id = :device_id

-- name: end_upload
DELETE FROM file_uploads WHERE correlation_id = :correlation_id

-- name: forget_uploads
DELETE FROM file_uploads WHERE expires_at < :before
