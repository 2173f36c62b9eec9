import os

# Tests that run side by side share the cores out, and so do the programs that they start: set before torch is imported.
side_by_side = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if side_by_side > 1:
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // side_by_side))
