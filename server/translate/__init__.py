"""The only room that knows both vocabularies: what OpenAI's clients say, and ours.

Each API has a file here, in which a body becomes a plan, a piece a chunk, and whole choices a whole
reply; what they have in common is in `requests.py` and `figures.py`.
"""
