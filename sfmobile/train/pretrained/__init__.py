"""Networks that others trained, fetched by pinned checksums: judges, losses and starts."""
