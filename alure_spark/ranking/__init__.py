"""The ranking model (Pan et al., Ad Recommendation in a Collapsed and Entangled World, sections 2 to 5): how likely a response is.

values of fields -> codes    encodings/   one file per encoding: what keeps the prior of a kind of value
codes -> vectors             tables.py    several embedding tables, each with a size of its own
vectors -> interactions      experts/     one file per expert: how the vectors of one table meet
interactions -> logits       network.py   gates over the experts, towers of tasks
tasks -> who reads what      schemes/     one file per way of sharing tables and experts between tasks (section 5); mixtures.py: its sums
network of before -> today   growth.py    learnt rows stay, tables grow by the rows of new ids
network -> artifact          serving.py   without the towers that only training needs; artifact.py: files

No Spark here: whoever has arrays may use it.
"""
