"""Drives a router with the Anthropic SDK, as an application would. What is wrong is a failed assertion.

Usage: anthropic_sdk.py BASE_URL MODEL
"""

import sys

import anthropic

BASE_URL, MODEL = sys.argv[1:]
ASKED = {
    "model": MODEL,
    "max_tokens": 12,
    "system": "Be brief.",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Tell me about model servers."}]}],
}

# A retry would hide a failure.
client = anthropic.Anthropic(base_url=BASE_URL, api_key="unused", max_retries=0, timeout=60)


def refuses(kind, status, ask):
    try:
        ask()
    except kind as error:
        assert error.status_code == status, error
        return
    raise AssertionError(f"expected {kind.__name__}")


answer = client.messages.create(**ASKED)
assert answer.type == "message" and answer.content[0].text and answer.stop_reason, answer
assert answer.usage.input_tokens > 0 and answer.usage.output_tokens > 0, answer

with client.messages.stream(**ASKED) as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
assert text == answer.content[0].text, (text, answer)
assert final.usage.output_tokens == answer.usage.output_tokens, final

counted = client.messages.count_tokens(
    **{key: ASKED[key] for key in ("model", "system", "messages")}
)
assert counted.input_tokens == answer.usage.input_tokens, (counted, answer)

refuses(anthropic.NotFoundError, 404, lambda: client.messages.create(**{**ASKED, "model": "no-such-model"}))
refuses(
    anthropic.BadRequestError,
    400,
    lambda: client.post("/v1/messages", cast_to=object, body={"model": MODEL, "max_tokens": 1}),
)
print("ok")
