#!/usr/bin/env python3
"""through.py - "through the gateway must equal direct", with the official MCP conformance suite.

Runs every server scenario of @modelcontextprotocol/conformance, at each asked spec version, once against the upstream
itself and once through the gateway, and compares them scenario by scenario and check by check.

    through.py --upstream http://localhost:8101/mcp --gateway http://localhost:8201/mcp
    through.py --upstream URL                      only the direct baseline (no comparison)

Exit 0: every scenario (and every check) that passes directly passes through the gateway too.
Exit 1: something passes directly and not through the gateway (or is missing there).
Exit 2: the harness itself could not do its work (suite missing, nothing ran, a server is down ...).

A scenario passes when it has at least one SUCCESS check and no FAILURE check (the suite's own rule; WARNING, INFO and
SKIPPED do not fail it). A scenario that fails directly is never demanded of the gateway, but when the gateway makes it
pass, that is printed as "better". tools.py says which environment variables name node and the suite.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tools

VERSIONS = ["2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"]
# A check may be reported several times; its worst report counts.
RANK = {"FAILURE": 4, "WARNING": 3, "SUCCESS": 2, "SKIPPED": 1, "INFO": 0}


@dataclass
class Outcome:
    """What one scenario did against one URL."""
    ok: bool = False
    passed: int = 0
    failed: int = 0
    checks: dict = field(default_factory=dict)
    why: list = field(default_factory=list)

    def __str__(self):
        return f"{'pass' if self.ok else 'FAIL'} {self.passed:>2}/{self.passed + self.failed:<2}"


@dataclass
class Row:
    """One scenario, directly and through the gateway."""
    scenario: str
    direct: Outcome
    gateway: list
    verdict: str = ""
    lost_checks: list = field(default_factory=list)

    def __str__(self):
        line = f"  {self.scenario:<48} direct {self.direct}"
        return line + (f"  gateway {self.gateway[-1]}  {self.verdict}" if self.gateway else "")


def die(message):
    print(f"through.py: {message}", file=sys.stderr)
    sys.exit(2)


def scenarios_of(args, version):
    """The names of the server scenarios that the suite has for this version."""
    run = subprocess.run([tools.NODE, tools.SUITE, "list", "--server", "--spec-version", version],
                         capture_output=True, text=True, timeout=60)
    if run.returncode:
        die(f"conformance list failed: {run.stderr[-300:]}")
    return re.findall(r"^\s+- (\S+) \[", run.stdout, re.M)


def run_suite(args, url, version, label):
    """-> {scenario: Outcome}"""
    folder = Path(tempfile.mkdtemp(prefix=f"through-{label}-{version}-", dir=args.work))
    log = folder / "log.txt"
    with log.open("w") as file:
        for selection in selections(args, version):
            command = [tools.NODE, tools.SUITE, "server", "--url", url, "-o", str(folder), *selection]
            if args.scenario_timeout:
                command += ["--timeout", str(args.scenario_timeout)]
            try:
                subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, timeout=args.timeout)
            except subprocess.TimeoutExpired:
                print(f"  ! suite run timed out after {args.timeout}s: {url} {' '.join(selection)}", file=sys.stderr)
    outcomes = {scenario_name(path): read_checks(path) for path in sorted(folder.glob("server-*/checks.json"))}
    # A scenario that threw (a dead connection, a timeout) leaves no checks.json: take the suite's own summary line.
    summaries = re.findall(r"^([✓✗]) (\S+): (\d+) passed, (\d+) failed", log.read_text(), re.M)
    for mark, name, passed, failed in summaries:
        why = ["no checks written (scenario threw or timed out)"]
        outcomes.setdefault(name, Outcome(mark == "✓", int(passed), int(failed), why=why))
    if not args.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return outcomes


def selections(args, version):
    """The arguments of each run of the suite."""
    if args.scenario:
        return [["--scenario", name, "--spec-version", version] for name in args.scenario]
    extra = [["--scenario", name] for name in args.extra]  # extensions have no spec version
    return [["--suite", args.suite, "--spec-version", version], *(extra if version == VERSIONS[-1] else [])]


def scenario_name(path):
    return re.sub(r"^server-(.*)-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-\d+Z$", r"\1", path.parent.name)


def read_checks(path):
    try:
        checks = json.loads(path.read_text())
    except ValueError as error:
        checks = [{"id": "unreadable", "status": "FAILURE", "errorMessage": str(error)}]
    outcome = Outcome()
    for check in checks:
        name, status = check["id"], check.get("status", "FAILURE")
        outcome.passed += status == "SUCCESS"
        outcome.failed += status == "FAILURE"
        if RANK.get(status, 4) >= RANK.get(outcome.checks.get(name, "INFO"), 0):
            outcome.checks[name] = status
        if status == "FAILURE":
            outcome.why.append(f"{name}: {(check.get('errorMessage') or '')[:220]}")
    outcome.ok = outcome.failed == 0 and outcome.passed > 0
    return outcome


def compare(row, allowed):
    """Fills in the verdict: same, better, WORSE, allowed or both fail."""
    demanded = [name for name, status in row.direct.checks.items() if status == "SUCCESS"]
    row.lost_checks = sorted({name for outcome in row.gateway for name in demanded
                              if outcome.checks.get(name) != "SUCCESS"})
    through = all(outcome.ok for outcome in row.gateway)
    if row.direct.ok and through and not row.lost_checks:
        row.verdict = "same"
    elif not row.direct.ok and through:
        row.verdict = "better"
    elif row.direct.ok or row.lost_checks:
        row.verdict = "allowed" if allowed else "WORSE"
    else:
        row.verdict = "both fail"


def run_version(args, version):
    """-> [Row], printed on the way"""
    started = time.monotonic()
    direct = run_suite(args, args.upstream, version, "direct")
    between = time.monotonic()
    through = [run_suite(args, args.gateway, version, "gateway") for _ in range(args.repeat)] if args.gateway else []
    ended = time.monotonic()
    names = args.scenario or scenarios_of(args, version) + (args.extra if version == VERSIONS[-1] else [])
    rows = []
    for name in dict.fromkeys([*names, *direct]):
        if name not in direct:  # not part of this selection
            continue
        row = Row(name, direct[name], [outcomes.get(name, Outcome(why=["did not run"])) for outcomes in through])
        if through:
            compare(row, f"{version}:{name}" in args.allow)
        rows.append(row)
    passing = sum(row.direct.ok for row in rows)
    summary = f"\n{version}: {len(rows)} scenarios; direct {passing} pass ({between - started:.1f}s)"
    if through:
        passing = sum(all(outcome.ok for outcome in row.gateway) for row in rows)
        summary += f"; gateway {passing} pass ({ended - between:.1f}s)"
    print(summary)
    for row in rows:
        remarkable = row.verdict not in ("same", "") or (not through and not row.direct.ok)
        if args.all or remarkable:
            print(row)
            for reason in [] if through or row.direct.ok else row.direct.why[:3]:
                print(f"      {reason}")
    return rows


def conclude(args, report):
    """Prints what differs; -> exit status"""
    rows = [(version, row) for version, rows in report.items() for row in rows]
    direct = sum(row.direct.ok for _, row in rows)
    print()
    if direct < args.require:
        die(f"only {direct} scenarios passed directly (--require {args.require}): the upstream is not usable")
    if not args.gateway:
        print(f"direct only: {direct} passed, {len(rows) - direct} failed")
        return 0
    with_verdict = lambda *verdicts: [(version, row) for version, row in rows if row.verdict in verdicts]
    worse = with_verdict("WORSE")
    for version, row in worse:
        lost = ", ".join(row.lost_checks) or "(scenario)"
        print(f"WORSE through the gateway: {version} {row.scenario}; lost checks: {lost}")
        for reason in next((outcome.why for outcome in row.gateway if outcome.why), [])[:4]:
            print(f"      {reason}")
    for version, row in with_verdict("better"):
        print(f"better through the gateway: {version} {row.scenario}")
    skipped = with_verdict("better", "both fail", "allowed")
    print(f"{len(with_verdict('same'))} passed, {len(worse)} failed, {len(skipped)} skipped")
    return 1 if worse else 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--upstream", required=True, help="URL of the MCP endpoint itself")
    option("--gateway", help="URL of the same endpoint through the gateway")
    option("--spec-version", action="append", choices=VERSIONS, help="repeatable; default: all four")
    option("--suite", default="all", help="active | all | draft | pending (default all)")
    option("--scenario", action="append", help="only this scenario (repeatable)")
    option("--extra", action="append", default=[],
           help="further scenarios at 2026-07-28, e.g. tasks-lifecycle (repeatable)")
    option("--allow", action="append", default=[], metavar="VERSION:SCENARIO",
           help="a difference that is meant (e.g. 2026-07-28:dns-rebinding-protection); repeatable")
    option("--repeat", type=int, default=1, help="run the gateway side N times; it must pass every time")
    option("--require", type=int, default=1,
           help="least number of scenarios that must pass directly (guards against an empty run)")
    option("--timeout", type=int, default=300, help="seconds for one run of the suite")
    option("--scenario-timeout", type=int, help="ms for one scenario")
    option("--json", metavar="FILE", help="write the whole result there")
    option("--all", action="store_true", help="print every row, not only a line per version and the differences")
    option("--work", help="folder for the suite's output (default: temporary)")
    option("--keep", action="store_true", help="keep that output")
    return parser.parse_args()


def check_tools():
    if not os.path.exists(tools.SUITE):
        die(f"no conformance suite at {tools.SUITE}")
    try:
        version = subprocess.run([tools.NODE, "--version"], capture_output=True, text=True).stdout.strip()
    except OSError as error:
        die(f"no node: {error}")
    if not re.match(r"v(2[2-9]|[3-9]\d)\.", version):
        die(f"the suite needs node >= 22, {tools.NODE} is {version or 'missing'}")


def main():
    args = arguments()
    check_tools()
    report = {version: run_version(args, version) for version in args.spec_version or VERSIONS}
    if args.json:
        with open(args.json, "w") as file:
            json.dump({version: [asdict(row) for row in rows] for version, rows in report.items()}, file, indent=1)
    return conclude(args, report)


if __name__ == "__main__":
    sys.exit(main())
