-- Thumbprints of the client certificates by which identities of the type selfSigned prove
-- themselves: SHA-1 or SHA-256 in hex, in the case they were given. NULL for none.

ALTER TABLE devices ADD COLUMN primary_thumbprint TEXT;
ALTER TABLE devices ADD COLUMN secondary_thumbprint TEXT;
ALTER TABLE modules ADD COLUMN primary_thumbprint TEXT;
ALTER TABLE modules ADD COLUMN secondary_thumbprint TEXT;
