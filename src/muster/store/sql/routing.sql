-- Routes, enrichments and endpoints of the hubs.

-- name: fallbacks
SELECT id, fallback_enabled FROM hubs

-- name: save_fallback
UPDATE hubs SET fallback_enabled = :enabled WHERE id = :hub

-- name: routes
SELECT hub, name, document FROM routes ORDER BY hub, name

-- name: save_route
INSERT INTO routes (hub, name, document) VALUES (:hub, :name, :document)
    ON CONFLICT (hub, name) DO UPDATE SET document = excluded.document

-- name: delete_route
DELETE FROM routes WHERE hub = :hub AND name = :name

-- name: enrichments
SELECT hub, key, document FROM enrichments ORDER BY hub, key

-- name: save_enrichment
INSERT INTO enrichments (hub, key, document) VALUES (:hub, :key, :document)
    ON CONFLICT (hub, key) DO UPDATE SET document = excluded.document

-- name: delete_enrichment
DELETE FROM enrichments WHERE hub = :hub AND key = :key

-- name: endpoints
SELECT number, hub, name, document, secret FROM routing_endpoints ORDER BY number

-- name: number
SELECT number FROM routing_endpoints WHERE hub = :hub AND name = :name

-- name: save_endpoint
INSERT INTO routing_endpoints (hub, name, document, secret)
VALUES (:hub, :name, :document, :secret)
    ON CONFLICT (hub, name) DO UPDATE SET document = excluded.document, secret = excluded.secret

-- name: delete_endpoint
DELETE FROM routing_endpoints WHERE number = :number

-- name: positions
SELECT partition, sequence FROM endpoint_positions WHERE endpoint = :endpoint

-- name: save_position
INSERT INTO endpoint_positions (endpoint, partition, sequence)
VALUES (:endpoint, :partition, :sequence)
    ON CONFLICT (endpoint, partition) DO UPDATE SET sequence = excluded.sequence

-- name: delete_positions
DELETE FROM endpoint_positions WHERE endpoint = :endpoint
