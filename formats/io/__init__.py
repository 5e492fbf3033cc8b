"""What every format uses: files, locks, storage, JSON, TOML, plots and errors. Does not depend on records."""
