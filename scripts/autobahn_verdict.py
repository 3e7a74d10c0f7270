"""Reads the index of an Autobahn report and fails unless every case passed. Of a case that a further
report has too, only the last one counts. With --failed it only says, as JSON, which cases failed.

"NON-STRICT" is Autobahn's word for a correct end reached in another order than the suite prefers,
and "INFORMATIONAL" for a case without a right answer; both pass, and are counted.
"""

import collections
import json
import sys

MINIMUM_CASES = 301
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}


def read(paths: list[str]) -> dict:
    cases = {}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            (report,) = json.load(file).values()
        cases.update(report)
    return cases


def main(arguments: list[str]) -> int:
    cases = read([argument for argument in arguments if argument != "--failed"])
    failed = {
        name: case
        for name, case in cases.items()
        if case["behavior"] not in PASSED or case["behaviorClose"] not in PASSED
    }
    if "--failed" in arguments:
        print(json.dumps(sorted(failed)))
        return 0
    for name, case in sorted(failed.items()):
        print(f"autobahn: case {name}: {case['behavior']}, close {case['behaviorClose']}")
    counts = collections.Counter(case["behavior"] for case in cases.values())
    print("autobahn:", ", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
    if len(cases) < MINIMUM_CASES:
        print(f"autobahn: only {len(cases)} of {MINIMUM_CASES} cases ran")
        return 1
    print(f"autobahn: {len(cases) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
