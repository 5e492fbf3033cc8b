"""Reading and scaling pictures for display, and the colours of labels."""
