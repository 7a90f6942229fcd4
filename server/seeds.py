"""Seeds: drawn where a request names none, and one for each choice of a prompt."""

import secrets

# A JSON reader that keeps numbers as doubles must be able to send a reported seed back.
_NUM_BITS = 53
_MASK = 2**64 - 1


def draw_seed() -> int:
    """A random seed, of 53 bits."""
    return secrets.randbits(_NUM_BITS)


def choice_seed(seed: int, k: int) -> int:
    """The seed of choice `k`: the seed itself for 0, else splitmix64's k-th output, cut to 53 bits.

    splitmix64 steps by an odd constant, so neighbouring seeds do not share their choices.
    """
    if k == 0:
        return seed
    z = (seed + k * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) >> (64 - _NUM_BITS)
