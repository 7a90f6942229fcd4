"""The endpoints, one file per family. Each has a `router`, and a handler for each endpoint.

What those that write text have in common is in `carry.py`.
"""
