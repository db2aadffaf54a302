"""Who a user is: keyed hashes of ids, tombstones of forgotten users, and how users are removed from every table.

ids, the key of the environment -> pseudonyms, check values         identity.py    what ingestion and every other room that has ids asks
a person's list of ids          -> ids                              user_list.py
ids                             -> deleted rows, tombstones, files  forgetting.py, erasure.py
"""
