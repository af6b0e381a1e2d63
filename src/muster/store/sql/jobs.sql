-- Jobs and the devices they are about.

-- name: insert
INSERT INTO jobs (hub, job_id, type, status, condition, action, created_at, start_at,
                  max_execution_s, updated_at)
VALUES (:hub, :job_id, :type, :status, :condition, :action, :created_at, :start_at,
        :max_execution_s, :created_at)

-- name: get
SELECT number, hub, job_id, type, status, condition, action, created_at, start_at,
       max_execution_s, ended_at, updated_at, failure, selected_to, devices, running,
       succeeded, failed
  FROM jobs WHERE hub = :hub AND job_id = :job_id

-- name: page scan
-- Jobs of a hub, the newest first, before a given one.
SELECT number, hub, job_id, type, status, condition, action, created_at, start_at,
       max_execution_s, ended_at, updated_at, failure, selected_to, devices, running,
       succeeded, failed
  FROM jobs
 WHERE hub = :hub AND number < :before
   AND type IN (SELECT value FROM json_each(:types))
   AND (:status IS NULL OR status = :status)
 ORDER BY number DESC LIMIT :limit

-- name: unfinished
-- Jobs of all hubs that are to be done, in the order of their start.
SELECT number, hub, job_id, type, status, condition, action, created_at, start_at,
       max_execution_s, ended_at, updated_at, failure, selected_to, devices, running,
       succeeded, failed
  FROM jobs WHERE ended_at = 0
 ORDER BY start_at LIMIT :limit

-- name: current
-- One job by its number.
SELECT number, hub, job_id, type, status, condition, action, created_at, start_at,
       max_execution_s, ended_at, updated_at, failure, selected_to, devices, running,
       succeeded, failed
  FROM jobs WHERE number = :number

-- name: start
-- Unless it was cancelled meanwhile.
UPDATE jobs SET status = 'running', updated_at = :now WHERE number = :number AND ended_at = 0

-- name: end
-- Unless it is over already.
UPDATE jobs SET status = :status, failure = :failure, ended_at = :now, updated_at = :now
 WHERE number = :number AND ended_at = 0

-- name: choose
INSERT INTO job_devices (job, hub, device_id, module_id, status, updated_at)
VALUES (:job, :hub, :device_id, :module_id, 'pending', :now)

-- name: chosen
-- As a step of a write it fails when the job is over, or was continued elsewhere.
UPDATE jobs SET devices = devices + :devices, selected_to = :to, updated_at = :now
 WHERE number = :number AND status = 'running' AND selected_to = :from

-- name: advance
-- As a step of a write it fails when the job is over.
UPDATE jobs SET devices = devices + :devices, running = running + :running,
                succeeded = succeeded + :succeeded, failed = failed + :failed, updated_at = :now
 WHERE number = :number AND status = 'running'

-- name: count
-- Also when the job is over: a call that was under way then has its outcome.
UPDATE jobs SET running = running + :running, succeeded = succeeded + :succeeded,
                failed = failed + :failed, updated_at = :now
 WHERE number = :number

-- name: pending
-- Devices of a job that wait for their turn, after a given one.
SELECT number, device_id, module_id FROM job_devices
 WHERE job = :job AND status = 'pending' AND number > :after
 ORDER BY number LIMIT :limit

-- name: claim
UPDATE job_devices SET status = 'running', started_at = :now, updated_at = :now
 WHERE number = :number AND status = 'pending'

-- name: settle
-- What became of a device whose turn it is.
UPDATE job_devices
   SET status = :status, started_at = CASE WHEN started_at = 0 THEN :now ELSE started_at END,
       updated_at = :now, outcome = :outcome, error = :error
 WHERE number = :number AND status IN ('pending', 'running')

-- name: give_up
-- Devices that were being called when the service ended.
UPDATE job_devices SET status = 'failed', updated_at = :now, error = :error
 WHERE job = :job AND status = 'running'

-- name: given_up
UPDATE jobs SET failed = failed + running, running = 0, updated_at = :now
 WHERE number = :number AND running > 0

-- name: old
-- The oldest job that ended before a given time.
SELECT number FROM jobs WHERE ended_at > 0 AND ended_at < :before ORDER BY ended_at LIMIT 1

-- name: forget_devices
DELETE FROM job_devices WHERE number IN
    (SELECT number FROM job_devices WHERE job = :job LIMIT :limit)

-- name: left
SELECT 1 FROM job_devices WHERE job = :job LIMIT 1

-- name: forget
DELETE FROM jobs WHERE number = :number

-- name: restart
-- Begin to count anew; as a step of a write it fails when the job is over.
UPDATE jobs SET devices = :devices, running = :running, succeeded = :succeeded, failed = :failed,
                updated_at = :now
 WHERE number = :number AND status = 'running'

-- name: note_failure
-- A line of an import that could not be done.
INSERT INTO job_devices (job, hub, device_id, module_id, status, started_at, updated_at, error)
VALUES (:job, :hub, :device_id, :module_id, :status, :now, :now, :error)

-- name: failures
SELECT number, device_id, module_id, error FROM job_devices
 WHERE job = :job AND status = 'failed' AND number > :after
 ORDER BY number LIMIT :limit
