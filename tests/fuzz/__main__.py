"""``python -m tests.fuzz``: a longer campaign than the one of the test suite."""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.campaign import Case, Judge, Report, drawn, kept_cases, run, smaller, write_cases
from fuzz.pool import pool


def main() -> int:
    """Run cases, print a table of classes, store the failing ones; return 1 if there are any."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1000, help="number of random cases")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers")
    parser.add_argument("--only", help="part of the name of the seed inputs")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument(
        "--replay", type=Path, help="run the cases of this file in place of random ones"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("fuzz-failures.json"), help="file for the failing cases"
    )
    options = parser.parse_args()
    if options.replay:
        cases = kept_cases(options.replay)
    else:
        numbers = range(options.first, options.first + options.cases)
        cases = [drawn(number, options.seed, options.only) for number in numbers]
    report, begin = Report(), time.monotonic()
    with pool(options.workers) as workers:
        for done, (case, verdict) in enumerate(run(cases, workers), 1):
            report.add(case, verdict)
            if options.replay:
                print(f"{case.seed}: {verdict.kind}: {verdict.detail.strip()[-2000:]}")
            elif done % 200 == 0:
                failing = sum(map(len, report.failures.values()))
                print(
                    f"{done} cases, {failing} failing, {time.monotonic() - begin:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
        kept: list[Case] = []
        judged = Judge(workers, patient=False)
        for signature, found in sorted(report.failures.items()):
            print(f"\n{len(found)} x {signature}")
            case, verdict = min(
                found, key=lambda one: sum(len(edit.put) + edit.cut for edit in one[0].edits)
            )
            if not options.replay:
                case = smaller(case, verdict, judged)
            print(f"  {case.seed}: {[edit.as_json() for edit in case.edits]}"[:300])
            lines = verdict.detail.strip().splitlines()
            shown = lines[-12:] if verdict.kind == "traceback" else lines[:12]
            print("  " + "\n  ".join(shown)[:1500])
            kept.append(Case(case.seed, case.edits, verdict.signature))
    print(f"\n{report.table()}")
    if kept and not options.replay:
        write_cases(options.out, kept)
        print(
            f"{options.out}: {len(kept)} failing cases, one of each kind; "
            f"--replay {options.out} runs them again"
        )
    return 1 if kept else 0


sys.exit(main())
