"""`python -m jobs.config show --conf conf/demo.yml [--set a.b=c]`: the configuration as a job would see it, defaults filled in
and secrets masked."""

from __future__ import annotations

import argparse
import sys

import yaml

from alure_spark.config import Config, as_dict, load
from alure_spark.errors import AlureError
from alure_spark.masking import masked_text, presentable


def text(config: Config) -> str:
    """All values as YAML, and the config hash as a comment."""
    return yaml.safe_dump(presentable(as_dict(config)), sort_keys=False, allow_unicode=True) + f"# config hash: {config.digest()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=["show"])
    parser.add_argument("--conf", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    options = parser.parse_args()
    try:
        config = load(options.conf, options.set)
    except AlureError as error:
        print(f"error: {masked_text(str(error))}", file=sys.stderr)
        sys.exit(2)
    print(text(config))


if __name__ == "__main__":
    main()
