"""One run by the API, with the figures that `loadgen run` prints: python docs/examples/one_run.py URL FOLDER"""

import sys

import loadgen

url, folder = sys.argv[1:]
load = loadgen.Load(concurrency=2, input_tokens=16, output_tokens=4, requests=8, seed=7)
result = loadgen.run(url, load, out=folder)
if result.summary is None:
    sys.exit(f"failed: {result.failure}")
print(f"E2E p50 {result.summary.e2e_s.p50:.6f} s, {result.summary.output_tokens_per_s:.3f} tok/s")
for caveat in result.caveats:
    print(f"doubt: {caveat.kind}: {caveat.message}")
requests = loadgen.read(folder).requests
print(f"slowest: {max(filter(None, requests['e2e_s'].to_pylist())):.6f} s of {requests.num_rows} requests")
