-- name: all
SELECT host, allocation_weight, apply_allocation_policy, connection_string
FROM linked_hubs ORDER BY host;

-- name: put
INSERT INTO linked_hubs (host, allocation_weight, apply_allocation_policy, connection_string)
VALUES (:host, :allocation_weight, :apply_allocation_policy, :connection_string)
ON CONFLICT (host) DO UPDATE SET allocation_weight = :allocation_weight,
    apply_allocation_policy = :apply_allocation_policy, connection_string = :connection_string;

-- name: delete
DELETE FROM linked_hubs WHERE host = :host;
