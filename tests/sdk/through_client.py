#!/usr/bin/env python3
"""through_client.py - the other half: the suite is the server, a real client is tested, with and without the gateway.

    through_client.py --client 'CMD' --gateway 'GATEWAY --listen 127.0.0.1:{port} --upstream {upstream}'

CMD is a conformance client: it gets the URL as its last argument and MCP_CONFORMANCE_SCENARIO in its environment.
viagw.py starts one gateway, on a free port, for every scenario, and says what may stand in the gateway's command.
The OAuth scenarios (auth/*) are skipped unless --skip says otherwise: they compare the RFC 8707 `resource` with the
URL that the client used, so a gateway that does not rewrite RFC 9728 metadata fails them by design.

Exit 0: every scenario that passes directly passes through the gateway, with as many checks. Exit 1: the rest.
"""
import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile

import tools

VERSIONS = ["2025-06-18", "2025-11-25", "2026-07-28"]


def run_suite(args, gateway, version):
    """-> {scenario: (ok, passed checks, failed checks)}"""
    command = shlex.join([sys.executable, str(tools.HERE / "viagw.py"), gateway, args.client])
    path = os.pathsep.join([os.path.dirname(tools.NODE), os.environ["PATH"]])
    with tempfile.TemporaryDirectory(prefix="through-client-") as folder:
        run = subprocess.run(
            [tools.NODE, tools.SUITE, "client", "--command", command, "--suite", args.suite, "--spec-version", version,
             "-o", folder],
            capture_output=True, text=True, env={**os.environ, "PATH": path}, timeout=args.timeout)
    found = re.findall(r"^([✓✗]) (\S+): (\d+) passed, (\d+) failed", run.stdout, re.M)
    if not found:
        print(f"{version}: the suite ran nothing: {(run.stderr or run.stdout)[-300:]}", file=sys.stderr)
    return {name: (mark == "✓", int(passed), int(failed)) for mark, name, passed, failed in found}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--client", required=True)
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--spec-version", action="append", choices=VERSIONS, help="repeatable; default: all three")
    parser.add_argument("--skip", default="^auth/", help="scenarios that are not demanded (a regular expression)")
    parser.add_argument("--suite", default="all")
    parser.add_argument("--timeout", type=int, default=580, help="seconds for one run of the suite")
    return parser.parse_args()


def main():
    args = arguments()
    passed = failed = skipped = 0
    for version in args.spec_version or VERSIONS:
        direct, through = run_suite(args, "direct", version), run_suite(args, args.gateway, version)
        for scenario, (ok, checks, lost) in direct.items():
            if not ok or re.search(args.skip, scenario):
                skipped += 1
                continue
            gateway_ok, gateway_checks, gateway_lost = through.get(scenario, (False, 0, 0))
            if gateway_ok and gateway_checks >= checks:  # as many checks, not only none that fails
                passed += 1
                continue
            failed += 1
            print(f"WORSE {version} {scenario}: direct {checks}/{checks + lost} "
                  f"gateway {gateway_checks}/{gateway_checks + gateway_lost}")
        passing = lambda outcomes: f"{sum(ok for ok, *_ in outcomes.values())}/{len(outcomes)}"
        print(f"{version}: direct {passing(direct)}, gateway {passing(through)}")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
