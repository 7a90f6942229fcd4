"""Offline: a corpus, a tokenizer, a target, a draft and an n-gram table, trained by one command.

Nothing that serves a request imports this room.
"""
