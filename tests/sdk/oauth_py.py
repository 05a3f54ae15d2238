"""oauth_py.py URL - a client of the Python SDK v2 that knows nothing but a URL, and the id and secret `es` / `secret`.

It finds the authorization server by the challenge and the metadata, and calls a tool. Exit 0: the tool answered.
"""
import asyncio
import sys
import warnings

import httpx2
from mcp import ClientSession
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.streamable_http import streamable_http_client


class Memory:
    """Keeps tokens and the client's registration for as long as the process runs."""

    def __init__(self):
        self.tokens = None
        self.client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client):
        self.client = client


async def said(response):
    print(response.request.method, response.request.url, response.status_code)


async def main(url):
    # Without an issuer the client takes whom the server names: that is what is shown here.
    warnings.simplefilter("ignore")
    auth = ClientCredentialsOAuthProvider(url, Memory(), "es", "secret")
    async with httpx2.AsyncClient(auth=auth, event_hooks={"response": [said]}) as http:
        async with streamable_http_client(url, http_client=http) as streams:
            async with ClientSession(streams[0], streams[1]) as session:
                await session.initialize()
                tools = (await session.list_tools()).tools
                result = await session.call_tool("echo", {"text": "found it"})
    assert "found it" in result.content[0].text, result
    print(f"{len(tools)} tools, echo answered")


asyncio.run(main(sys.argv[1]))
