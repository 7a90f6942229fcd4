"""litellm, unmodified: what it makes of our replies, as JSON."""

import json
import sys

import litellm

url, prompt = sys.argv[1:]
asked = {"api_base": url, "api_key": "none", "temperature": 0, "max_tokens": 24}
messages = [{"role": "user", "content": prompt}]

chat = litellm.completion(model="openai/tiny", messages=messages, **asked)
chunks = litellm.completion(model="openai/tiny", messages=messages, stream=True, **asked)
whole = litellm.text_completion(model="text-completion-openai/tiny", prompt=prompt, **asked)
pieces = litellm.text_completion(
    model="text-completion-openai/tiny", prompt=prompt, stream=True, **asked
)
told = {
    "chat": chat.choices[0].message.content,
    "said": "".join(chunk.choices[0].delta.content or "" for chunk in chunks),
    "whole": whole.choices[0].text,
    "streamed": "".join(piece.choices[0].text or "" for piece in pieces),
}
print(json.dumps(told))
