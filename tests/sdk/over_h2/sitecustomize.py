"""Loaded before a program (PYTHONPATH), it lets the HTTP clients of the SDKs agree on HTTP/2 in the TLS handshake."""
import importlib


def speak(name):
    try:
        client = importlib.import_module(name).AsyncClient
    except ImportError:
        return
    usual = client.__init__

    def over_h2(self, *args, **settings):
        usual(self, *args, **{**settings, "http2": True})

    client.__init__ = over_h2


for library in ("httpx", "httpx2"):  # of mcp 1 and of mcp 2
    speak(library)
