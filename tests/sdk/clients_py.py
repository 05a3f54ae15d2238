#!/usr/bin/env python3
"""clients_py.py 1|2 MODE URL - the Python SDK drivers of clients.py (1: mcp 1.30, 2: mcp 2.3).

Prints one JSON line per step. PREFIX stands before the names of tools and prompts, SCHEME is that of the resources;
`Driver` has the steps that both SDKs share, its subclasses what differs.
"""
import asyncio
import json
import os
import sys
import time
import warnings
from contextlib import AsyncExitStack, asynccontextmanager

IDLE_S = float(os.environ.get("IDLE_S", "3"))
STEP_S = float(os.environ.get("STEP_S", "30"))
CONNECT_S = 15
PREFIX = os.environ.get("PREFIX", "")
SCHEME = os.environ.get("SCHEME", "test")
WATCHED = f"{SCHEME}://watched"


class Skip(Exception):
    """The step cannot apply to this client."""


def report(step, ok, started, note=""):
    elapsed_ms = round((time.perf_counter() - started) * 1000, 1)
    print(json.dumps({"step": step, "ok": ok, "ms": elapsed_ms, "note": str(note)[:300]}), flush=True)


def describe(error):
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def text(result):
    assert result.content, f"no content in {result}"
    return result.content[0].text


def is_error(result):
    return getattr(result, "is_error", getattr(result, "isError", None))


async def wait_for_event(events, wanted, trigger, tries=8, pause_s=0.4):
    """Fires `trigger` until an event that is `wanted` shows up."""
    for attempt in range(tries):
        await trigger()
        for _ in range(int(pause_s / 0.05)):
            if any(wanted(event) for event in events):
                return f"after {attempt + 1} trigger(s)"
            await asyncio.sleep(0.05)
    raise AssertionError(f"no event; got {events[:5]}")


def is_notification(kind):
    """The v1 SDK wraps a notification in a root model, the v2 SDK does not."""
    return lambda event: kind in type(getattr(event, "root", event)).__name__


class Driver:
    """The steps that both SDKs share, on the calls that a subclass gives."""

    def __init__(self, mode, url):
        self.mode, self.url = mode, url
        self.era = "legacy"
        self.logs, self.notifications = [], []

    async def run(self):
        async with AsyncExitStack() as stack:
            started = time.perf_counter()
            try:
                ok, note = await self.connect(stack)
                report("connect", ok, started, note)
            except BaseException as error:
                report("connect", False, started, describe(error))
                os._exit(0)  # a half-open SDK client may never close
            for name, step, limit_s in self.steps():
                await self.run_step(name, step, limit_s)
            started = time.perf_counter()
            try:
                await stack.aclose()
                report("close", True, started)
            except BaseException as error:
                report("close", False, started, f"{type(error).__name__}: {error}")

    async def run_step(self, name, step, limit_s):
        started = time.perf_counter()
        try:
            report(name, True, started, await asyncio.wait_for(step(), limit_s) or "")
        except Skip as reason:
            report(name, None, started, reason)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            report(name, False, started, describe(error))

    def steps(self):
        steps = {
            "list-tools": self.list_tools, "echo": self.echo, "unicode": self.unicode, "add": self.add,
            "fail": self.fail, "unknown-tool": self.unknown_tool, "unknown-method": self.unknown_method,
            "progress": self.progress, "logging": self.logging, "resources": self.resources,
            "template": self.template, "prompts": self.prompts, "complete": self.complete, "elicit": self.elicit,
            "sample": self.sample, "roots": self.roots, "sub-updated": self.sub_updated,
            "tools-changed": self.tools_changed, "idle-stream": self.idle_stream, "cancel": self.cancel,
            "big-down": self.big_down, "big-up": self.big_up, "parallel50": self.parallel50,
            "ping-or-discover": self.ping_or_discover,
        }
        return [(name, step, 30 + IDLE_S if name == "idle-stream" else STEP_S) for name, step in steps.items()]

    def callbacks(self, types):
        async def on_sample(context, params):
            answer = types.TextContent(type="text", text="echo:" + params.messages[0].content.text)
            return types.CreateMessageResult(role="assistant", model="m", content=answer)

        async def on_elicit(context, params):
            return types.ElicitResult(action="accept", content={"name": "Ada"})

        async def on_roots(context):
            return types.ListRootsResult(roots=[types.Root(uri="file:///srv/data", name="data")])

        async def on_log(params):
            self.logs.append(params)

        async def on_message(message):
            self.notifications.append(message)

        return {"sampling_callback": on_sample, "elicitation_callback": on_elicit, "list_roots_callback": on_roots,
                "logging_callback": on_log, "message_handler": on_message}

    async def listed(self, kind, key="name"):
        """The names on all pages of a list."""
        names, cursor = [], None
        while True:
            page = await getattr(self.client, f"list_{kind}")(cursor=cursor)
            names += [str(getattr(item, key)) for item in getattr(page, kind)]
            cursor = getattr(page, "next_cursor", None) or getattr(page, "nextCursor", None)
            if not cursor:
                return names

    async def list_tools(self):
        names = await self.listed("tools")
        assert {PREFIX + name for name in ("echo", "add", "slow", "wait")} <= set(names), names
        return f"{len(names)} tools"

    async def echo(self):
        assert text(await self.call("echo", {"text": "hi"})) == "hi"

    async def unicode(self):
        sent = "zażółć 日本語 🙂 \u2028 \\ \" \x7f"
        assert text(await self.call("echo", {"text": sent})) == sent

    async def add(self):
        result = await self.call("add", {"a": 2, "b": 40.5})
        assert "42.5" in text(result), result

    async def fail(self):
        result = await self.call("fail", {})
        assert is_error(result) is True, result

    async def unknown_tool(self):
        try:
            result = await self.call("no_such_tool", {})
        except Exception as error:
            return f"error {getattr(getattr(error, 'error', None), 'code', '?')}"
        assert is_error(result) is True, result
        return "isError"

    async def progress(self):
        seen = []

        async def on_progress(progress, total, message):
            seen.append((time.perf_counter(), progress))

        result = await self.call("slow", {"steps": 5, "delay_ms": 200}, progress=on_progress)
        ended = time.perf_counter()
        assert "slow done 5" in text(result)
        assert [progress for _, progress in seen] == [1, 2, 3, 4, 5], seen
        early_s = ended - seen[0][0]
        assert early_s > 0.5, f"progress arrived only {early_s * 1000:.0f} ms before the result: buffered?"
        return f"first event {early_s * 1000:.0f} ms before the result"

    async def logging(self):
        self.logs.clear()
        if self.era == "legacy":
            await self.client.set_logging_level("debug")
        await self.call("logs", {}, log=True)
        await asyncio.sleep(0.3)
        assert len(self.logs) >= 2, self.logs

    async def resources(self):
        uris = await self.listed("resources", "uri")
        assert f"{SCHEME}://static" in uris, uris
        assert (await self.read(f"{SCHEME}://static")).contents[0].text == "static text"

    async def template(self):
        assert (await self.read(f"{SCHEME}://item/abc")).contents[0].text == "item abc"

    async def prompts(self):
        names = await self.listed("prompts")
        assert PREFIX + "greet" in names, names
        result = await self.client.get_prompt(PREFIX + "greet", {"name": "Bo"})
        assert "Bo" in result.messages[0].content.text

    async def complete(self):
        reference = self.types.PromptReference(type="ref/prompt", name=PREFIX + "greet")
        result = await self.client.complete(reference, {"name": "name", "value": "al"})
        assert result.completion.values == ["alice", "albert"], result

    async def elicit(self):
        assert text(await self.call("ask_name", {})) == "hello Ada"

    async def sample(self):
        assert text(await self.call("ask_llm", {"prompt": "2+2?"})) == "llm said echo:2+2?"

    async def roots(self):
        assert text(await self.call("ask_roots", {})) == "roots file:///srv/data"

    async def sub_updated(self):
        await self.subscribe(WATCHED)
        self.notifications.clear()
        return await wait_for_event(self.notifications, is_notification("ResourceUpdated"), self.touch)

    async def tools_changed(self, idle_s=0.0):
        self.notifications.clear()
        await asyncio.sleep(idle_s)
        return await wait_for_event(self.notifications, is_notification("ToolListChanged"), self.add_tool)

    async def idle_stream(self):
        return f"{IDLE_S}s idle, " + await self.tools_changed(IDLE_S)

    async def touch(self):
        await self.call("touch", {})

    async def add_tool(self):
        await self.call("add_tool", {})

    async def cancel(self):
        key = f"k{time.time_ns()}"
        await self.call_and_cancel("wait", {"key": key, "ms": 20000})
        for _ in range(30):
            state = text(await self.call("wait_state", {"key": key}))
            if state == "cancelled":
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"the server still says {state!r}")

    async def big_down(self):
        assert len(text(await self.call("big", {"size": 1_000_000}))) == 1_000_000

    async def big_up(self):
        result = await self.call("length", {"text": "y" * 1_000_000})
        assert "1000000" in text(result), text(result)[:50]

    async def parallel50(self):
        def one(number):
            if number % 2:
                return self.call("echo", {"text": f"n{number}"})
            return self.call("slow", {"steps": 2, "delay_ms": 50})

        for number, result in enumerate(await asyncio.gather(*map(one, range(50)))):
            wanted = f"n{number}" if number % 2 else "slow done 2"
            assert text(result) == wanted, (number, text(result))

    async def ping_or_discover(self):
        await self.client.send_ping()
        return "ping"


class Python1(Driver):
    """mcp 1.30: legacy only."""

    async def connect(self, stack):
        import mcp.types as types
        from mcp import ClientSession
        self.types = types
        read, write, session_id = await self.transport(stack)
        self.client = await stack.enter_async_context(ClientSession(read, write, **self.callbacks(types)))
        async with asyncio.timeout(CONNECT_S):
            opened = await self.client.initialize()
        return True, f"{opened.protocolVersion} session {'yes' if session_id() else 'no'}"

    async def transport(self, stack):
        if self.mode == "sse":
            from mcp.client.sse import sse_client
            read, write = await stack.enter_async_context(sse_client(self.url))
            return read, write, lambda: None
        from mcp.client.streamable_http import streamable_http_client
        return await stack.enter_async_context(streamable_http_client(self.url))

    async def call(self, name, arguments, progress=None, log=False):
        return await self.client.call_tool(PREFIX + name, arguments, progress_callback=progress)

    async def call_and_cancel(self, name, arguments):
        # this SDK does not cancel by itself; the next request gets this id
        request_id = self.client._request_id
        call = asyncio.create_task(self.call(name, arguments))
        await asyncio.sleep(0.7)
        params = self.types.CancelledNotificationParams(requestId=request_id, reason="test")
        cancelled = self.types.CancelledNotification(params=params)
        await self.client.send_notification(self.types.ClientNotification(cancelled))
        await asyncio.sleep(0.2)
        call.cancel()

    async def read(self, uri):
        from pydantic import AnyUrl
        return await self.client.read_resource(AnyUrl(uri))

    async def subscribe(self, uri):
        from pydantic import AnyUrl
        await self.client.subscribe_resource(AnyUrl(uri))

    async def unknown_method(self):
        raise Skip("SDK v1 has no raw request")


class Python2(Driver):
    """mcp 2.3: both eras."""

    async def connect(self, stack):
        import mcp.types as types
        from mcp import Client
        warnings.simplefilter("ignore")
        self.types = types
        client = Client(self.url, mode=self.mode, read_timeout_seconds=STEP_S - 1, **self.callbacks(types))
        async with asyncio.timeout(CONNECT_S):  # not wait_for: the SDK's cancel scopes must stay in this task
            self.client = await stack.enter_async_context(client)
        self.era = "modern" if self.client.protocol_version >= "2026" else "legacy"
        wanted = {"legacy": "legacy", "2026-07-28": "modern"}.get(self.mode, self.era)
        return self.era == wanted, self.client.protocol_version

    async def call(self, name, arguments, progress=None, log=False):
        meta = {"io.modelcontextprotocol/logLevel": "debug"} if log and self.era == "modern" else None
        return await self.client.call_tool(PREFIX + name, arguments, progress_callback=progress, meta=meta)

    async def call_and_cancel(self, name, arguments):
        import anyio
        with anyio.move_on_after(0.7):
            await self.call(name, arguments)
            raise AssertionError("was not cancelled")

    async def read(self, uri):
        return await self.client.read_resource(uri)

    async def subscribe(self, uri):
        await self.client.subscribe_resource(uri)

    async def unknown_method(self):
        types = self.types

        class Unknown(types.Request[types.RequestParams, str]):
            method: str = "x/no_such_method"
            params: types.RequestParams | None = None

        try:
            await self.client.session.send_request(Unknown(params=types.RequestParams()), types.EmptyResult)
        except Exception as error:
            code = getattr(getattr(error, "error", None), "code", None)
            assert code == -32601, f"{type(error).__name__} {error}"
            return f"code {code}"
        raise AssertionError("no error")

    @asynccontextmanager
    async def listening(self, **filters):
        async with self.client.listen(**filters) as subscription:
            events = []

            async def collect():
                async for event in subscription:
                    events.append(event)

            reader = asyncio.create_task(collect())
            try:
                yield subscription, events
            finally:
                reader.cancel()

    async def sub_updated(self):
        if self.era == "legacy":
            return await super().sub_updated()
        async with self.listening(resource_subscriptions=[WATCHED]) as (subscription, events):
            after = await wait_for_event(events, is_notification("Updated"), self.touch)
            return f"honored {subscription.honored.resource_subscriptions}; {after}"

    async def tools_changed(self, idle_s=0.0):
        if self.era == "legacy":
            return await super().tools_changed(idle_s)
        async with self.listening(tools_list_changed=True) as (_, events):
            await asyncio.sleep(idle_s)
            return await wait_for_event(events, is_notification("Tools"), self.add_tool)

    async def ping_or_discover(self):
        if self.era == "legacy":
            return await super().ping_or_discover()
        found = await self.client.session.send_discover("2026-07-28")
        assert "2026-07-28" in found["supportedVersions"], found
        return "discover"


if __name__ == "__main__":
    generation, mode, url = sys.argv[1:4]
    asyncio.run({"1": Python1, "2": Python2}[generation](mode, url).run())
