#!/usr/bin/env python3
"""viagw.py - puts a gateway between the conformance suite's own server and a real client.

The suite (client mode) runs   viagw.py 'GATEWAY COMMAND' 'CLIENT COMMAND' <the suite's server url>

GATEWAY COMMAND may use {port} (a free port to listen on), {upstream} (scheme://host:port of the suite's server),
{host}, {upport} and {dir} (a scratch folder). The client gets the same path on the gateway's port. The word `direct`
as GATEWAY COMMAND runs the client straight: the baseline, with the same wrapper. Exit status is the client's, or 98
when the gateway does not come up.
"""
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from urllib.parse import urlsplit

STARTUP_S = 15


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def gateway(command, url):
    """Runs the gateway in front of `url`; gives the URL to use instead."""
    upstream = urlsplit(url)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="viagw-") as folder:
        filled = command.format(port=port, upstream=f"{upstream.scheme}://{upstream.netloc}", host=upstream.hostname,
                                upport=upstream.port, dir=folder)
        with open(f"{folder}/gateway.log", "w+") as log:
            process = subprocess.Popen(
                shlex.split(filled), stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                if not listening(process, port):
                    log.seek(0)
                    print("the gateway did not come up: " + log.read()[-500:], file=sys.stderr)
                    sys.exit(98)
                query = f"?{upstream.query}" if upstream.query else ""
                yield f"{upstream.scheme}://localhost:{port}{upstream.path}{query}"
            finally:
                stop(process)


def listening(process, port):
    deadline = time.monotonic() + STARTUP_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return True
        except OSError:
            time.sleep(0.05)
    return False


def stop(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    command, client, url = sys.argv[1:]
    with contextlib.nullcontext(url) if command == "direct" else gateway(command, url) as reachable:
        return subprocess.call([*shlex.split(client), reachable])


if __name__ == "__main__":
    sys.exit(main())
