-- name: insert
INSERT INTO decisions (tracking_id, subject_key, decided_at, document)
VALUES (:tracking_id, :subject_key, :decided_at, :document);

-- name: by_tracking_id
SELECT document FROM decisions WHERE tracking_id = :identifier ORDER BY sequence DESC LIMIT :limit;

-- name: by_subject
SELECT document FROM decisions WHERE subject_key = :identifier ORDER BY sequence DESC LIMIT :limit;

-- Keep the table bounded by age and by number.
-- name: prune
DELETE FROM decisions
WHERE decided_at < :before
   OR sequence <= (SELECT max(sequence) FROM decisions) - :keep;
