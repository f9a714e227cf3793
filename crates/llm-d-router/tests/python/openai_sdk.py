"""Drives a router with the OpenAI SDK, as an application would. What is wrong is a failed assertion.

Usage: openai_sdk.py BASE_URL MODEL
"""

import asyncio
import sys

import openai

BASE_URL, MODEL = sys.argv[1:]
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant. \u00e4\u00f6\u00fc \U0001f680"},
    {"role": "user", "content": "Tell me about model servers."},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Looks a word up.",
            "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
        },
    }
]

# A retry would hide a failure.
OPTIONS = {"base_url": BASE_URL, "api_key": "unused", "max_retries": 0, "timeout": 60}
client = openai.OpenAI(**OPTIONS)


def chat():
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=20)
    assert answer.object == "chat.completion" and answer.model == MODEL, answer
    assert answer.choices[0].message.content and answer.choices[0].finish_reason, answer
    usage = answer.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
    several = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=5, n=3)
    assert [choice.index for choice in several.choices] == [0, 1, 2], several
    return answer


def chat_streamed(whole):
    stream = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=20, stream=True, stream_options={"include_usage": True}
    )
    text, usage, finish = "", None, None
    for chunk in stream:
        assert chunk.model == MODEL, chunk
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
        usage = chunk.usage or usage
    assert text == whole.choices[0].message.content, (text, whole)
    assert finish == whole.choices[0].finish_reason, finish
    assert usage.prompt_tokens == whole.usage.prompt_tokens, usage
    assert usage.completion_tokens == whole.usage.completion_tokens, usage


def tools():
    asked = {"model": MODEL, "messages": MESSAGES, "tools": TOOLS, "tool_choice": "required", "max_tokens": 30}
    call = client.chat.completions.create(**asked).choices[0].message.tool_calls[0]
    assert call.function.name == "look_up" and call.function.arguments, call
    arguments = ""
    for chunk in client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            for piece in choice.delta.tool_calls or []:
                arguments += piece.function.arguments or ""
    assert arguments == call.function.arguments, (arguments, call)


def completions():
    answer = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=10)
    assert answer.choices[0].text and answer.usage.completion_tokens > 0, answer
    stream = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=10, stream=True)
    text = "".join(choice.text for chunk in stream for choice in chunk.choices)
    assert text == answer.choices[0].text, (text, answer)
    several = client.completions.create(model=MODEL, prompt=["one", "two"], max_tokens=3)
    assert len(several.choices) == 2, several
    tokens = client.completions.create(model=MODEL, prompt=[1, 2, 3, 4], max_tokens=3)
    assert tokens.usage.prompt_tokens == 4, tokens


def embeddings():
    # The SDK asks for base64 by itself and decodes it.
    answer = client.embeddings.create(model=MODEL, input=["one", "two"], dimensions=8)
    assert [len(item.embedding) for item in answer.data] == [8, 8], answer
    floats = client.embeddings.create(model=MODEL, input=["one", "two"], dimensions=8, encoding_format="float")
    for left, right in zip(answer.data, floats.data, strict=True):
        assert all(abs(a - b) < 1e-6 for a, b in zip(left.embedding, right.embedding, strict=True)), (left, right)


def responses():
    answer = client.responses.create(model=MODEL, input="Tell me more.", instructions="Be brief.", max_output_tokens=10)
    assert answer.status in ("completed", "incomplete") and answer.output_text, answer
    assert answer.usage.input_tokens > 0 and answer.usage.output_tokens > 0, answer
    stream = client.responses.create(
        model=MODEL, input="Tell me more.", instructions="Be brief.", max_output_tokens=10, stream=True
    )
    text, last = "", None
    for event in stream:
        if event.type == "response.output_text.delta":
            text += event.delta
        last = event
    assert text == answer.output_text, (text, answer)
    assert last.type in ("response.completed", "response.incomplete"), last
    assert last.response.usage.output_tokens == answer.usage.output_tokens, last


def models():
    assert MODEL in [model.id for model in client.models.list()]


def ten_megabytes():
    prompt = "0123456789abcdef" * (10 * 2**20 // 16)
    answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=2)
    assert answer.usage.prompt_tokens == len(prompt) // 16, answer.usage
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": prompt}], max_tokens=2, stream=True
    )
    assert "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)


def refuses(kind, status, ask):
    try:
        ask()
    except kind as error:
        assert error.status_code == status, error
        return error
    raise AssertionError(f"expected {kind.__name__}")


def errors():
    # The model server's own error comes through.
    error = refuses(
        openai.NotFoundError,
        404,
        lambda: client.chat.completions.create(model="no-such-model", messages=MESSAGES),
    )
    assert "no-such-model" in str(error), error
    # What has no prompt is refused by the router.
    for path, body in [
        ("/chat/completions", {"model": MODEL}),
        ("/completions", {"prompt": "x"}),
        ("/embeddings", {"model": MODEL}),
    ]:
        error = refuses(
            openai.BadRequestError, 400, lambda path=path, body=body: client.post(path, cast_to=object, body=body)
        )
        assert "BadRequest" in error.response.text, (path, error)


async def many_at_once():
    async with openai.AsyncOpenAI(**OPTIONS) as many:

        async def one(number):
            stream = await many.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": f"Number {number}"}], max_tokens=10, stream=True
            )
            return [chunk async for chunk in stream]

        answers = await asyncio.gather(*(one(number) for number in range(40)))
        assert all(answers), answers
        assert len({chunks[0].id for chunks in answers}) == 40


def leaves_early():
    stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=100, stream=True)
    next(iter(stream))
    stream.close()


whole = chat()
chat_streamed(whole)
tools()
completions()
embeddings()
responses()
models()
ten_megabytes()
errors()
asyncio.run(many_at_once())
leaves_early()
print("ok")
