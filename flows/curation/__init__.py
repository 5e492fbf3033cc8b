"""Finding duplicates and leakage between sets, selecting diverse images, and publishing a data set."""
