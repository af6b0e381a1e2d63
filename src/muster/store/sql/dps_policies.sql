-- name: all
SELECT name, rights, keys FROM dps_policies ORDER BY name;

-- name: put
INSERT INTO dps_policies (name, rights, keys) VALUES (:name, :rights, :keys)
ON CONFLICT (name) DO UPDATE SET rights = :rights, keys = :keys;

-- name: delete
DELETE FROM dps_policies WHERE name = :name;
