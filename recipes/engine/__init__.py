"""The one engine behind all table scripts: data, weights, training, stored runs, report."""

import os

# Read by OpenMP when torch is first imported. Threads that spin while they wait slow a small network down as
# soon as another process wants a core (measured on two cores, one busy: 0.39 s a step spinning, 0.21 s not).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
