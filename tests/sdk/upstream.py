#!/usr/bin/env python3
"""upstream.py PORT [--json] [--scheme NAME] - the server that clients.py expects, on the Python SDK v2 (mcp 2.3).

Dual era: one endpoint, /mcp, serves 2024-11-05 to 2025-11-25 (sessions) and 2026-07-28 (stateless). --json answers
with plain JSON where it can, --scheme names the scheme of the resources. upstream_legacy.py (mcp 1.30) and
upstream_modern.mjs (TypeScript SDK v2) each serve one era and keep the same contract:

  tools      echo(text) add(a,b) fail() slow(steps,delay_ms) wait(key,ms) wait_state(key) big(size) length(text)
             logs() ask_name() ask_llm(prompt) ask_roots() touch() add_tool(), which adds extra_N
  resources  test://static, test://watched, template test://item/{id}
  prompts    greet(name)
"""
import asyncio
import itertools
import logging
import sys

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import (
    Completion, CompletionArgument, CompletionContext, CreateMessageRequest, CreateMessageRequestParams,
    CreateMessageResult, ElicitRequest, ElicitRequestFormParams, ElicitResult, EmptyResult, InputRequiredResult,
    ListRootsRequest, ListRootsResult, PromptReference, ResourceTemplateReference, SamplingMessage,
    SetLevelRequestParams, SubscribeRequestParams, TextContent, UnsubscribeRequestParams,
)
from pydantic import BaseModel
from serving import scheme, serve

mcp = MCPServer("fixture-dual", version="1.0.0")
waits: dict[str, str] = {}
extra_numbers = itertools.count(1)
touches = itertools.count(1)
touched = 0
SCHEME = scheme()


def modern(ctx: Context) -> bool:
    return (ctx.protocol_version or "") >= "2026"


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


NAME_SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@mcp.tool(structured_output=False)
async def ask_name(ctx: Context) -> str | InputRequiredResult:
    if not modern(ctx):
        answer = await ctx.elicit(message="Your name?", schema=Name)
        return f"hello {answer.data.name}" if answer.action == "accept" else f"elicitation {answer.action}"
    answer = (ctx.input_responses or {}).get("name")
    if isinstance(answer, ElicitResult):
        return f"hello {answer.content['name']}" if answer.action == "accept" else f"elicitation {answer.action}"
    question = ElicitRequest(params=ElicitRequestFormParams(message="Your name?", requested_schema=NAME_SCHEMA))
    return InputRequiredResult(input_requests={"name": question}, request_state="asked-name")


@mcp.tool(structured_output=False)
async def ask_llm(prompt: str, ctx: Context) -> str | InputRequiredResult:
    question = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    params = {"messages": [question], "max_tokens": 50}
    if not modern(ctx):
        answer = await ctx.session.create_message(**params, related_request_id=ctx.request_id)
        return f"llm said {answer.content.text}"
    answer = (ctx.input_responses or {}).get("llm")
    if isinstance(answer, CreateMessageResult):
        return f"llm said {answer.content.text}"
    request = CreateMessageRequest(params=CreateMessageRequestParams(**params))
    return InputRequiredResult(input_requests={"llm": request})


@mcp.tool(structured_output=False)
async def ask_roots(ctx: Context) -> str | InputRequiredResult:
    answer = (ctx.input_responses or {}).get("roots") if modern(ctx) else await ctx.session.list_roots()
    if isinstance(answer, ListRootsResult):
        return "roots " + " ".join(str(root.uri) for root in answer.roots)
    return InputRequiredResult(input_requests={"roots": ListRootsRequest()})


@mcp.tool()
async def touch(ctx: Context) -> str:
    global touched
    touched = next(touches)
    await ctx.notify_resource_updated(f"{SCHEME}://watched")  # modern listeners
    if not modern(ctx):
        await ctx.session.send_resource_updated(f"{SCHEME}://watched")  # this legacy session's GET stream
    return str(touched)


@mcp.tool()
async def add_tool(ctx: Context) -> str:
    name = f"extra_{next(extra_numbers)}"
    mcp.add_tool(lambda: name, name=name, description="added at run time")
    await ctx.notify_tools_changed()
    if not modern(ctx):
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
async def complete(ref: PromptReference | ResourceTemplateReference, argument: CompletionArgument,
                   context: CompletionContext | None) -> Completion:
    names = [name for name in ("alice", "albert", "bob") if name.startswith(argument.value)]
    return Completion(values=names, total=len(names), has_more=False)


# MCPServer has no decorators for these; a legacy client needs them.
async def accept(ctx, params) -> EmptyResult:
    return EmptyResult()


for method, params in {
    "logging/setLevel": SetLevelRequestParams,
    "resources/subscribe": SubscribeRequestParams,
    "resources/unsubscribe": UnsubscribeRequestParams,
}.items():
    mcp._lowlevel_server.add_request_handler(method, params, accept)

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    serve(mcp.streamable_http_app(json_response="--json" in sys.argv), int(sys.argv[1]))
