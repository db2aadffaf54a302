# Databricks notebook source
# MAGIC %md
# MAGIC # 03 The ranking model
# MAGIC Candidates are some hundred per user; the ranking model says how likely each is to get a response. This notebook trains it on the
# MAGIC labelled impressions, ranks the candidates, and looks at what the model reads and which dimensions its tables use.

# COMMAND ----------

import os

from pyspark.sql import functions as F

from alure_spark.analysis.embedding_spectrum import information_abundance
from alure_spark.config import load
from alure_spark.inference.registered import ranking_champion
from alure_spark.running import open_context, parameter, run_jobs
from jobs.pipeline import stages

dbutils = globals().get("dbutils")
root = parameter("root", "./lake_notebook", dbutils)
config = load(parameter("conf", "conf/test.yml", dbutils), [f"lake.root={root}", *os.environ.get("ALURE_SET", "").split()])
context = open_context(config)

# COMMAND ----------

# MAGIC %md **The fields**: what is read of an impression, each as it was known before it.

# COMMAND ----------

for name, field in config.ranking.fields.items():
    print(f"{name:16} {field.reads:32} {field.encoding}")

# COMMAND ----------

# MAGIC %md **Training and scores.** Curves, calibration and the gate's verdict are in the MLflow run.

# COMMAND ----------

run_jobs(context, stages("train_ranking", "score_impressions", ranked=True), "notebook-ranking")
artifact = ranking_champion(context.config, context.tracker)
network, vocabulary = artifact.network()
print(artifact.model_id, network.parameter_counts())

# COMMAND ----------

# MAGIC %md **Which dimensions do the tables use?** Information abundance of each field's rows: 1 is a line, the table's width is all directions alike.

# COMMAND ----------

for table, weights in network.tables.items():
    for place, name in enumerate(artifact.spec.coded):
        begin = network.lookup.begins[place]
        rows = weights.weight.detach()[begin : begin + network.lookup.rows[place]].numpy()
        print(f"{table:8} {name:16} {information_abundance(rows):5.2f} of {min(rows.shape)}")

# COMMAND ----------

# MAGIC %md **The best candidates of a few users**, with the probabilities behind the score.

# COMMAND ----------

scores = context.lake.read("ranking_scores")
scores.select("user_id", *(F.slice(name, 1, 3).alias(name) for name in ("ad_id", "score", "p_click"))).orderBy("user_id").show(5, truncate=False)
