#!/usr/bin/env python3
"""extra_py.py py1|py2 URL - the Python SDKs' part of extra.mjs, which says what the steps are.

Prints one JSON line per step.
"""
import asyncio
import json
import os
import sys
import urllib.request
import warnings
from contextlib import asynccontextmanager

STEP_S = float(os.environ.get("STEP_S", "30"))
SEPARATORS = "a\u2028b\u2029c\u0085d"
REGION = "zażółć"


def report(client, step, ok, note=""):
    print(json.dumps({"client": client, "step": step, "ok": ok, "note": str(note)[:300]}), flush=True)


def describe(error):
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


@asynccontextmanager
async def connect_py1(url):
    """-> (session, function that gives the session's id)"""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client
    async with streamable_http_client(url) as (read, write, session_id), ClientSession(read, write) as session:
        await session.initialize()
        yield session, session_id


def connect_py2(mode):
    @asynccontextmanager
    async def connect(url):
        import httpx2
        from mcp import Client
        from mcp.client.streamable_http import streamable_http_client
        seen = {}

        async def remember(response):
            seen.setdefault("id", response.headers.get("mcp-session-id"))

        async with httpx2.AsyncClient(event_hooks={"response": [remember]}, timeout=STEP_S) as http:
            transport = streamable_http_client(url, http_client=http)
            async with Client(transport, mode=mode, read_timeout_seconds=STEP_S - 1) as client:
                yield client, lambda: seen.get("id")
    return connect


async def resume(connect, url):
    async with connect(url) as (client, _):
        result = await client.call_tool("test_reconnection", {})
        assert result.content[0].text == "Answered after the stream was closed", result


def end_session(url, session_id):
    headers = {"mcp-session-id": session_id, "mcp-protocol-version": "2025-11-25"}
    with urllib.request.urlopen(urllib.request.Request(url, method="DELETE", headers=headers)) as response:
        assert response.status < 300, response.status


async def expired(connect, url):
    async with connect(url) as (client, session_id):
        old = session_id()
        assert old, "no session"
        await asyncio.to_thread(end_session, url, old)
        try:
            await client.list_tools()
        except Exception as error:
            note = describe(error)
        else:
            raise AssertionError("the ended session still answers")
    async with connect(url) as (client, session_id):
        assert session_id() and session_id() != old, "no new session"
        assert (await client.list_tools()).tools
    assert "not found" in note.lower() or "terminated" in note.lower(), note
    return note


async def separators(connect, url):
    async with connect(url) as (client, _):
        result = await client.get_prompt("test_prompt_with_arguments", {"arg1": SEPARATORS, "arg2": "x"})
        assert f"'{SEPARATORS}'" in result.messages[0].content.text, result


async def param_headers(connect, url):
    async with connect(url) as (client, _):
        await client.list_tools()
        result = await client.call_tool("test_x_mcp_header", {"region": REGION, "priority": 42})
        assert result.content[0].text == f"region={REGION} priority=42", result


LEGACY = {"resume": resume, "expired": expired, "separators": separators}
MODERN = {"separators": separators, "param-headers": param_headers}
CLIENTS = {
    "py1": [("py1", connect_py1, LEGACY)],
    "py2": [("py2-legacy", connect_py2("legacy"), LEGACY), ("py2-modern", connect_py2("2026-07-28"), MODERN)],
}


async def main(name, url):
    warnings.simplefilter("ignore")
    for client, connect, steps in CLIENTS[name]:
        for step, run in steps.items():
            try:
                async with asyncio.timeout(STEP_S):  # not wait_for: the SDK's cancel scopes must stay in this task
                    report(client, step, True, await run(connect, url) or "")
            except Exception as error:
                report(client, step, False, describe(error))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
