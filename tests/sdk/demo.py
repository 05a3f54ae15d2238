#!/usr/bin/env python3
"""demo.py 1|2 MODE URL [loop] - a Python SDK client (1: mcp 1.30, 2: mcp 2.3) uses the demo's tools, as demo.mjs does.

MODE is legacy, or a revision that generation 2 pins. With loop it repeats one call until it is told to stop. Exit 0: all went well. Exit 1: the rest.
"""
import asyncio
import sys
import warnings
from contextlib import asynccontextmanager

COUNTDOWN = {"steps": 3, "delay_ms": 50}


@asynccontextmanager
async def connect_1(url, mode, on_elicit):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client
    async with streamable_http_client(url) as (read, write, _):
        async with ClientSession(read, write, elicitation_callback=on_elicit) as session:
            opened = await session.initialize()
            yield session, opened.protocolVersion


@asynccontextmanager
async def connect_2(url, mode, on_elicit):
    from mcp import Client
    warnings.simplefilter("ignore")
    async with Client(url, mode=mode, elicitation_callback=on_elicit) as client:
        yield client, client.protocol_version


def either(result, *names):
    """The two generations spell their fields differently."""
    return next(getattr(result, name) for name in names if hasattr(result, name))


def text(result):
    return result.content[0].text


async def use(client):
    names = [tool.name for tool in (await client.list_tools()).tools]
    assert {"echo", "add", "countdown", "ask_name", "fail"} <= set(names), names
    assert text(await client.call_tool("echo", {"text": "zażółć 🙂"})) == "zażółć 🙂"
    added = await client.call_tool("add", {"a": 2, "b": 40.5})
    assert either(added, "structured_content", "structuredContent")["sum"] == 42.5, added
    seen = []

    async def on_progress(progress, total, message):
        seen.append(progress)

    counted = await client.call_tool("countdown", COUNTDOWN, progress_callback=on_progress)
    assert text(counted) == "Counted down 3 steps." and seen == [1, 2, 3], (counted, seen)
    greeted = await client.call_tool("ask_name", {})
    assert text(greeted) == "Hello, Ada!", greeted
    failed = await client.call_tool("fail", {})
    assert either(failed, "is_error", "isError") is True, failed
    return len(names)


async def loop(client):
    for _ in range(20):
        result = await client.call_tool("echo", {"text": "again"})
        if either(result, "is_error", "isError"):
            break
    assert either(result, "is_error", "isError") and "change the arguments" in text(result), result
    assert text(await client.call_tool("echo", {"text": "another"})) == "another"
    return text(result)


async def main(generation, mode, url, task="use"):
    import mcp.types as types

    async def on_elicit(context, params):
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    connect = {"1": connect_1, "2": connect_2}[generation]
    async with asyncio.timeout(60), connect(url, mode, on_elicit) as (client, version):
        if task == "loop":
            print(f"py{generation} {version}: {await loop(client)}")
            return
        count = await use(client)
        print(f"py{generation} {version}: {count} tools; echo, add, countdown, ask_name, fail answered")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
