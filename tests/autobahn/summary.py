"""Summarises Autobahn's index.json: exit code 1 where a case failed or closed uncleanly, or none ran."""
import collections
import json
import sys

GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
cases = json.load(open(sys.argv[1]))["holdfast"]


def place(case):
    return [int(part) for part in case.split(".")]


bad = [case for case, result in cases.items() if not {result["behavior"], result["behaviorClose"]} <= GOOD]
notable = [case for case, result in cases.items() if {result["behavior"], result["behaviorClose"]} != {"OK"}]
for case in sorted(notable, key=place):
    result = cases[case]
    print(f"{case:<8} {result['behavior']:<14} close {result['behaviorClose']}")
counts = collections.Counter(result["behavior"] for result in cases.values())
print(", ".join(f"{count} {behaviour}" for behaviour, count in sorted(counts.items())) + f"; {len(cases)} cases")
sys.exit(1 if bad or not cases else 0)
