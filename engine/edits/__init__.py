"""What a request changes of the logits before a token is chosen: few columns of a row.

An edit depends on what lies before the token, a text's own tokens and a node's path, so two nodes
of one tree may be edited differently. In this order, each on what the one before it left:

    logit_bias          is added
    penalties           repetition first, then frequency and presence
    DRY                 is subtracted from what would go on with a repetition
    bans                allowed_token_ids, bad_words, min_tokens: minus infinity
    a grammar           minus infinity of what it does not allow; bans that leave nothing give way
"""

from engine.edits.rows import EditedRow, Edits, edited, edits_of

__all__ = ["EditedRow", "Edits", "edited", "edits_of"]
