#!/usr/bin/env python3
"""upstream_legacy.py PORT [--sse] [--scheme NAME] - the contract of upstream.py on the Python SDK v1 (mcp 1.30).

Legacy only: 2024-11-05 to 2025-11-25 at /mcp with sessions, a GET stream and requests from the server. --sse: the
deprecated HTTP+SSE transport of 2024-11-05 at /sse and /messages/ instead.
"""
import asyncio
import itertools
import sys

import mcp.types as types
from mcp.server.fastmcp import Context, FastMCP
from pydantic import BaseModel
from serving import scheme, serve

mcp = FastMCP("fixture-legacy")
low = mcp._mcp_server
waits: dict[str, str] = {}
extra_numbers = itertools.count(1)
touches = itertools.count(1)
touched = 0
SCHEME = scheme()


def advertise(get_capabilities):
    """Declares what the handlers below do; FastMCP itself says that nothing changes and nothing can be watched."""
    def capabilities(notification_options, experimental):
        notification_options.tools_changed = notification_options.resources_changed = True
        declared = get_capabilities(notification_options, experimental)
        declared.resources.subscribe = True
        return declared
    return capabilities


low.get_capabilities = advertise(low.get_capabilities)


@mcp.tool()
def echo(text: str) -> str:
    return text


@mcp.tool()
def add(a: float, b: float) -> float:
    return a + b


@mcp.tool()
def fail() -> str:
    raise ValueError("deliberate tool failure")


@mcp.tool()
async def slow(steps: int, delay_ms: int, ctx: Context) -> str:
    for step in range(1, steps + 1):
        await ctx.report_progress(step, steps, f"step {step}")
        await asyncio.sleep(delay_ms / 1000)
    return f"slow done {steps}"


@mcp.tool()
async def wait(key: str, ms: int, ctx: Context) -> str:
    waits[key] = "running"
    try:
        await asyncio.sleep(ms / 1000)
        waits[key] = "finished"
    except BaseException:
        waits[key] = "cancelled"
        raise
    return "waited"


@mcp.tool()
def wait_state(key: str) -> str:
    return waits.get(key, "unknown")


@mcp.tool(structured_output=False)
def big(size: int) -> str:
    return "x" * size


@mcp.tool()
def length(text: str) -> int:
    return len(text)


@mcp.tool()
async def logs(ctx: Context) -> str:
    await ctx.info("log line one")
    await ctx.info("log line two")
    return "logged"


class Name(BaseModel):
    name: str


@mcp.tool(structured_output=False)
async def ask_name(ctx: Context) -> str:
    answer = await ctx.elicit(message="Your name?", schema=Name)
    return f"hello {answer.data.name}" if answer.action == "accept" else f"elicitation {answer.action}"


@mcp.tool(structured_output=False)
async def ask_llm(prompt: str, ctx: Context) -> str:
    question = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=prompt))
    answer = await ctx.session.create_message(
        messages=[question], max_tokens=50, related_request_id=ctx.request_id)
    return f"llm said {answer.content.text}"


@mcp.tool(structured_output=False)
async def ask_roots(ctx: Context) -> str:
    # The SDK sends this request on the session's GET stream, not on the call's own.
    answer = await ctx.session.list_roots()
    return "roots " + " ".join(str(root.uri) for root in answer.roots)


@mcp.tool()
async def touch(ctx: Context) -> str:
    global touched
    touched = next(touches)
    await ctx.session.send_resource_updated(f"{SCHEME}://watched")
    return str(touched)


@mcp.tool()
async def add_tool(ctx: Context) -> str:
    name = f"extra_{next(extra_numbers)}"
    mcp.add_tool(lambda: name, name=name, description="added at run time")
    await ctx.session.send_tool_list_changed()
    return name


@mcp.resource(f"{SCHEME}://static", mime_type="text/plain")
def static() -> str:
    return "static text"


@mcp.resource(f"{SCHEME}://watched", mime_type="text/plain")
def watched() -> str:
    return f"watched {touched}"


@mcp.resource(f"{SCHEME}://item/{{id}}", mime_type="text/plain")
def item(id: str) -> str:
    return f"item {id}"


@mcp.prompt()
def greet(name: str) -> str:
    return f"Please greet {name}"


@mcp.completion()
async def complete(ref, argument, context):
    names = [name for name in ("alice", "albert", "bob") if name.startswith(argument.value)]
    return types.Completion(values=names, total=len(names), hasMore=False)


@low.set_logging_level()
async def set_level(level):
    pass


@low.subscribe_resource()
async def subscribe(uri):
    pass


@low.unsubscribe_resource()
async def unsubscribe(uri):
    pass


if __name__ == "__main__":
    app = mcp.sse_app() if "--sse" in sys.argv else mcp.streamable_http_app()
    serve(app, int(sys.argv[1]))
