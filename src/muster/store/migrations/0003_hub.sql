-- The IoT Hub: hubs, identities, twins, presence, MQTT sessions.
--
-- Several hubs live in one database; every table starts with the hub's number. A device's own row
-- in the tables of modules is told by module_id = ''. Times are unix seconds, 0 stands for never.

CREATE TABLE hubs (
    id         INTEGER PRIMARY KEY,
    host       TEXT NOT NULL UNIQUE,
    created_at REAL NOT NULL
);

-- keys: both keys of the policy, sealed.
CREATE TABLE hub_policies (
    hub    INTEGER NOT NULL,
    name   TEXT NOT NULL,
    rights TEXT NOT NULL,
    keys   BLOB NOT NULL,
    PRIMARY KEY (hub, name)
) WITHOUT ROWID;

-- keys: both keys, sealed; NULL when the identity has none (authentication type none).
-- parent_scope: the device scope of the edge device above this one.
CREATE TABLE devices (
    hub               INTEGER NOT NULL,
    device_id         TEXT NOT NULL,
    generation_id     TEXT NOT NULL,
    etag              TEXT NOT NULL,
    enabled           INTEGER NOT NULL,
    status_reason     TEXT,
    status_updated_at REAL NOT NULL,
    auth_type         TEXT NOT NULL,
    keys              BLOB,
    iot_edge          INTEGER NOT NULL,
    parent_scope      TEXT,
    UNIQUE (hub, device_id)
);

CREATE INDEX devices_by_parent ON devices (hub, parent_scope) WHERE parent_scope IS NOT NULL;

CREATE TABLE modules (
    hub           INTEGER NOT NULL,
    device_id     TEXT NOT NULL,
    module_id     TEXT NOT NULL,
    generation_id TEXT NOT NULL,
    etag          TEXT NOT NULL,
    managed_by    TEXT,
    auth_type     TEXT NOT NULL,
    keys          BLOB,
    UNIQUE (hub, device_id, module_id)
);

-- Exactly one row for every device and every module.
-- revision: counts every change of the row; the condition of optimistic writes.
CREATE TABLE twins (
    hub               INTEGER NOT NULL,
    device_id         TEXT NOT NULL,
    module_id         TEXT NOT NULL,
    revision          INTEGER NOT NULL,
    version           INTEGER NOT NULL,
    etag_counter      INTEGER NOT NULL,
    tags              TEXT NOT NULL,
    desired           TEXT NOT NULL,
    desired_metadata  TEXT NOT NULL,
    desired_version   INTEGER NOT NULL,
    reported          TEXT NOT NULL,
    reported_metadata TEXT NOT NULL,
    reported_version  INTEGER NOT NULL,
    model_id          TEXT NOT NULL DEFAULT '',
    UNIQUE (hub, device_id, module_id)
);

-- One row for each run of the service: a connection that a row of `presence` still names belongs
-- to that run, and is gone when the run is. alive_at is renewed while connections live, so it is
-- the moment of a crash to within the interval.
CREATE TABLE hub_runs (
    id         INTEGER PRIMARY KEY,
    started_at REAL NOT NULL,
    alive_at   REAL NOT NULL
);

-- Only identities that have connected at least once.
CREATE TABLE presence (
    hub              INTEGER NOT NULL,
    device_id        TEXT NOT NULL,
    module_id        TEXT NOT NULL,
    connected_run    INTEGER,
    state_updated_at REAL NOT NULL,
    last_activity_at REAL NOT NULL,
    PRIMARY KEY (hub, device_id, module_id)
) WITHOUT ROWID;

-- Only sessions that hold a subscription. subscriptions: JSON object, topic filter to granted QoS.
CREATE TABLE mqtt_sessions (
    hub           INTEGER NOT NULL,
    device_id     TEXT NOT NULL,
    module_id     TEXT NOT NULL,
    subscriptions TEXT NOT NULL,
    PRIMARY KEY (hub, device_id, module_id)
) WITHOUT ROWID;

-- Counts for GET /statistics/devices, kept true by triggers: counting a million rows takes too
-- long to do on request.
CREATE TABLE device_counts (
    hub      INTEGER PRIMARY KEY,
    enabled  INTEGER NOT NULL,
    disabled INTEGER NOT NULL
);

CREATE TRIGGER devices_counted_in AFTER INSERT ON devices BEGIN
    UPDATE device_counts
       SET enabled = enabled + NEW.enabled, disabled = disabled + 1 - NEW.enabled
     WHERE hub = NEW.hub;
END;

CREATE TRIGGER devices_counted_out AFTER DELETE ON devices BEGIN
    UPDATE device_counts
       SET enabled = enabled - OLD.enabled, disabled = disabled - 1 + OLD.enabled
     WHERE hub = OLD.hub;
END;

CREATE TRIGGER devices_recounted AFTER UPDATE OF enabled ON devices
WHEN OLD.enabled <> NEW.enabled BEGIN
    UPDATE device_counts
       SET enabled = enabled + NEW.enabled - OLD.enabled,
           disabled = disabled + OLD.enabled - NEW.enabled
     WHERE hub = NEW.hub;
END;
