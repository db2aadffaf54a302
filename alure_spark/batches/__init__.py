"""Users' events as packed tokens: what training, a model and inference hand to each other.

Stands on the foundation alone, below every model. No file here knows Spark; vocabulary, layout and texts_and_vectors know no torch
either, so that executors read them in a moment.

batch.py       JaggedBatch: tokens and impressions of B users, without padding
layout.py      which arrays a batch is made of, as a model's spec gives it
decode.py      arrays of whatever reader -> JaggedBatch
vocabulary.py  which embedding row an id has
history.py     which tokens are history at a moment
texts_and_vectors.py  attributes that are several numbers per event
epochs.py      what gives the batches of an epoch
"""
