"""The HTTP side of stagetree: an OpenAI-compatible server in front of one engine process.

It speaks JSON, text and HTTP, and hands token ids to the engine. It never imports torch.
"""
