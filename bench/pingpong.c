/* The floor: two processes pass 32 bytes to and fro over a Unix socket pair.
 *
 * usage: pingpong ROUND_TRIPS SERVER_CORE CLIENT_CORE; prints nanoseconds a round trip
 *
 * The child answers, as the daemon does, and the parent asks. Nothing that asks a question of another
 * process through a socket can be faster on these cores. */

#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BYTES = 32, WARM_UP = 200 };

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void stay_on(int core)
{
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(core, &cores);
    if (sched_setaffinity(0, sizeof cores, &cores))
        fail("sched_setaffinity");
}

static void answer(int end)
{
    char bytes[BYTES];
    while (read(end, bytes, BYTES) == BYTES)
        if (write(end, bytes, BYTES) != BYTES)
            fail("write");
}

static void ask(int end, int times)
{
    char bytes[BYTES] = {0};
    while (times--)
        if (write(end, bytes, BYTES) != BYTES || read(end, bytes, BYTES) != BYTES)
            fail("round trip");
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    int times = atoi(argv[1]), ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
        fail("socketpair");
    switch (fork()) {
    case -1:
        fail("fork");
    case 0:
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ends[0]);
        stay_on(atoi(argv[2]));
        answer(ends[1]);
        return 0;
    }
    close(ends[1]);
    stay_on(atoi(argv[3]));
    ask(ends[0], WARM_UP);
    double begin = now();
    ask(ends[0], times);
    printf("%.1f\n", (now() - begin) / times);
    return 0;
}
