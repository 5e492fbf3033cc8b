"""Files, locks, storage, JSON, TOML, plots and errors: what every format stands on. Knows nothing of records."""
