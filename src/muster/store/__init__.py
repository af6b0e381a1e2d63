"""What must survive: the engine port, SQLite, migrations, the telemetry journal."""
