# Databricks notebook source
# MAGIC %md
# MAGIC # 00 The world
# MAGIC Before trusting a result on your data, see it found where the truth is known. This notebook looks at the synthetic world:
# MAGIC who lives there, what was planted, and how often it shows in the log. Nothing here is read by the pipeline.

# COMMAND ----------

from pyspark.sql import functions as F

from alure_spark.config import build, load
from alure_spark.session import get_session
from alure_spark.sources.synthetic import truth, world
from alure_spark.sources.synthetic.options import WorldOptions
from alure_spark.running import parameter

config = load(parameter("conf", "conf/test.yml", globals().get("dbutils")))
spark = get_session(config.spark)
options = build(WorldOptions, config.source.options, "source.options")
events, ads, follows = world.canonical(spark, options)
events = events.persist()

# COMMAND ----------

# MAGIC %md The streams: how many events each has, from how many users.

# COMMAND ----------

events.groupBy("source").agg(F.count("*").alias("events"), F.countDistinct("user_id").alias("users")).orderBy("source").show()

# COMMAND ----------

# MAGIC %md Countries are very unequal; communities, which the user graph must find again, are not tied to them.

# COMMAND ----------

people = truth.truth_users(spark, options)
people.groupBy("country").agg(F.count("*").alias("users"), F.countDistinct("community").alias("communities")).orderBy(F.desc("users")).show()

# COMMAND ----------

# MAGIC %md The planted law of dwell time: conversions per ad impression by quintile of dwell, for active users (a slope) and passive ones (none).

# COMMAND ----------

shown = events.where("source = 'ad_impression'").join(people.select("user_id", "active"), "user_id")
converted = events.where("source = 'conversion'").select("impression_id").distinct().withColumn("converted", F.lit(1))
borders = shown.approxQuantile("dwell_ms", [0.2, 0.4, 0.6, 0.8], 0.001)
quintile = sum(((F.col("dwell_ms") > border).cast("int") for border in borders), start=F.lit(1))
rates = shown.join(converted, "impression_id", "left").groupBy("active", quintile.alias("dwell_quintile"))
rates.agg(F.count("*").alias("impressions"), F.avg(F.coalesce("converted", F.lit(0))).alias("conversion_rate")).orderBy("active", "dwell_quintile").show()

# COMMAND ----------

# MAGIC %md The truth answers for any user, ad and time, so that ads that were never shown can be valued.

# COMMAND ----------

pairs = people.limit(3).crossJoin(truth.truth_ads(spark, options).select("ad_id").limit(2)).select("user_id", "ad_id", F.timestamp_millis(F.lit(options.start_ms)).alias("time"))
truth.respond(pairs, spark, options).show()
events.unpersist()
