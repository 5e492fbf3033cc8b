"""Files, locks, storage, JSON, TOML, plots and errors: what every format uses. Knows nothing of records."""
