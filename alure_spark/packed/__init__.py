"""Training rows as bytes in Parquet, in a folder that lives as long as one training, and what reads them back as batches.

Enters: rows of `training_examples`. Leaves: batches in an order that depends on (seed, epoch) alone.

rows.py       rows of the table -> packed rows in files
row_groups.py  a folder of them, by row group; pyarrow_reader.py and petastorm_reader.py read it, readers.py names them
loader.py     packed rows -> batches of one segment
segments.py   a loader per segment, mixed batch by batch
"""
