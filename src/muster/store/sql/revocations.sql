-- name: get
SELECT document FROM revocations WHERE key = :key;

-- name: all scan
SELECT document FROM revocations ORDER BY key;

-- name: put
INSERT INTO revocations (key, document) VALUES (:key, :document)
ON CONFLICT (key) DO UPDATE SET document = :document;

-- name: update
UPDATE revocations SET document = :document WHERE key = :key;

-- name: delete
DELETE FROM revocations WHERE key = :key;
