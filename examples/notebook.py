# SPDX-License-Identifier: Apache-2.0
"""Records as a pandas table, for a notebook: `pip install "inferfarm[notebook]"`, then `python examples/notebook.py`.

It reads the farm's store, as `farm results` does (FARM_STORE names another); nothing is measured.
"""

from farm import Farm

farm = Farm()
records = farm.records()  # or farm.records("quickstart"): the sweeps named
for bad in records.bad:
    print("cannot be used:", bad.path, bad.problem)

table = records.to_pandas()  # one row per run, the columns of `farm results --columns all`
ok = table[(table.outcome == "ok") & (table.point == "latency") & (table.validity == "valid")]

# The median latency of each workflow and precision, a column for each batch size.
print(ok.pivot_table(index=["model", "workflow", "precision"], columns="batch_size", values="latency_ms").round(2))

# Speed-up over pytorch fp32 on the same device, at the same batch size.
where = ["model", "device_id", "batch_size"]
base = ok[(ok.workflow == "pytorch") & (ok.precision == "fp32")].groupby(where).latency_ms.median()
speed_up = ok.join(base.rename("base_ms"), on=where).eval("base_ms / latency_ms")
print(ok.assign(speed_up=speed_up).groupby(["workflow", "precision"]).speed_up.describe()[["count", "50%"]].round(2))

# A million records: ask the index for what is needed, and leave the rest where it is.
fast = farm.results(where="outcome = 'ok' AND latency_ms < 10")
print(fast.select(["model", "workflow", "latency_ms"]).to_pandas().nsmallest(3, "latency_ms"))

# Arrow, for polars, DuckDB and others.
print(records.to_arrow().schema.field("latency_ms"))
