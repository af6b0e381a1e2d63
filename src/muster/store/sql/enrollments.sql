-- name: get
SELECT keys, document FROM enrollments WHERE key = :key;

-- Individual enrollments with their registration records, in the order of their keys.
-- name: page scan
SELECT e.key, e.keys, e.document, r.document
FROM enrollments e LEFT JOIN registrations r ON r.key = e.key
WHERE e.key > :after ORDER BY e.key LIMIT :limit;

-- Which of these keys (a JSON array) exist, with what an update needs of them.
-- name: among
SELECT key, keys, document FROM enrollments WHERE key IN (SELECT value FROM json_each(:keys));

-- name: insert
INSERT INTO enrollments (key, etag, keys, document) VALUES (:key, :etag, :keys, :document);

-- name: update
UPDATE enrollments SET etag = :etag, keys = :keys, document = :document
WHERE key = :key AND etag = :old_etag;

-- name: delete
DELETE FROM enrollments WHERE key = :key AND etag = :old_etag;

-- The enrollments whose keys stand next to one: where mixed-up devices are looked for.
-- name: before
SELECT key, keys, document FROM enrollments WHERE key < :key ORDER BY key DESC LIMIT :limit;

-- name: behind
SELECT key, keys, document FROM enrollments WHERE key > :key ORDER BY key LIMIT :limit;

-- All that a registration needs, in one read.
-- name: for_registration
SELECT e.keys, e.document, r.document
FROM (SELECT :key AS key) asked
LEFT JOIN enrollments e ON e.key = asked.key
LEFT JOIN registrations r ON r.key = asked.key;
