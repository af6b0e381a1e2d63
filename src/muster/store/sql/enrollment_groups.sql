-- name: get
SELECT keys, document FROM enrollment_groups WHERE key = :key;

-- name: page scan
SELECT key, keys, document, NULL FROM enrollment_groups
WHERE key > :after ORDER BY key LIMIT :limit;

-- name: among
SELECT key, keys, document FROM enrollment_groups
WHERE key IN (SELECT value FROM json_each(:keys));

-- name: all scan
SELECT key, keys, document FROM enrollment_groups ORDER BY key;

-- name: insert
INSERT INTO enrollment_groups (key, etag, keys, document) VALUES (:key, :etag, :keys, :document);

-- name: update
UPDATE enrollment_groups SET etag = :etag, keys = :keys, document = :document
WHERE key = :key AND etag = :old_etag;

-- name: delete
DELETE FROM enrollment_groups WHERE key = :key AND etag = :old_etag;
