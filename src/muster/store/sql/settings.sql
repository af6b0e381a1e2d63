-- name: all
SELECT name, value FROM settings;

-- name: put
INSERT INTO settings (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = :value;
