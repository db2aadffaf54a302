"""Who is worth which compute: the correlation of dwell and conversion splits users into active and passive (DynamiX).

events           -> new_statistics, merged                 statistics.py   sums per user, surface and part of the day
sums             -> correlate                              correlation.py  corr, w, b, standard error: pure numpy
dwell_statistics -> correlations -> user_segments          segments.py     at one as_of
runs             -> the days whose impressions are counted counting.py     again, where their events came in later
tables of a run  -> metrics, figures                       report.py       what a person looks at
"""
