"""Decides with OPA itself: one policy on the first line of the input, one question on each further one.

The first line is {"modules": {path: text}, "data": {...}, "rule": "mcp.authz.decision"}. Each answer
is one line: {"value": ...}, {"undefined": true} or {"error": "..."}.
"""

import json
import sys

from opa_bindings import OpaEngine, OpaError, OpaUndefinedError


def answer(engine, rule, question):
    try:
        return {"value": engine.eval_document(rule, question)}
    except OpaUndefinedError:
        return {"undefined": True}
    except OpaError as error:
        return {"error": str(error)}


def main():
    policy = json.loads(sys.stdin.readline())
    with OpaEngine() as engine:
        for path, text in policy["modules"].items():
            engine.add_policy(path, text)
        engine.add_data(policy["data"])
        for line in sys.stdin:
            print(json.dumps(answer(engine, policy["rule"], json.loads(line))), flush=True)


main()
