"""What standalone retrieval reads from the lake: engagements to learn from, vectors of the users and the ads of today.

All of it is of one user model. A vector that a head learns from was published before the impression; what is searched is of as_of itself.
"""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..clock import NEVER_MS
from ..config import Config, FieldConfig, RankingConfig
from ..errors import DataError
from ..lake import JobRun, as_of_scope, latest_rows, timestamp
from .ranking_fields import ranking_rows
from .ranking_tables import field_tables, newest_models

USER_TABLES = {"user.embedding": "user_embeddings", "user.cross": "cross_representations"}
ADS_OF_MODEL = "item_representations"


def upstream_model(run: JobRun, config: Config) -> str:
    """The user model of the users' and the ads' vectors, as a head names it: MODEL, or MODEL/LAYER where it reads cross representations.

    Raises DataError where a table has no row up to as_of, where the two are of different models, or where as_of has no vectors of ads.
    """
    reads, as_of = config.transfer.retrieval.reads, config.time.as_of_ms
    users = USER_TABLES[reads]
    newest = newest_models(run, (users, ADS_OF_MODEL), as_of, config.transfer.layer)
    today = run.read_if_published(ADS_OF_MODEL)
    if today is None or today.where(as_of_scope(as_of)).isEmpty():
        raise DataError(f"{ADS_OF_MODEL} has no rows of {config.time.as_of}: run jobs/extract_representations.py for this as_of")
    if users not in newest:
        layer = f" of transfer.layer {config.transfer.layer}" if reads == "user.cross" else ""
        raise DataError(f"{users} has no rows{layer} up to {config.time.as_of}, which transfer.retrieval.reads {reads} needs")
    if newest[users] != newest[ADS_OF_MODEL]:
        raise DataError(
            f"standalone retrieval would compare vectors of two user models, {users} of {newest[users]} and {ADS_OF_MODEL} of "
            f"{newest[ADS_OF_MODEL]}: run the job that is behind for this as_of"
        )
    return newest[users] + (f"/{config.transfer.layer}" if reads == "user.cross" else "")


def engaged_rows(run: JobRun, config: Config, upstream: str) -> DataFrame:
    """user_id, ad_id (hash), time_ms, user, ad (vectors): impressions of training_examples of as_of whose label of the task is 1.

    Vectors are the newest of the user model whose as_of and embedding.publish_lag_hours were over before the impression; where one of the
    two had none, the impression is left out. At most max_examples, the newest ones.
    """
    settings, as_of = config.transfer.retrieval, config.time.as_of_ms
    examples = run.read("training_examples").where(as_of_scope(as_of))
    engaged = F.filter(F.arrays_zip("time_ms", "ad_id", settings.task), lambda one: one[settings.task] == 1)
    keys = ["user_id", "as_of", "segment"]
    shown = examples.select(*keys, engaged.alias("_one")).where(F.size("_one") > 0)
    shown = shown.select(*keys, F.col("_one.time_ms").alias("time_ms"), F.col("_one.ad_id").alias("ad_id"))
    fields = {"user": FieldConfig(settings.reads, "numbers"), "ad": FieldConfig("ad.representation", "numbers")}
    tables = field_tables(run, upstream, (USER_TABLES[settings.reads], ADS_OF_MODEL))
    rows = ranking_rows(shown, RankingConfig(fields=fields), tables, config.embedding.publish_lag_ms)
    arrays = F.arrays_zip("time_ms", "ad_id", F.col("impression__user").alias("user"), F.col("impression__ad").alias("ad"))
    flat = rows.select("user_id", F.explode(arrays).alias("_one")).select("user_id", "_one.*").where("user IS NOT NULL AND ad IS NOT NULL")
    return flat.orderBy(F.desc("time_ms"), "user_id", "ad_id").limit(settings.max_examples)


def ads_of_day(run: JobRun, config: Config) -> DataFrame:
    """ad_id (hash), ad (vector), from_ms, to_ms (begin of the first flight, end of the last): the ads with a vector of as_of."""
    flights = run.read("ads").groupBy(F.col("ad_hash").alias("ad_id"))
    to_ms = F.coalesce(F.unix_millis("active_to"), F.lit(NEVER_MS))
    when = flights.agg(F.min(F.unix_millis("active_from")).alias("from_ms"), F.max(to_ms).alias("to_ms"))
    vectors = run.read(ADS_OF_MODEL).where(as_of_scope(config.time.as_of_ms))
    return vectors.select(F.col("ad_hash").alias("ad_id"), F.col("representation").alias("ad")).join(when, "ad_id")


def vectors_of_day(run: JobRun, config: Config, upstream: str) -> tuple[DataFrame, DataFrame]:
    """(user_id, country, vector) of each user with a vector of the user model; (ad_id, vector) of each ad with one of as_of, by raw id.

    Of user embeddings each user's newest, of cross representations those of as_of.
    """
    as_of, (model_id, _, layer) = config.time.as_of_ms, upstream.partition("/")
    if layer:
        mine = run.read("cross_representations").where(as_of_scope(as_of)).where(F.col("kind") == "user")
        mine = mine.where((F.col("model_id") == model_id) & (F.col("layer") == layer))
        countries = latest_rows(run.read("user_sequences").select("user_id", "country", "as_of"), as_of).drop("as_of")
        users = mine.join(countries, "user_id").select("user_id", "country", F.col("representation").alias("vector"))
    else:
        newest = latest_rows(run.read("user_embeddings"), as_of).where(F.col("model_id") == model_id)
        users = newest.select("user_id", "country", F.col("embedding").alias("vector"))
    named = run.read("ads").where(F.col("active_from") <= timestamp(as_of)).select("ad_id", "ad_hash").distinct()
    ads = run.read(ADS_OF_MODEL).where(as_of_scope(as_of)).join(named, "ad_hash")
    return users, ads.select("ad_id", F.col("representation").alias("vector"))
