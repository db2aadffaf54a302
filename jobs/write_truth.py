"""The synthetic world's truth as Delta tables beside the lake (source.options.truth_root); no stage of the pipeline reads them."""

from __future__ import annotations

import argparse

from alure_spark.config import build, load
from alure_spark.errors import ConfigError
from alure_spark.running import guarded, say
from alure_spark.session import get_session
from alure_spark.sources.synthetic import truth
from alure_spark.sources.synthetic.options import WorldOptions


def write(options: argparse.Namespace) -> None:
    config = load(options.conf, options.set)
    world = build(WorldOptions, config.source.options, "source.options")
    if config.source.kind != "synthetic" or not world.truth_root:
        raise ConfigError(
            f"source.kind is '{config.source.kind}' and source.options.truth_root '{world.truth_root}'; needed: synthetic, and a folder"
        )
    spark = get_session(config.spark)
    for name, frame in (("truth_users", truth.truth_users(spark, world)), ("truth_ads", truth.truth_ads(spark, world))):
        frame.write.format("delta").mode("overwrite").option("overwriteSchema", "true").save(f"{world.truth_root}/{name}")
        say(f"write_truth: {world.truth_root}/{name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conf", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    guarded(write, parser.parse_args())
