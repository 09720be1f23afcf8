"""Every default and every bound of the daemon: a named constant each, unit last, the reason beside it."""

from __future__ import annotations

from atmost.wire import FRAME_BYTES_MAX

# Bounds against abuse: an administrator can set them (Bounds).
CONNECTIONS_MAX = 10_000  # each takes two descriptors
CONNECTIONS_PER_UID_MAX = 1_024  # ten users can't shut out all others
CONNECTIONS_KEPT = 16  # so that somebody can still look and mend when all the others are taken
HELLO_SECONDS = 10.0  # a connection that says nothing is closed: it takes a descriptor from others
REQUESTS_IN_FLIGHT_MAX = 1_024  # not answered yet; then no more are read
REQUESTS_PER_CONNECTION_MAX = 100_000  # each takes about a kilobyte for as long as it has something
WAITERS_PER_CONNECTION_MAX = 10_000
WAITERS_PER_LIMIT_MAX = 100_000
IMPLICIT_LIMITS_MAX = 10_000  # all limits are written with every change
IMPLICIT_LIMITS_PER_UID_MAX = 1_000
TEMPLATE_LIMITS_MAX = 100_000  # each takes about two kilobytes until it is idle
TEMPLATE_LIMITS_PER_UID_MAX = 50_000  # one service may have most names, and others still have some
DRAFT_ENTRIES_MAX = 200_000  # of one connection, until it ends
OUTPUT_BYTES_MAX = 1024 * 1024  # unread replies of one client; who reads never has so many
OUTPUT_BYTES_LEAST = 2 * FRAME_BYTES_MAX  # below, a page of a listing alone could be too much

# What the configuration file may say otherwise (settings.py).
LOG_LEVEL = "info"
LOG_FORMAT = "text"
WATCHES_MAX = 64  # each is told everything that happens, so all together cost so many times that
WATCHES_PER_UID_MAX = 16

# Bounds that are part of how the daemon works.
EVENTS_A_TURN_MAX = 10_000  # those who watch are told how many more there were
EVENTS_UNREAD_BYTES_MAX = 256 * 1024  # of events that a client has not read; then it misses some
RETURNED_TOLD_SECONDS = 10.0  # after a start: who came back is told to those who watch later, too
RETURNED_TOLD_MAX = 1_000
LOOP_DELAY_PROBE_SECONDS = 0.25  # while somebody asks how late the event loop is ...
LOOP_DELAY_ASKED_SECONDS = 90.0  # ... and so long after that: Prometheus asks once a minute or more
EXPLAINED_MAX = 20  # requests in one answer: more than a person reads
EXPLAINED_HOLDERS_MAX = 3  # of each limit that they lack
ANSWER_NANOSECONDS_A_TURN = 2_000_000  # then others have their turn; questions can be expensive
REFUSED_AT_ONCE_MAX = 64  # connections that are refused and may still read why
COMPLAINT_SECONDS = 60.0  # between two lines of the log about the same bound
DESCRIPTORS_PER_CLIENT = 2  # its connection, and the pidfd of its process
DESCRIPTORS_OWN = 128  # files, the loop, who is refused
CLOSE_SECONDS = 1.0  # for a refused client to read why, before its connection is cut
STOP_SECONDS = 1.0  # for what clients have sent to be read, when the daemon stops
LEVELS_SAVE_SECONDS = 30.0  # spent levels on disk are at most so old after a power cut
STATE_RETRY_SECONDS = 5.0  # after a save that failed; the whole state is written each time
# Fencing tokens set aside on disk: so many are skipped by a crash, and so many can be given while the
# disk refuses. 2**53, which every JSON reader keeps exactly, lasts for millions of crashes.
TOKENS_RESERVED = 1_000_000_000
TOKENS_SHARE = 100_000  # of them, for a life that can't save: there are 2,500 such shares
JOURNAL_BYTES_MAX = 8 * 1024 * 1024  # the journal is replaced by a checkpoint then, but not before
JOURNAL_GROWTH = 4  # it is so many times the last one: the work stays a small part of all
JOURNAL_LOOK_SECONDS = 10.0  # whether it is there still: a write to a deleted file succeeds
JOURNAL_RETRY_SECONDS = 1.0  # after a write that failed
RECLAIM_SECONDS = (
    1.0  # for holders to say so, if the journal was lost; clients come back in half of it
)
SPENT_KEPT_MAX = 1024  # outcomes kept for a client that never says that it has seen them
IDLE_SECONDS = 0.0  # until a daemon leaves that nobody needs: never, since a service is to stay
STATUS_SECONDS = 1.0  # between two words to systemd about what we do
NOTIFY_RETRY_SECONDS = 0.1  # after systemd did not take the word that we are ready
CANNOT_START_SECONDS = 0.5  # before it is tried again
PROOFS_A_WATCHDOG = 3  # so that one that comes late is not the end
BACKLOG = 4096  # connections that wait for accept; the kernel caps it at somaxconn
IMPLICIT_LIMIT = 1  # semantics.md 2: a limit made by the request that names it
TEMPLATE_IDLE_SECONDS = (
    1.0  # until a limit that a template made is looked at; its next use makes it anew
)
TEMPLATES_SWEPT_AT_ONCE = 500  # then others have their turn
SESSION_ENDS_A_TURN = 500  # and tickets that they let go of: some 5 ms with all that follows
CHANGE_NANOSECONDS_A_TURN = 5_000_000  # many limits change at once; then others have their turn
HOLDERS_TOLD_MAX = 5  # with a time-out; `atmost ps` tells them all
USER_CHARS_MAX = 32  # as useradd(8) has it
MESSAGE_CHARS_MAX = 500  # of an error as a frame carries it; its fields have it all
BOUND_MAX = 1_000_000_000  # a bound so high is none
GID_MAX = 2**32 - 1  # (gid_t)-1 is no group
WAIT_SECONDS_MAX = 1e9  # a longer time-out (30 years) is no time-out
