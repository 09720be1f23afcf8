"""How much this process keeps and serves at most."""

from __future__ import annotations

BODY_BYTES_MAX = 64 * 1024  # a limit takes a few hundred
BODY_DISCARDED_BYTES_MAX = 32 * 1024 * 1024  # of a longer one, so that its sender reads our answer
BODY_SECONDS = 10.0  # for a body to arrive
HEAD_SECONDS = 10.0  # for the first request of a connection to arrive
CONNECTIONS_MAX = 1_500  # of browsers, all together; more are told so and closed
STREAMS_MAX = 200  # of events to browsers
STREAM_BATCHES_MAX = 8  # that wait for one browser: two seconds; then it gets a fresh snapshot
STREAM_PING_SECONDS = 15.0  # what has nothing to say says so, or a proxy closes it
SEND_BUFFER_BYTES = 128 * 1024  # of the kernel, for one browser: what it does not read is not kept

REQUESTS_PER_SECOND = 500.0  # with the token
REQUESTS_BURST = 2_000.0
CHANGES_PER_SECOND = 100.0
CHANGES_BURST = 300.0
STRANGERS_PER_SECOND = 50.0  # without the token, all together
STRANGERS_BURST = 200.0

TICK_SECONDS = 0.25  # between two batches for the browsers
TICK_SECONDS_UNSEEN = 1.0  # the same while nobody looks
SEEN_SECONDS = 10.0  # after a question somebody still looks
READS_SHARE = 10  # reading from the daemon takes at most 1/10 of the time
READS_MAX = 20  # limits read one by one; of more, all are listed
RESYNC_SECONDS = 5.0  # between two, however much was missed
RETRY_SECONDS = 0.5  # before a daemon that is gone is looked for again
RECONNECT_SECONDS = 1.0  # that a request waits for a daemon that has gone
STATUS_SECONDS = 5.0

ROWS_IN_SNAPSHOT_MAX = 500
ROWS_IN_BATCH_MAX = 200
PAGE_ROWS_MAX = 500
TICKETS_TOLD_MAX = 1_000  # holders, and as many waiting ones, of one limit
WAITERS_KEPT_MAX = 20_000  # of whom it is known since when they wait

HISTORY_LIMITS_MAX = 1_000  # about 11 KB each
EVENTS_KEPT_MAX = 200
TROUBLES_KEPT_MAX = 200
TROUBLES_TOLD_MAX = 50
EVENTS_OF_LIMIT_MAX = 30
EVENTS_LIMITS_MAX = 1_000  # with events of their own; about 12 KB each
EVENTS_IN_BATCH_MAX = 50
DETAILS_KEPT_MAX = 50
TOP_MAX = 10  # busiest limits, longest waiters
FINDINGS_SECONDS = 30.0  # between two looks of the doctor
METRICS_SECONDS = 1.0
