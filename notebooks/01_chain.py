# Databricks notebook source
# MAGIC %md
# MAGIC # 01 The chain
# MAGIC Events become user sequences, user embeddings, a user graph and ad candidates, and the held-out future says how good they
# MAGIC are. Each stage is one job; this notebook runs them one by one and looks at what they published.

# COMMAND ----------

import os

from pyspark.sql import functions as F

from alure_spark.config import load
from alure_spark.retrieval.candidates import explode_candidates
from alure_spark.running import open_context, parameter, run_jobs
from jobs.pipeline import stages

dbutils = globals().get("dbutils")
root = parameter("root", "./lake_notebook", dbutils)
config = load(parameter("conf", "conf/test.yml", dbutils), [f"lake.root={root}", *os.environ.get("ALURE_SET", "").split()])
context = open_context(config)

# COMMAND ----------

# MAGIC %md **Events and sequences.** Refused rows are in `quarantine` with a reason. A user's sequence holds what was known before `as_of`.

# COMMAND ----------

run_jobs(context, stages("ingest_events", "build_sequences"), "notebook-sequences")
context.lake.read("quarantine").groupBy("source", "reason").count().show(truncate=False)
context.lake.read("user_sequences").select("user_id", "country", F.size(f"{config.item_sources[0]}__item_id").alias("events")).show(5)

# COMMAND ----------

# MAGIC %md **Embeddings and graph.** The user model is trained and embeds every user (02 looks inside); near users become neighbours.

# COMMAND ----------

run_jobs(context, stages("train_model", "build_graph"), "notebook-graph")
context.lake.read("user_edges").orderBy("src_user_id", "rank").show(5)

# COMMAND ----------

# MAGIC %md **Candidates and evaluation.** Ads that similar users engaged with, evaluated by what happened after `as_of`.

# COMMAND ----------

run_jobs(context, stages("retrieve_ads", "evaluate"), "notebook-evaluate")
explode_candidates(context.lake.read("ad_candidates")).orderBy("user_id", "rank").show(5)
evaluated = context.lake.read("evaluation_users").groupBy("task", "policy")
evaluated.agg(F.count("*").alias("users"), F.avg("recall").alias("recall"), F.avg("ndcg").alias("ndcg")).orderBy("task", "policy").show()
