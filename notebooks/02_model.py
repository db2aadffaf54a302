# Databricks notebook source
# MAGIC %md
# MAGIC # 02 The user model
# MAGIC The ALURE model is trained on the sequences of an `as_of`, registered in MLflow, and embeds the table inside Spark. This notebook
# MAGIC trains it, looks at what it learnt, and asks whose neighbours are near.

# COMMAND ----------

import os

import numpy as np
from pyspark.sql import functions as F

from alure_spark.config import load
from alure_spark.inference.export import UserEmbedder
from alure_spark.inference.registered import champion
from alure_spark.lake import latest_rows
from alure_spark.running import open_context, parameter, run_jobs
from jobs.embed_users import explain_memory
from jobs.pipeline import stages

dbutils = globals().get("dbutils")
root = parameter("root", "./lake_notebook", dbutils)
config = load(parameter("conf", "conf/test.yml", dbutils), [f"lake.root={root}", *os.environ.get("ALURE_SET", "").split()])
context = open_context(config)

# COMMAND ----------

# MAGIC %md **Training.** Curves, calibration and the gate's verdict are in the MLflow run; the registered model's alias `champion` moved if it passed.

# COMMAND ----------

run_jobs(context, stages("ingest_events", "train_model"), "notebook-train")
artifact = champion(context.config, context.tracker)
print(artifact.model_id, {name: value for name, value in artifact.facts["validation"].items() if value is not None})

# COMMAND ----------

# MAGIC %md **What the pooling learnt**: the log weight of an event by its age, of a repeated item, and how far the states move each view.

# COMMAND ----------

encoder, vocabulary = artifact.encoder()
print("age", np.round(encoder.age.detach().numpy(), 3))
print("repeated", float(encoder.repeated), "idf power", float(encoder.idf_power), "residual", encoder.residual_share.detach().numpy())

# COMMAND ----------

# MAGIC %md **Embedding the table.** Each worker loads the user sub-graph once; this is what it holds, and the rows that it wrote.

# COMMAND ----------

print(explain_memory(context))
run_jobs(context, stages("embed_users", "embed_users"), "notebook-embed")
context.lake.read("user_embeddings").select("user_id", "country", "model_id", F.slice("embedding", 1, 4).alias("first numbers")).show(5)

# COMMAND ----------

# MAGIC %md **The same in plain Python**, for a few users.

# COMMAND ----------

few = latest_rows(context.lake.read("user_sequences"), config.time.as_of_ms).orderBy("user_id").limit(5).toArrow().combine_chunks()
vectors = UserEmbedder(artifact, config.inference).embed_rows(few.to_batches()[0], np.full(few.num_rows, config.time.as_of_ms))
print(np.round(vectors @ vectors.T, 3))
