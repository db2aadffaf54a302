"""Who is worth which compute: the correlation of dwell and conversion splits users into active and passive (DynamiX).

events           -> new_statistics, merged                 statistics.py   sums per user, surface and part of the day
sums             -> correlate                              correlation.py  corr, w, b, standard error: pure numpy
dwell_statistics -> correlations -> user_segments          segments.py     at one as_of
"""
