-- Outcomes of cloud-to-device messages on their way to the senders.

-- name: waiting
-- How many records each hub has, and when the oldest was written.
SELECT hub, COUNT(*), MIN(recorded_at) FROM feedback_records GROUP BY hub

-- name: oldest
SELECT id, device_id, generation_id, message_id, outcome, recorded_at
  FROM feedback_records WHERE hub = :hub ORDER BY id LIMIT :limit

-- name: remove
DELETE FROM feedback_records WHERE hub = :hub AND id BETWEEN :first AND :last
