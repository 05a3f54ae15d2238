"""Reads messages as servers written in Python do, one a line, and says what stands at each place.

The argument names the reader: `last` takes the last of equal keys, as `json` does; `first` takes the
first; `fold` ignores the case of keys and takes the last, as .NET's web defaults do.
"""

import json
import sys

PLACES = [
    ("method",),
    ("params", "name"),
    ("params", "uri"),
    ("params", "ref", "type"),
    ("params", "ref", "name"),
    ("params", "ref", "uri"),
    ("params", "arguments", "amount"),
    ("params", "arguments", "account", "id"),
    ("params", "arguments", "filter", "min"),
    ("params", "arguments", "filter", "max"),
    ("params", "arguments", "region"),
    ("params", "inputResponses", "q", "action"),
]


def first(pairs):
    return dict(reversed(pairs))


def fold(pairs):
    return {key.upper(): value for key, value in pairs}


HOOKS = {"last": dict, "first": first, "fold": fold}


def at(message, place, reader):
    for key in place:
        if not isinstance(message, dict):
            return None
        message = message.get(key.upper() if reader == "fold" else key)
    return message


def main():
    reader = sys.argv[1]
    for number, line in enumerate(sys.stdin, 1):
        try:
            message = json.loads(line, object_pairs_hook=HOOKS[reader])
            answer = json.dumps([at(message, place, reader) for place in PLACES], allow_nan=False)
        except ValueError:
            answer = "null"
        # Who asks waits for the answers to as many.
        print(answer, flush=number % 1000 == 0)


main()
