"""User graphs: embeddings and follows in, clusters per country and directed edges out (ALURE, sections 3 and 5.2).

    user_embeddings -> usable_embeddings -> good + refused rows            embeddings.py
    good            -> fit_centroids, assign_clusters, with_sizes          kmeans.py   user_clusters, cluster_centroids
    clustered users -> similarity_edges                                    edges.py    user_edges
    follows         -> follow_strengths, followee_edges, pagerank_edges    follows.py  user_edges
    edges of graphs -> blended_edges                                       blend.py    user_edges
    edges           -> search_recall, graph_statistics                     quality.py  figures for a person to evaluate
    all of it       -> write_clusters, write_edges, graph_report           user_tables.py, report.py

Two users are as similar as the cosine of their embeddings. Similarities that users of the tables see are dot products in
float64 rounded to 1e-6, and ties go to the smaller id, so that no result depends on how Spark cuts the rows into units.
search.py and pagerank.py hold the arithmetic (numpy, faiss, scipy; no Spark), arrays.py the border between Arrow and numpy.
"""
