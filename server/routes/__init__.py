"""The endpoints, one file per family. Each has a `router`, and a handler for each endpoint."""
