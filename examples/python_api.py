# SPDX-License-Identifier: Apache-2.0
"""Measure a sweep from Python and read its records: `python examples/python_api.py`."""

from pathlib import Path

from farm import Farm

farm = Farm(home=Path(".farm/python-api"))
submission = farm.run(Path(__file__).with_name("smoke.yaml"))

for row in farm.results(submission.sweep_id, where="outcome = 'ok'").objects():
    print(f"{row['model']} {row['workflow']} batch {row['batch_size']}: {row['latency_ms']:.2f} ms")

for record in farm.records(submission.sweep_id):
    print(record.run_id, len(farm.samples(record) or []), "raw samples")

print("report:", farm.report(submission.sweep_id, out_dir=Path("report")).html)
