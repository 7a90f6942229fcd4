"""Commands that run the engine in this process; `server.cli` imports each when it is called."""
