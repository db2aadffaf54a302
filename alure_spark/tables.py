"""Every table of the lake: columns, types, units, keys, partitions, schema version, and one sentence each.

Tables are how rooms meet. Canonical input (`events`, `ads`, `follows`, `users`) is what a source adapter hands to ingestion;
the rest is what the stages publish. Names are public: columns may be added (with a new schema version), not renamed.

Times: `TIMESTAMP` columns are UTC with millisecond content; columns that end in `_ms` are epoch milliseconds
(or a duration in milliseconds). Ids in sequences are `id_hash`es: a stable signed 64-bit xxhash64 of the raw id.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .errors import DataError, nearest

SCHEMA_VERSION = 1

ATTRIBUTE_TYPES = {
    # kind of a declared attribute -> (type in `events`, element type in the sequence arrays)
    "categorical": ("STRING", "BIGINT"),
    "numeric": ("DOUBLE", "DOUBLE"),
    "text": ("STRING", "STRING"),
    "embedding": ("ARRAY<FLOAT>", "ARRAY<FLOAT>"),
}


@dataclass(frozen=True)
class Column:
    name: str
    type: str  # Spark DDL
    doc: str
    required: bool = False  # never null in a published table


@dataclass(frozen=True)
class Table:
    """One table of the lake. `open` tables carry further columns that the conf declares (attributes, sources)."""

    name: str
    doc: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partitions: tuple[str, ...] = ()
    open: bool = False
    version: int = SCHEMA_VERSION
    not_content: tuple[str, ...] = field(default=())  # run ids and clocks: left out of the content hash
    producer: str = "pipeline"  # the job that makes it: jobs/<producer>.py
    users: tuple[str, ...] = ()  # SQL expressions that name a user: forgetting one deletes the rows where any of them is that user

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def ddl(self) -> str:
        """The fixed columns as a Spark DDL schema string."""
        return ", ".join(f"`{column.name}` {column.type}" for column in self.columns)


def _columns(text: str) -> tuple[Column, ...]:
    """Columns from lines "name TYPE [!] : doc"; "!" marks a required column."""
    parsed = []
    for line in text.strip().splitlines():
        head, _, doc = line.strip().partition(" : ")
        name, kind, *flags = head.split()
        parsed.append(Column(name, kind, doc.strip(), required="!" in flags))
    return tuple(parsed)


EVENTS = Table(
    name="events",
    producer="ingest_events",
    doc="One row per accepted event of any source, de-duplicated by event_id.",
    columns=_columns("""
        event_id STRING ! : the log's own id, or a hash of the row's content, so that equal rows collapse
        user_id STRING ! : who
        country STRING ! : partition of the user graph; 'ALL' where there is none
        event_time TIMESTAMP ! : when it happened, UTC
        arrival_time TIMESTAMP : when the log received it; null means at event_time
        source STRING ! : named stream, e.g. organic_impression, ad_click
        item_id STRING : what was seen, bought or clicked; the ad_id on ad sources
        account_id STRING : ad account (advertiser)
        category_id STRING : category of the item
        surface STRING : where in the product it happened
        impression_id STRING : joins clicks and conversions to the impression that caused them
        dwell_ms BIGINT : time spent on the item, milliseconds
        value DOUBLE : money or another value of the event, in the source's unit
        media_type STRING : image, video, ...
        position INT : slot on the page, 0 is the first
        utc_offset_minutes INT : local time minus UTC, minutes
        text STRING : comment or title
        media_embedding ARRAY<FLOAT> : given embedding of the media
        known_at TIMESTAMP ! : max(event_time, arrival_time): from then on the event may be used
        known_date DATE ! : UTC day of known_at
        event_hash BIGINT ! : xxhash64 of event_id; breaks ties of known_at
        item_hash BIGINT : id_hash of item_id
    """),
    key=("event_id",),
    partitions=("known_date",),
    open=True,
    users=("user_id",),
)

# What ingestion adds to the frame that a source hands over.
DERIVED_EVENT_COLUMNS = ("known_at", "known_date", "event_hash", "item_hash")
# A source may leave these out; ingestion fills event_id with a content hash and country with 'ALL'.
REQUIRED_INPUT_COLUMNS = ("user_id", "event_time", "source", "item_id")

ADS = Table(
    name="ads",
    producer="ingest_events",
    doc="One row per ad and flight (a time in which it may be shown).",
    columns=_columns("""
        ad_id STRING ! : the ad
        account_id STRING ! : ad account (advertiser) that pays for it
        category_id STRING : category of what it advertises
        active_from TIMESTAMP ! : start of the flight, inclusive, UTC
        active_to TIMESTAMP : end of the flight, exclusive, UTC; null means open
        bid DOUBLE : what the account pays for a click
        value DOUBLE : value of a conversion
        title STRING : text of the ad
        media_embedding ARRAY<FLOAT> : given embedding of the ad's media
        ad_hash BIGINT ! : id_hash of ad_id
    """),
    key=("ad_id", "active_from"),
)

FOLLOWS = Table(
    name="follows",
    producer="ingest_events",
    doc="One row per directed follow.",
    columns=_columns("""
        src_user_id STRING ! : who follows
        dst_user_id STRING ! : who is followed
        event_time TIMESTAMP ! : since when, UTC
    """),
    key=("src_user_id", "dst_user_id"),
    users=("src_user_id", "dst_user_id"),
)

USERS = Table(
    name="users",
    producer="ingest_events",
    doc="One row per user and time at which what is declared of the user was known anew: from then on the row says all of it.",
    columns=_columns("""
        user_id STRING ! : who
        known_at TIMESTAMP ! : from then on, exclusive, it may be used, UTC
    """),
    key=("user_id", "known_at"),
    open=True,  # a column per attribute of users.attributes
    users=("user_id",),
)

USER_SEQUENCES = Table(
    name="user_sequences",
    producer="build_sequences",
    doc="One row per user touched since the previous as_of: per source s, parallel arrays ordered by (known_at, event_hash), oldest first.",
    columns=_columns("""
        user_id STRING ! : who
        country STRING ! : country of the user's last event before as_of
        as_of TIMESTAMP ! : events with known_at < as_of
    """),
    key=("user_id", "as_of"),
    partitions=("as_of",),
    open=True,  # s__known_at_ms, s__event_time_ms, s__item_id, s__<attribute> for every source s
    users=("user_id",),
)

TRAINING_EXAMPLES = Table(
    name="training_examples",
    producer="build_sequences",
    doc="One row per user and as_of: the impressions with their labels as parallel arrays, and the sequence arrays that they look back on.",
    columns=_columns("""
        user_id STRING ! : who
        country STRING ! : country of the user's last event before as_of
        as_of TIMESTAMP ! : the cut: labels are counted from events with known_at < as_of only
        segment STRING ! : segment of the user ('all' until dynamix assigns one)
        impression_id ARRAY<STRING> ! : the impressions, ordered by (time_ms, event_hash)
        time_ms ARRAY<BIGINT> ! : event_time of the impression, epoch ms
        ad_id ARRAY<BIGINT> ! : id_hash of the ad shown
        account_id ARRAY<BIGINT> ! : id_hash of its account; null where unknown
        label_age_ms ARRAY<BIGINT> ! : as_of - time_ms: younger than the window means that the label may still change
        weight ARRAY<DOUBLE> ! : sample weight
        split ARRAY<STRING> ! : train or validation, by time of the impression
    """),
    key=("user_id", "as_of", "segment"),
    partitions=("as_of",),
    open=True,  # per task its labels, impression__<attribute> for labels.impression_attributes, and the arrays of USER_SEQUENCES
    version=2,  # until version 1, click and conversion were always there
    users=("user_id",),
)

SHOWN_KNOWN = "shown_known_at_ms"  # array of training_examples where transfer.layer asks for it: when an impression became known

RANKING_EXAMPLES = Table(
    name="ranking_examples",
    producer="log_embeddings",
    doc="One row per impression of training_examples, with the user's embedding as it was served then (embedding logging).",
    columns=_columns("""
        user_id STRING ! : who
        country STRING ! : country of the user's last event before as_of
        as_of TIMESTAMP ! : the cut: labels are counted from events with known_at < as_of only
        segment STRING ! : segment of the user
        impression_id STRING ! : the impression
        time_ms BIGINT ! : its event_time, epoch ms
        ad_id BIGINT : id_hash of the ad shown
        account_id BIGINT : id_hash of its account; null where unknown
        label_age_ms BIGINT ! : as_of - time_ms
        weight DOUBLE ! : sample weight
        split STRING ! : train or validation, by time of the impression
        embedding ARRAY<FLOAT> : the newest that served before time_ms; null where none did
        embedding_as_of TIMESTAMP : where the history of the embedding ends
        model_id STRING : which model made it
    """),
    key=("user_id", "as_of", "segment", "impression_id", "time_ms"),
    partitions=("as_of",),
    open=True,  # per task its label, and impression__<attribute> for labels.impression_attributes
    version=2,  # until version 1, click and conversion were always there
    users=("user_id",),
)

IMPRESSION_EXAMPLES = Table(
    name="impression_examples",
    producer="ingest_examples",
    doc="One row per impression of a table that was mapped as it is (source.options.examples), for the ranking model alone.",
    columns=_columns("""
        user_id STRING ! : who
        event_time TIMESTAMP ! : when it was shown, UTC
        ad_id STRING : the ad shown
        split STRING : train, validation or test, where the table says so; else its time decides
        weight DOUBLE ! : sample weight, 1 where the table has none
    """),
    key=("user_id", "event_time", "ad_id"),
    open=True,  # a column per field of ranking.fields and per task of ranking.tasks
    users=("user_id",),
)

IMPRESSION_SCORES = Table(
    name="impression_scores",
    producer="score_impressions",
    doc="One row per impression of impression_examples, with what the ranking model expects.",
    columns=_columns("""
        user_id STRING ! : who
        event_time TIMESTAMP ! : when it was shown, UTC
        ad_id STRING : the ad shown
        split STRING : as in impression_examples
        as_of TIMESTAMP ! : of the model
        model_id STRING ! : digest of the ranking model
    """),
    key=("user_id", "event_time", "ad_id", "as_of"),
    partitions=("as_of",),
    open=True,  # per task its label, p_<task> or expected_<task> DOUBLE, and with ranking.exploration what explored_scores.columns_of names
    users=("user_id",),
)

VOCABULARIES = Table(
    name="vocabularies",
    producer="build_sequences",
    doc="Append-only: which embedding row an id_hash has in a space; a row once given never changes.",
    columns=_columns("""
        space STRING ! : item_id, account_id, or an attribute name
        hash BIGINT ! : id_hash
        row BIGINT ! : embedding row; 0 is kept for unknown ids
        first_seen TIMESTAMP ! : as_of of the run that added it
    """),
    key=("space", "hash"),
)

USER_EMBEDDINGS = Table(
    name="user_embeddings",
    producer="embed_users",
    doc="One row per user and as_of: E vectors of d numbers, each of a length that the model learned, the whole of unit norm.",
    columns=_columns("""
        user_id STRING ! : who
        country STRING ! : country of the user's last event before as_of
        as_of TIMESTAMP ! : history ends here, exclusive
        model_id STRING ! : method and digest of weights, conf and vocabulary version
        embedding ARRAY<FLOAT> ! : E * d numbers, unit norm
    """),
    key=("user_id", "as_of"),
    partitions=("as_of",),
    users=("user_id",),
)

USER_CLUSTERS = Table(
    name="user_clusters",
    producer="build_graph",
    doc="One row per embedded user: the cluster of its country that its embedding is nearest to (cosine).",
    columns=_columns("""
        user_id STRING ! : who
        country STRING ! : whose centroids
        as_of TIMESTAMP ! : of the embeddings
        cluster_id INT ! : 0 .. k1-1 within the country
    """),
    key=("user_id", "as_of"),
    partitions=("as_of",),
    users=("user_id",),
)

CLUSTER_CENTROIDS = Table(
    name="cluster_centroids",
    producer="build_graph",
    doc="One row per country and cluster: its unit-norm centroid.",
    columns=_columns("""
        country STRING ! : whose users
        as_of TIMESTAMP ! : of the embeddings
        cluster_id INT ! : 0 .. k1-1 within the country
        centroid ARRAY<FLOAT> ! : unit norm
        size BIGINT ! : users assigned
    """),
    key=("country", "as_of", "cluster_id"),
    partitions=("as_of",),
)

GRAPH_BITS = {"alure": 1, "bff": 2, "ppr": 4}  # a set of user graphs as one number
ORIGIN_BITS = {**GRAPH_BITS, "standalone": 8}  # the same of what leads to a candidate: graphs, and the search of transfer.retrieval

USER_EDGES = Table(
    name="user_edges",
    producer="build_graph",
    doc="One row per directed edge from a user to one of its nearest users of the same country, in one of the graphs.",
    columns=_columns("""
        src_user_id STRING ! : whose neighbor
        dst_user_id STRING ! : the neighbor
        country STRING ! : of both
        graph STRING ! : alure (embeddings), bff (follows), ppr (PageRank along follows) or blend (of the others)
        weight DOUBLE ! : cosine (alure), score of shared follows (bff), probability (ppr), sum of shares (blend)
        rank INT ! : 1 = nearest; ties by dst_user_id
        origins INT : bit set of the graphs that it comes from: 1 alure, 2 bff, 4 ppr
        as_of TIMESTAMP ! : embeddings and follows before it
    """),
    version=2,  # 2: origins
    key=("src_user_id", "graph", "rank", "as_of"),
    partitions=("as_of",),
    users=("src_user_id", "dst_user_id"),
)

AD_CANDIDATES = Table(
    name="ad_candidates",
    producer="retrieve_ads",
    doc="One row per user with a neighbor (or a vector, with transfer.retrieval): candidate ads as parallel arrays, best first.",
    columns=_columns("""
        user_id STRING ! : who
        country STRING ! : country of the user
        as_of TIMESTAMP ! : ads active at this time; history before it
        ad_id ARRAY<STRING> ! : raw ids, best first; ties by ad_id
        account_id ARRAY<STRING> ! : of the ad
        score ARRAY<DOUBLE> ! : sum over neighbors of similarity x event weight x decay, and of weight / rank (standalone), rounded to 1e-6
        graphs ARRAY<INT> ! : bit set of what led to it: the graphs 1 alure, 2 bff, 4 ppr, and 8 standalone (transfer.retrieval)
        neighbours ARRAY<INT> : how many neighbors engaged with the ad, or with its account, whichever is more
        reason ARRAY<STRING> ! : ad (a neighbor engaged with it), account (with its account), standalone, or several of them with +
    """),
    version=2,  # 2: neighbours
    key=("user_id", "as_of"),
    partitions=("as_of",),
    users=("user_id",),
)

RANKING_SCORES = Table(
    name="ranking_scores",
    producer="score_impressions",
    doc="One row per user with candidates: the funnel's last stage, candidate ads as parallel arrays, by score, at most ranking.cap.",
    columns=_columns("""
        user_id STRING ! : who
        country STRING ! : country of the user
        as_of TIMESTAMP ! : of the candidates; the history that was read ends here, exclusive
        model_id STRING ! : digest of the ranking model
        ad_id ARRAY<STRING> ! : raw ids, best first (by explored where ranking.exploration.policy is thompson); ties as in ad_candidates
        account_id ARRAY<STRING> ! : of the ad
        score ARRAY<DOUBLE> ! : sum over the tasks of ranking.score of worth x probability, or number x expected value
    """),
    key=("user_id", "as_of"),
    partitions=("as_of",),
    open=True,  # per task p_<task> or expected_<task> ARRAY<DOUBLE>, and with ranking.exploration explored and explored_scores.columns_of
    users=("user_id",),
)

SERVING_CANDIDATES = Table(
    name="serving_candidates",
    producer="retrieve_ads",
    doc="Key and value for a serving store: the newest candidates of every user, which serve until they expire.",
    columns=_columns("""
        user_id STRING ! : the key
        as_of TIMESTAMP ! : of the candidates
        expires_at TIMESTAMP ! : from then on they must not be served
        candidates STRING ! : the value: JSON of ad_candidates' arrays ad_id, account_id, score, graphs, neighbours, reason
    """),
    key=("user_id",),
    users=("user_id",),
)

DWELL_STATISTICS = Table(
    name="dwell_statistics",
    producer="correlate_dwell",
    doc="Sums per user, surface and part of the day, of the impressions that entered since the as_of before (DynamiX, section 3.1).",
    columns=_columns("""
        user_id STRING ! : who
        surface STRING ! : where; 'unknown' where the event does not say, or says 'ALL'
        window STRING ! : part of the user's local day, e.g. 06-12
        as_of TIMESTAMP ! : the impressions entered before it
        entered_from TIMESTAMP : and not before this; null means ever
        n_1 BIGINT ! : impressions with a conversion nearby (C = 1)
        n_0 BIGINT ! : impressions without
        sum_log_dwell_micro_1 BIGINT ! : sum of log dwell (natural, of milliseconds), millionths, C = 1
        sum_log_dwell_micro_0 BIGINT ! : the same, C = 0
        sum_log_dwell_sq_micro_1 BIGINT ! : sum of squared log dwell, millionths, C = 1
        sum_log_dwell_sq_micro_0 BIGINT ! : the same, C = 0
        outliers BIGINT ! : impressions whose dwell is out of bounds, in no sum
        utc_offset_minutes INT ! : local time minus UTC at the user's last impression among those of this as_of, minutes
    """),
    key=("user_id", "surface", "window", "as_of"),
    partitions=("as_of",),
    users=("user_id",),
)

DWELL_CORRELATIONS = Table(
    name="dwell_correlations",
    producer="correlate_dwell",
    doc="Correlation of dwell time and conversion per user, surface and part of the day at one as_of (DynamiX).",
    columns=_columns("""
        user_id STRING ! : who
        surface STRING ! : where; 'ALL' is all surfaces together
        window STRING ! : part of the user's local day
        as_of TIMESTAMP ! : impressions that entered before it
        n_1 BIGINT ! : impressions with a conversion nearby (C = 1)
        n_0 BIGINT ! : impressions without
        mean_log_dwell_1 DOUBLE : mean of log dwell, C = 1
        mean_log_dwell_0 DOUBLE : mean of log dwell, C = 0
        corr DOUBLE : equation (8), a difference of means; drawn towards that of all users with dynamix.shrinkage; null with one class only
        w DOUBLE : slope of the logistic law, equation (7)
        b DOUBLE : intercept of the logistic law
        std_error DOUBLE : standard error of corr
    """),
    key=("user_id", "surface", "window", "as_of"),
    partitions=("as_of",),
    users=("user_id",),
)

USER_SEGMENTS = Table(
    name="user_segments",
    producer="correlate_dwell",
    doc="Segment of a user on a surface, valid in a window of time (DynamiX, equation 9).",
    columns=_columns("""
        user_id STRING ! : who
        surface STRING ! : where; 'ALL' is all surfaces together
        as_of TIMESTAMP ! : of the statistics behind it
        segment STRING ! : passive, active, or active_2 .. above further thresholds
        valid_from TIMESTAMP ! : inclusive
        valid_to TIMESTAMP ! : exclusive
    """),
    key=("user_id", "surface", "valid_from", "as_of"),
    partitions=("as_of",),
    users=("user_id",),
)

SIMILARITY_EMBEDDINGS = Table(
    name="similarity_embeddings",
    producer="train_similarity",
    doc="One row per user and per item of the click graph at one as_of: a GraphSAGE vector; the cosine says how well two go together.",
    columns=_columns("""
        kind STRING ! : user or item
        node_id STRING ! : the user_id or item_id
        as_of TIMESTAMP ! : events with known_at < as_of
        model_id STRING ! : graphsage- and a digest of weights and conf; vectors of two models cannot be compared
        embedding ARRAY<FLOAT> ! : similarity.dimension numbers, unit norm
    """),
    key=("kind", "node_id", "as_of"),
    partitions=("as_of",),
    users=("CASE WHEN kind = 'user' THEN node_id END",),  # an item of the same id is nobody
)

ITEM_REPRESENTATIONS = Table(
    name="item_representations",
    producer="extract_representations",
    doc="One row per ad whose flight had begun at as_of: its vector in the ad tower of the user model (LFM4Ads, IR).",
    columns=_columns("""
        ad_hash BIGINT ! : id_hash of the ad
        as_of TIMESTAMP ! : flights that began before it
        model_id STRING ! : of the user model; representations of two models cannot be compared
        representation ARRAY<FLOAT> ! : model.dimension numbers
    """),
    key=("ad_hash", "as_of"),
    partitions=("as_of",),
)

CROSS_SUMS = Table(
    name="cross_sums",
    producer="extract_representations",
    doc="One row per user, and per ad, and day: the sum of the cross representations of the impressions that became known in that day.",
    columns=_columns("""
        kind STRING ! : user or ad
        user_id STRING : who; null of an ad
        ad_hash BIGINT : id_hash of the ad; null of a user
        as_of TIMESTAMP ! : the day ends here, exclusive
        model_id STRING ! : of the user model
        layer STRING ! : transfer.layer
        weight BIGINT ! : sum of the weights of the impressions, in millionths
        sums ARRAY<BIGINT> ! : weighted sums of the numbers, in millionths
    """),
    key=("kind", "user_id", "ad_hash", "as_of"),
    partitions=("as_of",),
    users=("user_id",),
)

CROSS_REPRESENTATIONS = Table(
    name="cross_representations",
    producer="extract_representations",
    doc="One row per user and per ad at one as_of: the decaying mean of its cross representations (LFM4Ads, CR).",
    columns=_columns("""
        kind STRING ! : user or ad
        user_id STRING : who; null of an ad
        ad_hash BIGINT : id_hash of the ad; null of a user
        as_of TIMESTAMP ! : impressions with known_at < as_of
        model_id STRING ! : of the user model; representations of two models cannot be compared
        layer STRING ! : transfer.layer
        weight DOUBLE ! : sum of the weights of the impressions, each halved by its age every transfer.half_life_days
        representation ARRAY<FLOAT> ! : the mean
    """),
    key=("kind", "user_id", "ad_hash", "as_of"),
    partitions=("as_of",),
    users=("user_id",),
)

ALIGNMENTS = Table(
    name="alignments",
    producer="extract_representations",
    doc="One row per table of representations and as_of (transfer.align): how a version's vectors are turned into another space.",
    columns=_columns("""
        of STRING ! : user_embeddings, cross_representations or item_representations
        as_of TIMESTAMP ! : the version's day
        model_id STRING ! : the version, whose rows are turned from fitted_as_of on
        layer STRING : transfer.layer, of cross representations
        space STRING ! : the version whose space it is
        fitted_as_of TIMESTAMP ! : the version's first day, on whose rows the matrix was fitted
        kind STRING ! : transfer.align of that day
        rows BIGINT ! : users or ads that both had rows of
        residual DOUBLE ! : what the matrix does not explain, of halves that it was not fitted on: 0 nothing, 1 all
        matrix ARRAY<DOUBLE> ! : d * d numbers, row by row: turned = vector @ matrix + shift; empty where the version is the space itself
        shift ARRAY<DOUBLE> ! : d numbers, or empty
    """),
    key=("of", "as_of", "model_id"),
    partitions=("as_of",),
)

EVALUATION_USERS = Table(
    name="evaluation_users",
    producer="evaluate",
    doc="One row per evaluated user and policy: what the held-out future said; two runs are compared from it.",
    columns=_columns("""
        user_id STRING ! : who
        country STRING ! : country of the user
        as_of TIMESTAMP ! : the future begins here
        config_hash STRING ! : of the run, so that two confs stand beside each other
        task STRING ! : ads (retrieved candidates) or items (user graph)
        policy STRING ! : pipeline, random_neighbours, popularity, idf_cosine
        new_user BOOLEAN ! : fewer events before as_of than evaluate.new_user_events
        recall DOUBLE ! : hits / held-out engagements, at evaluate.k
        ndcg DOUBLE ! : normalized discounted cumulative gain at evaluate.k
    """),
    key=("user_id", "as_of", "config_hash", "task", "policy"),
    partitions=("as_of", "config_hash"),
    users=("user_id",),
)

QUARANTINE = Table(
    name="quarantine",
    producer="ingest_events",
    doc="One row per refused input row, with the reason, so that nothing is lost.",
    columns=_columns("""
        source STRING ! : table and stream that it came from
        reason STRING ! : why it was refused
        row STRING ! : the row as JSON
        run_id STRING ! : run that refused it
    """),
    key=("source", "reason", "row"),
    partitions=(),
    not_content=("run_id",),
    users=("get_json_object(row, '$.user_id')", "get_json_object(row, '$.src_user_id')", "get_json_object(row, '$.dst_user_id')"),
)

TOMBSTONES = Table(
    name="tombstones",
    producer="forget_users",
    doc="One row per forgotten user: ingestion keeps them out.",
    columns=_columns("""
        user_hash STRING ! : HMAC-SHA256 of the user id under the key in ALURE_USER_KEY
        forgotten_at TIMESTAMP ! : when, UTC
        key_check STRING : names the key without telling it, and whether user_hash is of a hashed id; null: of an earlier release
    """),
    key=("user_hash",),
    version=2,  # 2: key_check
    not_content=("forgotten_at",),
)

RUNS = Table(
    name="runs",
    doc="One row per published (or failed) job run: what it read and what it published; readers trust only versions named here.",
    columns=_columns("""
        run_id STRING ! : id of the run
        job STRING ! : verb, e.g. build_graph
        scope STRING ! : what was replaced, as SQL
        config_hash STRING ! : of the whole configuration
        git_commit STRING ! : of the code; 'unknown' outside a checkout
        inputs MAP<STRING,BIGINT> ! : table -> Delta version read
        outputs MAP<STRING,BIGINT> ! : table -> Delta version published
        content_hashes MAP<STRING,STRING> ! : table -> hash of the published scope's content
        schema_version INT ! : SCHEMA_VERSION of the code
        started TIMESTAMP ! : UTC
        finished TIMESTAMP ! : UTC
        status STRING ! : started (a row of its own, written first), then published or failed; ended where files were erased after that
        message STRING : class and words of the error of a failed run, without what it quotes; of a started one its machine and process
        facts MAP<STRING,STRING> : what later runs must know of this one, e.g. known_from of an ingestion
    """),
    key=("run_id", "status"),
    version=2,  # 2: facts
    not_content=("run_id", "started", "finished", "git_commit"),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        EVENTS, ADS, FOLLOWS, USERS, USER_SEQUENCES, TRAINING_EXAMPLES, RANKING_EXAMPLES, IMPRESSION_EXAMPLES, IMPRESSION_SCORES,
        VOCABULARIES, USER_EMBEDDINGS, USER_CLUSTERS, CLUSTER_CENTROIDS, USER_EDGES, AD_CANDIDATES, RANKING_SCORES, SERVING_CANDIDATES,
        DWELL_STATISTICS, DWELL_CORRELATIONS, USER_SEGMENTS, SIMILARITY_EMBEDDINGS, ITEM_REPRESENTATIONS, CROSS_SUMS, CROSS_REPRESENTATIONS,
        ALIGNMENTS, EVALUATION_USERS, QUARANTINE, TOMBSTONES, RUNS,
    )
}  # fmt: skip

# Tables whose rows belong to a day, which retention can therefore let go: by as_of, events by known_date.
DATED_TABLES = tuple(name for name, of in TABLES.items() if {"as_of", "known_date"} & set(of.column_names))
# Of these a reader takes each user's latest row, however old it is.
LATEST_ROW_TABLES = (USER_SEQUENCES.name, USER_EMBEDDINGS.name)


def table(name: str) -> Table:
    """The table of that name. Raises DataError with the nearest known name."""
    if name not in TABLES:
        raise DataError(f"there is no table '{name}'{nearest(name, TABLES)}")
    return TABLES[name]
