"""The endpoints, one file per family. Each offers a function that builds its router."""
