#!/usr/bin/env python3
"""Holds every kernel to what ptxas said when it was compiled: no spills, no stack, registers within a budget.

    ptxas_gate.py BUDGET LOG...     (LOG: the .ptxas files that cmake/ptxas_log leaves beside the objects)

A line of BUDGET is `file kernel registers`, with * for all other kernels of all other files. The register file of a
multiprocessor has 65536 of them: 256 threads with 128 registers leave room for two blocks, 64 for four.
"""
import re
import subprocess
import sys


def kernel_name(mangled):
    plain = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout.strip()
    plain = plain.replace("(anonymous namespace)::", "").removeprefix("void ")
    plain = re.sub(r"\((?:anonymous|unnamed)[^)]*\)::|\((\w+)\)", r"\1", plain)
    return re.match(r"\w+", plain).group(0), re.match(r"[^(]*", plain).group(0)


def kernels_of(path):
    """(kernel, its template arguments too, architecture, bytes of stack and spills, registers)"""
    name = arch = None
    stack = 0
    for line in open(path):
        if m := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            name, arch = m.groups()
        elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            stack = sum(map(int, m.groups()))
        elif (m := re.search(r"Used (\d+) registers", line)) and name:
            yield *kernel_name(name), arch, stack, int(m.group(1))
            name = None


def main(budget_path, logs):
    budget = {}
    for line in open(budget_path):
        words = line.split("#")[0].split()
        if words:
            budget[words[0], words[1]] = int(words[2])
    used, failures, archs = set(), 0, set()
    seen = 0
    for log in sorted(logs):
        file = log.rsplit("/", 1)[-1].removesuffix(".o.ptxas")
        for kernel, full, arch, stack, registers in kernels_of(log):
            key = next((k for k in ((file, kernel), (file, "*"), ("*", "*")) if k in budget), None)
            used.add(key)
            archs.add(arch)
            seen += 1
            bad = stack > 0 or registers > budget[key]
            failures += bad
            print(f"{'FAIL' if bad else 'ok  '} {file:22} {full:44} {arch:7} {registers:4} of {budget[key]:3} registers"
                  + (f", {stack} bytes of stack or spills" if stack else ""))
    for key in sorted(set(budget) - used - {("*", "*")}):
        print(f"FAIL the budget has {key[0]} {key[1]}, which does not exist")
        failures += 1
    if seen == 0 or len(archs) < 2:
        print(f"FAIL {seen} kernels for {sorted(archs)}: logs are missing; build rh_kernels_cuda again")
        failures += 1
    print(f"{seen} kernels, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
