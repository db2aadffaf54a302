"""What a person asks of what was published: how good it is, and what its parts are worth.

Stands on all rooms whose results it reads; no room imports it. Nothing of it runs in Spark's workers.

evaluation.py    candidates and user graph by the held-out future; evaluation_table.py writes, evaluation_report.py says it
protocol.py      Recall@k and NDCG@k of a user graph: do the items of neighbours foretell later ones?
funnel.py        what is shown of what was retrieved, and what it is worth
ranking_gain.py  what a user embedding is worth to a ranking model
validation_split.py  the registered model on impressions that it has not seen: what the next two evaluate by
importance.py    what each attribute is worth to a model; importance_report.py
thresholds.py    where active users begin, by normalized entropy; threshold_report.py
ranking_batches.py  the registered ranking model and its impressions, for feature_information
embedding_spectrum.py  do rows use their dimensions; embedding_report.py: before and after training
mutual_information.py  what facts tell of a response; feature_information.py: behaviours by when they were, and attention; feature_report.py
entanglement.py  do several tasks entangle one embedding; single_task_models.py trains what that is measured by, entanglement_report.py
policies.py      what feature policies per segment gain and save; policy_comparison.py trains and times them, policy_report.py
"""
