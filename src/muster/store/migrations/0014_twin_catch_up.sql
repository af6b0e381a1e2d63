-- What clients know of their desired properties, for hubs that send them what they missed.

ALTER TABLE hubs ADD COLUMN twin_catch_up INTEGER NOT NULL DEFAULT 0;

-- The version of the desired properties that surely reached a client last, for the generation of
-- its identity that it belongs to.
CREATE TABLE desired_deliveries (
    hub           INTEGER NOT NULL,
    device_id     TEXT NOT NULL,
    module_id     TEXT NOT NULL,
    generation_id TEXT NOT NULL,
    version       INTEGER NOT NULL,
    PRIMARY KEY (hub, device_id, module_id)
) WITHOUT ROWID;

-- Properties that were removed. paths: JSON object, path (a JSON array) to the version that
-- removed it last; version: the newest of them.
CREATE TABLE desired_removals (
    hub       INTEGER NOT NULL,
    device_id TEXT NOT NULL,
    module_id TEXT NOT NULL,
    version   INTEGER NOT NULL,
    paths     TEXT NOT NULL,
    PRIMARY KEY (hub, device_id, module_id)
) WITHOUT ROWID;
