"""Picture files as people see them, and the colours of labels."""
