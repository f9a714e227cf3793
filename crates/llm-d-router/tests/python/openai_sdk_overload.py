"""Sends twice the load that the servers can do with the OpenAI SDK, at three priorities.

Clients of important and of plain requests send the next one when one is served. There are more of them than the
servers take at a time. Each that is served brings a batch, so that twice as much comes as is served. Nothing is
served before all clients have asked and a burst of batches has come. For so many requests that are more important
(TURN) the router lets one batch go.

What is wrong is a failed assertion. Prints how many of each were served, and how many batches were refused.

Usage: openai_sdk_overload.py BASE_URL MODEL N_CLIENTS N_BURST TURN
"""

import asyncio
import json
import statistics
import sys
import time
from typing import NamedTuple

import openai

BASE_URL, MODEL, *NUMBERS = sys.argv[1:]
N_CLIENTS, N_BURST, TURN = (int(number) for number in NUMBERS)
N_CRITICAL_CLIENTS = 2
N_TOKENS = 20
# Requests that may not be lost.
N_IMPORTANT = 40
OBJECTIVE = "x-llm-d-inference-objective"


class End(NamedTuple):
    kind: str
    # Nothing had been served when it was sent.
    is_early: bool
    # Seconds to the first token; none where the request was refused.
    first_token: float | None
    error: openai.APIStatusError | None


async def ask(client, kind, is_early):
    sent, first, text, finish, usage = time.monotonic(), None, "", None, None
    try:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"What is {kind}?"}],
            max_tokens=N_TOKENS,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={} if kind == "plain" else {OBJECTIVE: kind},
            extra_body={"ignore_eos": True},
        )
    except openai.APIStatusError as error:
        return End(kind, is_early, None, error)
    async for chunk in stream:
        for choice in chunk.choices:
            if choice.delta.content and first is None:
                first = time.monotonic() - sent
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
        usage = chunk.usage or usage
    assert text and finish == "length" and usage.completion_tokens == N_TOKENS, (kind, text, finish, usage)
    return End(kind, is_early, first, None)


async def overload():
    """How every request ended, in the order of the ends."""
    ends, batches, n_sent = [], [], 0
    async with openai.AsyncOpenAI(base_url=BASE_URL, api_key="unused", max_retries=0, timeout=60) as client:

        async def send(kind):
            ends.append(await ask(client, kind, all(end.error for end in ends)))

        async def go_on(kind):
            nonlocal n_sent
            while n_sent < N_IMPORTANT:
                n_sent += 1
                await send(kind)
                batches.append(asyncio.create_task(send("batch")))

        clients = [go_on("critical" if number < N_CRITICAL_CLIENTS else "plain") for number in range(N_CLIENTS)]
        batches += [asyncio.create_task(send("batch")) for _ in range(N_BURST)]
        await asyncio.gather(*clients)
        await asyncio.gather(*batches)
    return ends


ends = asyncio.run(overload())
served = {kind: [end for end in ends if end.kind == kind and not end.error] for kind in ("critical", "plain", "batch")}
refused = [end for end in ends if end.error]
assert len(served["critical"]) + len(served["plain"]) == N_IMPORTANT, refused
assert len(ends) == 2 * N_IMPORTANT + N_BURST

for error in (end.error for end in refused):
    assert isinstance(error, openai.RateLimitError) and error.status_code == 429, error
    headers = error.response.headers
    assert headers["x-llm-d-request-dropped-reason"] == "rejected-saturated", headers
    assert int(headers["retry-after"]) >= 1, headers

# Of those that waited together: later ones wait as long as the machine keeps up with the servers.
early = {kind: [end.first_token for end in of if end.is_early] for kind, of in served.items()}
assert len(early["critical"]) == N_CRITICAL_CLIENTS, early
medians = {kind: statistics.median(times) for kind, times in early.items()}
assert medians["critical"] < medians["batch"], medians

# The lowest priority never stops: as long as anything more important is asked for, it gets its turns.
n_since, order = 0, [end.kind for end in ends if not end.error]
while order[-1] == "batch":
    order.pop()
for kind in order:
    n_since = 0 if kind == "batch" else n_since + 1
    # Those that run at a time end in any order.
    assert n_since <= TURN + N_CLIENTS, order

counts = {kind: len(of) for kind, of in served.items()}
print(json.dumps(counts | {"refused": len(refused)}))
