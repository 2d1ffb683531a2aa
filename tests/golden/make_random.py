"""Prints the numbers that tests/core/random/test_random.c expects. Needs numpy."""
import hashlib
import random

import numpy

print(random.Random(42).getrandbits(32))
r = random.Random(1 << 40 | 7)
print(r.getrandbits(32), r.randrange(1 << 40))
items = list(range(10))
random.Random(42).shuffle(items)
print(items)
p = numpy.random.default_rng(42).permutation(10000)
print(p[:8], hashlib.sha256(p.astype("<i8").tobytes()).hexdigest())
