# Databricks notebook source
# MAGIC %md
# MAGIC # 04 What the user model knows, for other models
# MAGIC The user model has representations of users, of ads, and of a user and an ad together. This notebook extracts them for two days, lets
# MAGIC small downstream models read them, and asks what they are worth to each. It goes on from the user model of 01 or 02.

# COMMAND ----------

import os
from dataclasses import replace

from alure_spark.analysis.transfer_report import gain_bars
from alure_spark.clock import DAY_MS, format_time
from alure_spark.config import DownstreamConfig, FieldConfig, TransferConfig, load
from alure_spark.running import open_context, parameter, run_jobs
from jobs import build_sequences, compare_transfer, embed_users, extract_representations, train_ranking

dbutils = globals().get("dbutils")
root = parameter("root", "./lake_notebook", dbutils)
config = load(parameter("conf", "conf/test.yml", dbutils), [f"lake.root={root}", *os.environ.get("ALURE_SET", "").split()])

# COMMAND ----------

# MAGIC %md **The downstream tasks**: clicks in the first two places, and clicks further down. Each gets models of its own. Fields
# MAGIC that read representations stand beside the other fields of the ranking model.

# COMMAND ----------

transfer = TransferConfig(
    layer="hidden",
    downstream={
        "first_places": DownstreamConfig(where="impression__position < 2", tasks=("click",)),
        "later_places": DownstreamConfig(where="impression__position >= 2", tasks=("click",)),
    },
    compare=("ur", "ur_ir", "ur_ir_cr", "nonlinear"),
    compare_seeds=(7,),
)
representations = {
    "taste": FieldConfig("user.embedding", "numbers"),
    "tower": FieldConfig("ad.representation", "numbers", group="ad"),
    "of_user": FieldConfig("user.cross", "numbers"),
    "of_ad": FieldConfig("ad.cross", "numbers", group="ad"),
}
ranking = replace(config.ranking, fields={**config.ranking.fields, **representations})
labels = replace(config.labels, validation_days=0.25)  # an impression reads what was extracted a day before it
config = replace(config, transfer=transfer, ranking=ranking, labels=labels)

# COMMAND ----------

# MAGIC %md **Extract**, for the day of the user model and for the next one, each of what was known before it.

# COMMAND ----------

for day in (0, 1):
    time = replace(config.time, as_of=format_time(config.time.as_of_ms + day * DAY_MS))
    context = open_context(replace(config, time=time))
    run_jobs(context, [build_sequences.JOB, embed_users.JOB, extract_representations.JOB], "notebook-representations")
context.lake.read("cross_representations").groupBy("as_of", "kind").count().orderBy("as_of", "kind").show()

# COMMAND ----------

# MAGIC %md **Train.** The ranking model of the conf reads all of them.

# COMMAND ----------

run_jobs(context, [train_ranking.JOB], "notebook-transferred")

# COMMAND ----------

# MAGIC %md **Compare.** Each variant is trained on the same impressions as the model without representations; table and pictures are in the MLflow
# MAGIC run. So few users and one seed say little, and the job says how large a difference would have to be.

# COMMAND ----------

run_jobs(context, [compare_transfer.JOB], "notebook-compare")
measured = context.tracker.metrics

# COMMAND ----------

display = globals().get("display", print)
for task in transfer.downstream:
    names = {one: f"compare_transfer.{task}.click.{one}" for one in transfer.compare}
    known = {one: name for one, name in names.items() if f"{name}.gain" in measured}
    gains = {one: tuple(measured[f"{name}.{key}"] for key in ("gain", "low", "high")) for one, name in known.items()}
    if gains:
        display(gain_bars(gains, f"{task}, click"))
