"""Prints the numbers that tests/core/random/test_random.c expects. Needs numpy."""
import hashlib
import random

import numpy


def digest(items):
    return hashlib.sha256(numpy.array(items, dtype="<i8").tobytes()).hexdigest()


print("getrandbits(32), seed 42:", random.Random(42).getrandbits(32))
r = random.Random(1 << 40 | 7)
print("seed 2^40 + 7, getrandbits(32), randrange(2^40):", r.getrandbits(32), r.randrange(1 << 40))
r = random.Random(0)
print("seed 0, random():", *(r.random().hex() for _ in range(3)))
items = list(range(10))
random.Random(42).shuffle(items)
print("shuffle of 10, seed 42:", items)
for seed, n in ((42, 10000), (0, 1025)):
    items = list(range(n))
    r = random.Random(seed)
    for _ in range(3):
        r.shuffle(items)
    print("three shuffles of", n, "seed", seed, digest(items), r.getrandbits(32))

r = random.Random(42)
for block in range(4):
    order = list(range(64))  # 8 batches of 8 are exactly one pass
    r.shuffle(order)
    print("first minibatch of 8 of 64, seed 42, block", block, order[:8])

r = random.Random(7)
for block in range(2):
    order, at, seen = list(range(20)), 0, []
    r.shuffle(order)
    for _ in range(9):
        if at + 8 > 20:
            r.shuffle(order)
            at = 0
        seen.append(order[at:at + 8])
        at += 8
    print("9 minibatches of 8 of 20, seed 7, block", block, digest(sum(seen, [])), seen[2])

for seed, n in ((42, 10000), (0, 1), (0, 2), (1, 64), (4294967295, 4097), (1 << 40 | 7, 300)):
    p = numpy.random.default_rng(seed).permutation(n)
    print("permutation", seed, n, list(map(int, p[:8])), digest(p))
