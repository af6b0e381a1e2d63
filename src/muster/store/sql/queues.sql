-- Messages that wait for devices, modules and back ends; see migration 0005.

-- name: insert
INSERT INTO queued_messages (hub, kind, device_id, module_id, generation_id, message_id, ack, head,
                             body, enqueued_at, expires_at)
VALUES (:hub, :kind, :device_id, :module_id, '', :message_id, :ack, :head,
        :body, :enqueued_at, :expires_at)

-- name: insert_for_device
-- Only if the device exists and its queue is not full.
INSERT INTO queued_messages (hub, kind, device_id, module_id, generation_id, message_id, ack, head,
                             body, enqueued_at, expires_at)
SELECT d.hub, :kind, d.device_id, '', d.generation_id, :message_id, :ack, :head,
       :body, :enqueued_at, :expires_at
  FROM devices d
 WHERE d.hub = :hub AND d.device_id = :device_id
   AND (SELECT COUNT(*) FROM queued_messages q
         WHERE q.hub = :hub AND q.device_id = :device_id AND q.kind = :kind
           AND q.module_id = '') < :depth

-- name: insert_for_module
-- Only if the module exists and its queue is not full.
INSERT INTO queued_messages (hub, kind, device_id, module_id, generation_id, message_id, ack, head,
                             body, enqueued_at, expires_at)
SELECT m.hub, :kind, m.device_id, m.module_id, d.generation_id, :message_id, :ack, :head,
       :body, :enqueued_at, :expires_at
  FROM modules m
  JOIN devices d ON d.hub = m.hub AND d.device_id = m.device_id
 WHERE m.hub = :hub AND m.device_id = :device_id AND m.module_id = :module_id
   AND (SELECT COUNT(*) FROM queued_messages q
         WHERE q.hub = :hub AND q.device_id = :device_id AND q.kind = :kind
           AND q.module_id = :module_id) < :depth

-- name: identity
-- Whether a device, and one of its modules, exists.
SELECT EXISTS (SELECT 1 FROM devices WHERE hub = :hub AND device_id = :device_id),
       EXISTS (SELECT 1 FROM modules
                WHERE hub = :hub AND device_id = :device_id AND module_id = :module_id)

-- name: next
-- What can be received, oldest first. held: JSON array of the ids that connections hold.
SELECT id, head, body, enqueued_at, expires_at, delivery_count
  FROM queued_messages
 WHERE hub = :hub AND device_id = :device_id AND kind = :kind AND module_id = :module_id
   AND expires_at > :now AND locked_until <= :now
   AND id NOT IN (SELECT value FROM json_each(:held))
 ORDER BY id
 LIMIT :limit

-- name: lock
UPDATE queued_messages SET lock_token = :token, locked_until = :until
 WHERE id = :id AND locked_until <= :now

-- name: locked
-- The message of a lock token that still holds.
SELECT id, ack, delivery_count
  FROM queued_messages
 WHERE hub = :hub AND device_id = :device_id AND kind = :kind AND module_id = :module_id
   AND lock_token = :token AND locked_until > :now

-- name: record_outcome
-- token: NULL when a connection holds the message.
INSERT INTO feedback_records (hub, device_id, generation_id, message_id, outcome, recorded_at)
SELECT hub, device_id, generation_id, message_id, :outcome, :now
  FROM queued_messages WHERE id = :id AND (:token IS NULL OR lock_token = :token)

-- name: remove
DELETE FROM queued_messages WHERE id = :id AND (:token IS NULL OR lock_token = :token)

-- name: give_back
-- An abandoned delivery.
UPDATE queued_messages
   SET delivery_count = delivery_count + 1, lock_token = NULL, locked_until = 0
 WHERE id = :id AND (:token IS NULL OR lock_token = :token)

-- name: contents
-- How many messages a queue holds, how many senders hear of a bad end, and the last id.
SELECT COUNT(*), COALESCE(SUM(ack IN ('negative', 'full')), 0), COALESCE(MAX(id), 0)
  FROM queued_messages
 WHERE hub = :hub AND device_id = :device_id AND kind = :kind AND module_id = :module_id

-- name: record_purged
INSERT INTO feedback_records (hub, device_id, generation_id, message_id, outcome, recorded_at)
SELECT hub, device_id, generation_id, message_id, :outcome, :now
  FROM queued_messages
 WHERE hub = :hub AND device_id = :device_id AND kind = :kind AND module_id = :module_id
   AND id <= :last AND ack IN ('negative', 'full')
 ORDER BY id

-- name: purge
DELETE FROM queued_messages
 WHERE hub = :hub AND device_id = :device_id AND kind = :kind AND module_id = :module_id
   AND id <= :last

-- name: expired
-- What ended by age, oldest first; not what anybody holds.
SELECT id, hub, ack IN ('negative', 'full')
  FROM queued_messages
 WHERE expires_at <= :now AND locked_until <= :now
   AND id NOT IN (SELECT value FROM json_each(:held))
 ORDER BY expires_at
 LIMIT :limit

-- name: record_expired
INSERT INTO feedback_records (hub, device_id, generation_id, message_id, outcome, recorded_at)
SELECT hub, device_id, generation_id, message_id, :outcome, :now
  FROM queued_messages
 WHERE id IN (SELECT value FROM json_each(:ids)) AND locked_until <= :now
   AND ack IN ('negative', 'full')
 ORDER BY id

-- name: remove_expired
DELETE FROM queued_messages
 WHERE id IN (SELECT value FROM json_each(:ids)) AND locked_until <= :now

-- name: lapsed
-- Queues in which a lock ran out.
SELECT DISTINCT hub, kind, device_id, module_id
  FROM queued_messages WHERE locked_until > 0 AND locked_until <= :now

-- name: unlock_lapsed
UPDATE queued_messages SET lock_token = NULL, locked_until = 0
 WHERE locked_until > 0 AND locked_until <= :now

-- name: next_due
-- When the next message expires, and when the next lock runs out.
SELECT (SELECT MIN(expires_at) FROM queued_messages WHERE expires_at > :now),
       (SELECT MIN(locked_until) FROM queued_messages WHERE locked_until > 0)
