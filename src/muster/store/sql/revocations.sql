-- name: get
SELECT document FROM revocations WHERE key = :key;

-- name: all scan
SELECT document FROM revocations ORDER BY key;

-- name: insert
INSERT INTO revocations (key, document) VALUES (:key, :document);

-- name: delete
DELETE FROM revocations WHERE key = :key;
