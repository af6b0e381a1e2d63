-- name: get
SELECT document FROM registrations WHERE key = :key;

-- name: put
INSERT INTO registrations (key, etag, group_key, document)
VALUES (:key, :etag, :group_key, :document)
ON CONFLICT (key) DO UPDATE
SET etag = :etag, group_key = :group_key, document = :document;

-- name: page_of_group scan
SELECT key, document FROM registrations
WHERE group_key = :group_key AND key > :after ORDER BY key LIMIT :limit;

-- name: delete
DELETE FROM registrations WHERE key = :key;

-- The record of an individual enrollment; that of a group's member stays.
-- name: delete_individual
DELETE FROM registrations WHERE key = :key AND group_key IS NULL;

-- name: delete_etag
DELETE FROM registrations WHERE key = :key AND etag = :etag;
