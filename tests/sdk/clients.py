#!/usr/bin/env python3
"""clients.py - real SDK clients against one MCP URL (a server, or a gateway before it); pass or fail per step.

    clients.py URL                                   every client that is installed
    clients.py URL --client py2-modern --client ts1
    clients.py GATEWAY_URL --direct UPSTREAM_URL     run both; exit 0 only if what passes directly passes through
    clients.py URL --prefix crm_ --scheme crm        one member of several behind one URL

Clients:  py1 (mcp 1.30, legacy)   py2-legacy py2-auto py2-modern (mcp 2.3)
          ts1 (@modelcontextprotocol/sdk 1.32, legacy)   ts2-legacy ts2-auto ts2-modern (.../client 2.4)
          py1-sse ts1-sse: the same SDKs on the transport of 2024-11-05, only where --client names them
          ts1-fallback: streamable HTTP, and that transport if it fails, likewise
The server must keep the contract of upstream.py, its names after --prefix and its resources under --scheme. Each step
has its own time limit; a step that cannot apply to a client reports SKIP with the reason. tools.py says which
environment variables name the interpreters.

Steps that the conformance suite does not see: `progress` wants the first progress event well before the result (a
buffering proxy fails it), `cancel` asks the server afterwards whether it saw the cancellation, `sub-updated` and
`tools-changed` want unsolicited events on the GET stream (legacy) or on subscriptions/listen (modern), `idle-stream`
leaves those streams silent for IDLE_S seconds (default 3) first. STEP_S (default 30) is the time limit of one step.

Exit 0: nothing failed and something passed. Exit 1: the rest.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys

import tools

PYTHON_DRIVER = str(tools.HERE / "clients_py.py")
TYPESCRIPT_DRIVER = str(tools.HERE / "clients_ts.mjs")
# A driver prints one JSON line per step: {"step", "ok": true | false | null for SKIP, "ms", "note"}.
CLIENTS = {
    "py1": [tools.PY1, PYTHON_DRIVER, "1", "legacy"],
    "py2-legacy": [tools.PY2, PYTHON_DRIVER, "2", "legacy"],
    "py2-auto": [tools.PY2, PYTHON_DRIVER, "2", "auto"],
    "py2-modern": [tools.PY2, PYTHON_DRIVER, "2", "2026-07-28"],
    "ts1": [tools.NODE, TYPESCRIPT_DRIVER, "1", "legacy"],
    "ts2-legacy": [tools.NODE, TYPESCRIPT_DRIVER, "2", "legacy"],
    "ts2-auto": [tools.NODE, TYPESCRIPT_DRIVER, "2", "auto"],
    "ts2-modern": [tools.NODE, TYPESCRIPT_DRIVER, "2", "2026-07-28"],
}
OLD_CLIENTS = {
    "py1-sse": [tools.PY1, PYTHON_DRIVER, "1", "sse"],
    "ts1-sse": [tools.NODE, TYPESCRIPT_DRIVER, "1", "sse"],
    "ts1-fallback": [tools.NODE, TYPESCRIPT_DRIVER, "1", "fallback"],
}
STEPS = [
    "connect", "list-tools", "echo", "unicode", "add", "fail", "unknown-tool", "unknown-method", "progress", "logging",
    "resources", "template", "prompts", "complete", "elicit", "sample", "roots", "sub-updated", "tools-changed",
    "idle-stream", "cancel", "big-down", "big-up", "parallel50", "ping-or-discover", "close",
]


def command(name):
    return CLIENTS.get(name) or OLD_CLIENTS[name]


def installed(name):
    interpreter, driver, *_ = command(name)
    return shutil.which(interpreter) and (driver == PYTHON_DRIVER or os.path.isdir(tools.MODULES))


def run_client(name, url, args):
    """-> {step: what the driver printed about it}"""
    try:
        names = dict(os.environ, PREFIX=args.prefix, SCHEME=args.scheme)
        run = subprocess.run(command(name) + [url], capture_output=True, text=True, timeout=args.limit, env=names)
        output, errors = run.stdout, run.stderr
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
        output = output if isinstance(output, str) else output.decode(errors="replace")
        errors = "timed out"
    steps = {}
    for line in output.splitlines():
        try:
            report = json.loads(line)
            steps[report["step"]] = report
        except (ValueError, KeyError, TypeError):
            pass  # an SDK's own output
    if not steps:
        note = "driver died: " + errors[-250:].replace("\n", " ")
        steps["connect"] = {"step": "connect", "ok": False, "ms": 0, "note": note}
    return steps


def print_table(results):
    width = max(len(name) for name in results) + 2
    print(f"{'step':<18}" + "".join(f"{name:>{width}}" for name in results))
    for step in STEPS:
        print(f"{step:<18}" + "".join(f"{_word(steps.get(step)):>{width}}" for steps in results.values()))


def _word(report):
    return "-" if report is None else {True: "pass", False: "FAIL", None: "SKIP"}[report["ok"]]


def judge(results, baseline, allowed):
    """-> (passed, skipped, [(client, step, note)]); with a baseline, what fails there too is not demanded"""
    passed, skipped, failures = 0, 0, []
    for name, steps in results.items():
        for step in STEPS:
            report = steps.get(step)
            direct = baseline[name].get(step) if baseline else None
            if report is None and direct is None:
                continue
            ok = report and report["ok"]
            if report is not None and report["ok"] is None:
                skipped += 1
            elif (step in allowed and not ok) or (baseline and not (direct and direct["ok"])):
                skipped += 1
                if ok:
                    print(f"better through the gateway: {name} {step}")
            elif ok:
                passed += 1
            else:
                failures.append((name, step, (report or {}).get("note", "did not run")))
    return passed, skipped, failures


def print_notes(results):
    for name, steps in results.items():
        for report in (steps[step] for step in STEPS if step in steps):
            print(f"  {name:<11}{report['step']:<18}{report['ok']!s:<6}{report['ms']:>9.1f} ms  {report['note']}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--direct", metavar="UPSTREAM_URL")
    parser.add_argument("--client", action="append", choices=[*CLIENTS, *OLD_CLIENTS])
    parser.add_argument("--allow", action="append", default=[], choices=STEPS, metavar="STEP",
                        help="a step that may fail, for a reason that lies with the client (repeatable)")
    parser.add_argument("--prefix", default="", help="what stands before the names of tools and prompts")
    parser.add_argument("--scheme", default="test", help="the scheme of the resources (default test)")
    parser.add_argument("--limit", type=int, default=150, help="seconds for one client's whole run")
    parser.add_argument("--json", metavar="FILE", help="write the whole result there")
    parser.add_argument("-v", action="store_true", help="notes and times too")
    return parser.parse_args()


def main():
    args = arguments()
    names = args.client or [name for name in CLIENTS if installed(name)]
    if not names:
        print("0 passed, 0 failed, 0 skipped: no client is installed")
        return 1
    results = {name: run_client(name, args.url, args) for name in names}
    baseline = {name: run_client(name, args.direct, args) for name in names} if args.direct else None
    print_table(results)
    passed, skipped, failures = judge(results, baseline, args.allow)
    for name, step, note in failures:
        print(f"FAIL {name} {step}: {note}")
    if args.v:
        print_notes(results)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"steps": STEPS, "through": results, "direct": baseline}, file, indent=1)
    print(f"{passed} passed, {len(failures)} failed, {skipped} skipped")
    return 1 if failures or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
