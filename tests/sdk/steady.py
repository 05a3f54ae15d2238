#!/usr/bin/env python3
"""steady.py 1|2 MODE URL SECONDS - steady.mjs on the Python SDKs (1: mcp 1.30, 2: mcp 2.3)."""
import asyncio
import json
import sys
import time
import warnings
from contextlib import AsyncExitStack

generation, mode, url, seconds = sys.argv[1:5]
end = None  # SECONDS after the first connection: loading an SDK takes some itself
total = {"calls": 0, "failed": 0, "sessions": 0, "longest_ms": 0, "longest_call": 0, "notes": []}


async def connect(stack):
    total["sessions"] += 1
    if generation == "1":
        from mcp import ClientSession
        from mcp.client.streamable_http import streamable_http_client
        read, write, _ = await stack.enter_async_context(streamable_http_client(url))
        client = await stack.enter_async_context(ClientSession(read, write))
        await client.initialize()
        return client
    from mcp import Client
    warnings.simplefilter("ignore")
    return await stack.enter_async_context(Client(url, mode=mode, read_timeout_seconds=20))


async def echo(client, number):
    result = await asyncio.wait_for(client.call_tool("echo", {"text": f"n{number}"}), 20)
    assert result.content and result.content[0].text == f"n{number}", f"an empty success: {result}"


def innermost(error):
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return error


async def session():
    """Calls until the end, or until the session is of no use any more."""
    global end
    async with AsyncExitStack() as stack:
        client = await connect(stack)
        end = end or time.monotonic() + float(seconds)
        failures = 0
        while time.monotonic() < end and failures < 2:
            started = time.monotonic()
            try:
                await echo(client, total["calls"])
                total["calls"] += 1
                failures = 0
                if total["calls"] == 1:
                    print("ready", flush=True)
            except Exception as error:
                failures += 1
                note(error)
            waited_ms = round((time.monotonic() - started) * 1000)
            if waited_ms > total["longest_ms"]:
                total["longest_ms"], total["longest_call"] = waited_ms, total["calls"]
            await asyncio.sleep(0.1)


def note(error):
    total["failed"] += 1
    total["notes"].append(f"{type(innermost(error)).__name__} {innermost(error)}"[:200])


async def main():
    while end is None or time.monotonic() < end:
        try:
            await session()
        except BaseException as error:
            note(error)
            await asyncio.sleep(0.1)


asyncio.run(main())
print(json.dumps(total))
