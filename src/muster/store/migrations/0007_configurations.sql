-- Configurations (automatic deployments among them) and what they are to each twin.

-- document: JSON of everything that no query looks at.
CREATE TABLE configurations (
    hub        INTEGER NOT NULL,
    id         TEXT NOT NULL,
    counter    INTEGER NOT NULL,
    document   TEXT NOT NULL,
    PRIMARY KEY (hub, id)
) WITHOUT ROWID;

-- configurations: the twin's section of that name, JSON object: ID to {"status": …}.
-- managed: JSON object of the paths below the desired properties that configurations have set one by
-- one (`edge`: layers of deployments, `own`: configurations), to take them away again.
ALTER TABLE twins ADD COLUMN configurations TEXT NOT NULL DEFAULT '{}';
ALTER TABLE twins ADD COLUMN managed TEXT NOT NULL DEFAULT '{}';

-- The same as `twins.configurations`, for finding and counting the twins of a configuration; kept
-- true by triggers, so that there is one truth.
CREATE TABLE twin_configurations (
    hub              INTEGER NOT NULL,
    configuration_id TEXT NOT NULL,
    device_id        TEXT NOT NULL,
    module_id        TEXT NOT NULL,
    applied          INTEGER NOT NULL,
    PRIMARY KEY (hub, configuration_id, device_id, module_id)
) WITHOUT ROWID;

CREATE TRIGGER twin_configurations_changed AFTER UPDATE OF configurations ON twins
WHEN OLD.configurations <> NEW.configurations BEGIN
    DELETE FROM twin_configurations
     WHERE hub = OLD.hub AND device_id = OLD.device_id AND module_id = OLD.module_id
       AND configuration_id IN (SELECT key FROM json_each(OLD.configurations));
    INSERT INTO twin_configurations (hub, configuration_id, device_id, module_id, applied)
    SELECT NEW.hub, key, NEW.device_id, NEW.module_id, json_extract(value, '$.status') = 'Applied'
      FROM json_each(NEW.configurations);
END;

CREATE TRIGGER twin_configurations_gone AFTER DELETE ON twins
WHEN OLD.configurations <> '{}' BEGIN
    DELETE FROM twin_configurations
     WHERE hub = OLD.hub AND device_id = OLD.device_id AND module_id = OLD.module_id
       AND configuration_id IN (SELECT key FROM json_each(OLD.configurations));
END;
