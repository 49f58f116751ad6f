#!/usr/bin/env python3
"""Reads what ThreadSanitizer has written and fails if a report is left that is not a scope's end.

    scripts/tsan_reports.py FILE

The end of `thread::scope` is ordered by code of the standard library that is not instrumented. So what the thread
that opened the scope does behind it looks like a race with what the threads in it did. Such a report has exactly
two threads, one of which has spawned the other in a scope; it is counted, and let pass.
"""
import re
import sys


def is_scope_end(report):
    accesses = re.findall(r"^  (?:Previous )?(?:atomic )?(?:[Rr]ead|[Ww]rite) of .* by (?:thread )?(T\d+|main thread)", report, re.M)
    if len(accesses) != 2:
        return False
    for child, parent in (accesses, accesses[::-1]):
        made = re.search(rf"^  Thread {child} .* created by (?:thread )?(T\d+|main thread) at:\n((?:    #.*\n)+)", report, re.M)
        if made and made.group(1) == parent and "std::thread::scoped::Scope>::spawn" in made.group(2):
            return True
    return False


def main():
    text = open(sys.argv[1], errors="replace").read()
    reports = re.findall(r"^WARNING: ThreadSanitizer.*?^SUMMARY[^\n]*", text, re.M | re.S)
    left = [r for r in reports if not is_scope_end(r)]
    for report in left:
        print(report, end="\n\n")
    print(f"{len(reports)} reports, {len(reports) - len(left)} of them of a scope's end, {len(left)} left")
    return 1 if left else 0


sys.exit(main())
