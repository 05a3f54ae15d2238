"""How the Python servers of this folder listen."""
import asyncio
import errno
import socket
import sys

import uvicorn


def scheme():
    """The scheme of the server's resources: what follows `--scheme`, so that several servers can stand side by side."""
    return sys.argv[sys.argv.index("--scheme") + 1] if "--scheme" in sys.argv else "test"


def serve(app, port):
    """Serves an ASGI app on both loopback addresses and prints `listening on PORT` first; port 0 takes a free one."""
    sockets = [_listening(socket.AF_INET, "127.0.0.1", port)]
    port = sockets[0].getsockname()[1]
    try:
        sockets.append(_listening(socket.AF_INET6, "::1", port))
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise
    print(f"listening on {port}", flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    asyncio.run(server.serve(sockets=sockets))


def _listening(family, host, port):
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(1024)
    return listener
