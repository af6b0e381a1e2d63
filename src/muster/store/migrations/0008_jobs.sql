-- Jobs over devices, and imports and exports of identities.
--
-- action: JSON, what is to be done.
-- selected_to: where the choice of devices goes on; NULL when it is complete.
-- Times are unix seconds, 0 stands for never.
CREATE TABLE jobs (
    number          INTEGER PRIMARY KEY AUTOINCREMENT,
    hub             INTEGER NOT NULL,
    job_id          TEXT NOT NULL,
    type            TEXT NOT NULL,
    status          TEXT NOT NULL,
    condition       TEXT NOT NULL,
    action          TEXT NOT NULL,
    created_at      REAL NOT NULL,
    start_at        REAL NOT NULL,
    max_execution_s INTEGER NOT NULL,
    ended_at        REAL NOT NULL DEFAULT 0,
    updated_at      REAL NOT NULL,
    failure         TEXT NOT NULL DEFAULT '',
    selected_to     INTEGER DEFAULT 0,
    devices         INTEGER NOT NULL DEFAULT 0,
    running         INTEGER NOT NULL DEFAULT 0,
    succeeded       INTEGER NOT NULL DEFAULT 0,
    failed          INTEGER NOT NULL DEFAULT 0,
    UNIQUE (hub, job_id)
);

CREATE INDEX jobs_unfinished ON jobs (start_at) WHERE ended_at = 0;
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at > 0;

-- The devices and modules a job has chosen, in that order.
-- outcome, error: JSON, NULL for none.
CREATE TABLE job_devices (
    number     INTEGER PRIMARY KEY,
    job        INTEGER NOT NULL,
    hub        INTEGER NOT NULL,
    device_id  TEXT NOT NULL,
    module_id  TEXT NOT NULL,
    status     TEXT NOT NULL,
    started_at REAL NOT NULL DEFAULT 0,
    updated_at REAL NOT NULL,
    outcome    TEXT,
    error      TEXT
);

CREATE INDEX job_devices_by_status ON job_devices (job, status);
CREATE INDEX job_devices_by_device ON job_devices (hub, device_id);

-- The collection devices.jobs. A device whose turn never came shows what became of its job.
CREATE VIEW device_jobs AS
SELECT x.number, x.hub, x.device_id, x.module_id, j.job_id, j.type, j.created_at,
       CASE WHEN x.status <> 'pending' OR j.ended_at = 0 THEN x.status
            WHEN j.status = 'cancelled' THEN 'canceled' ELSE 'failed' END AS status,
       CASE WHEN x.started_at > 0 THEN x.started_at ELSE j.start_at END AS started_at,
       CASE WHEN x.status IN ('completed', 'failed') THEN x.updated_at ELSE j.ended_at END
           AS ended_at,
       CASE WHEN x.status = 'pending' THEN max(x.updated_at, j.ended_at) ELSE x.updated_at END
           AS updated_at,
       x.outcome,
       CASE WHEN x.status = 'pending' AND j.status = 'failed'
            THEN json_object('code', 'JobRunPreconditionFailed', 'description', j.failure)
            ELSE x.error END AS error
  FROM job_devices x
  JOIN jobs j ON j.number = x.job AND j.hub = x.hub;
