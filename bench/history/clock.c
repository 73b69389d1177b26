/* A clock that runs K times faster, for every process of a cluster.
 *
 * Preloaded into every process of every container, this library lets a day
 * pass in about an hour: from the instant R1 on, the programs see
 *
 *     fast(r) = R1 + (r - R1) * K        (fast(r) = r before R1)
 *
 * where the kernel's clock says r, and all that they wait for comes K times
 * sooner. Since fast() depends on nothing but R1, K and the kernel's clock, all
 * processes agree on the time without talking to each other. (With libfaketime
 * a clock with a rate begins with its process, and all timers are taken for those
 * of the time of day: its issues 273 and 378.)
 *
 * Build:  cc -O2 -shared -fPIC -Wall -Wextra -o clock.so clock.c -ldl
 * Use:    write "R1 K" into /etc/clock-rate, readable by all (two decimal
 *         numbers: UNIX time in seconds, and the rate, at least 1), and the
 *         library's path into /etc/ld.so.preload. To try it on one program:
 *         CLOCK_RATE=/path/to/rate LD_PRELOAD=/path/to/clock.so program
 *         Without the file, or with nonsense in it, the clock is the kernel's.
 *
 * Covered: the reading of clocks, CPU time (times K, as though the processors
 * were K times slower), sleeps, timeouts, timers, and the times of files, which
 * the kernel writes by its own clock and which are translated both ways.
 *
 * Not covered:
 *   - statically linked programs, and those that call the kernel or read the
 *     cycle counter themselves (Go, rdtsc, futex and libaio by syscall());
 *   - what libc does inside itself: the time in a syslog() message, the wait
 *     for a name server, fts and ftw, the locks and sleeps of <threads.h>;
 *   - what the kernel counts or says: /proc (uptime, start and CPU times), cgroup
 *     accounting, RLIMIT_CPU, utmp, the kernel's log, the time stamps of
 *     packets (which journald notes as a message's source time), TCP's and
 *     file locks' own timers, mq_timed*, recvmmsg();
 *   - periodic timers and socket timeouts set before R1, which keep their pace,
 *     and timers that are set to an absolute CPU time;
 *   - a step of the kernel's clock: the offset between the clocks is taken
 *     once per process.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/timeb.h>
#include <sys/timerfd.h>
#include <sys/times.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <utime.h>

#define SECOND INT64_C(1000000000) /* all arithmetic is in nanoseconds */
#define UNIT INT64_C(1000000)      /* the rate is in millionths */
#define NEVER INT64_MAX

typedef const struct timespec *when;

int __poll_chk(struct pollfd *, nfds_t, int, size_t);
int __ppoll_chk(struct pollfd *, nfds_t, when, const sigset_t *, size_t);

/* libc's own functions. The waits go through them, rather than straight to the
 * kernel, because they can be cancelled. All are looked up when the library is
 * loaded, so that none has to be within a signal handler; find() is there for
 * those who call before that. */
#define FUNCTIONS(X) \
    X(clock_gettime) X(nanosleep) X(clock_nanosleep) X(poll) X(ppoll) X(__poll_chk) \
    X(__ppoll_chk) X(select) X(pselect) X(epoll_wait) X(epoll_pwait) X(epoll_pwait2) \
    X(sigtimedwait) X(semtimedop) X(sem_timedwait) X(sem_clockwait) \
    X(pthread_cond_timedwait) X(pthread_cond_clockwait) X(pthread_mutex_timedlock) \
    X(pthread_mutex_clocklock) X(pthread_rwlock_timedrdlock) X(pthread_rwlock_timedwrlock) \
    X(pthread_rwlock_clockrdlock) X(pthread_rwlock_clockwrlock) X(pthread_timedjoin_np) \
    X(pthread_clockjoin_np) X(timer_settime) X(timer_gettime) X(timerfd_settime) \
    X(timerfd_gettime) X(wait4)

#define NUMBER(f) N_##f,
#define NAME(f) #f,
enum { FUNCTIONS(NUMBER) COUNT };
static const char *const names[] = { FUNCTIONS(NAME) };
static _Atomic(void *) found[COUNT];

#define REAL(f) ((__typeof__(&f))find(N_##f))

static long missing(void)
{
    errno = ENOSYS;
    return -1;
}

static void *find(int n)
{
    void *f = atomic_load(&found[n]);

    if (f)
        return f;
    if (n == N_pthread_cond_timedwait) /* an older one has the same name */
        f = dlvsym(RTLD_NEXT, names[n], "GLIBC_2.3.2");
    if (!f)
        f = dlsym(RTLD_NEXT, names[n]);
    if (!f)
        f = (void *)missing;
    atomic_store(&found[n], f);
    return f;
}

/* The kernel's clock; by a system call until libc's function, which needs none,
 * is known: a malloc() that reads the clock may run within dlsym(). */
static int kernel_clock(clockid_t c, struct timespec *t)
{
    __typeof__(&clock_gettime) f = (__typeof__(&clock_gettime))atomic_load(&found[N_clock_gettime]);

    return f ? f(c, t) : (int)syscall(SYS_clock_gettime, c, t);
}

static int64_t to_ns(when t) { return t->tv_sec * SECOND + t->tv_nsec; }

static struct timespec from_ns(int64_t ns) { return (struct timespec){ ns / SECOND, ns % SECOND }; }

static int64_t clamp(__int128 ns) { return ns > NEVER ? NEVER : (int64_t)ns; }

/* Whether it's a time to translate. Those that the kernel refuses, takes for
 * endless (as it does all that exceed 64 bits) or for a sign (UTIME_NOW) aren't. */
static int valid(when t)
{
    return t->tv_sec >= 0 && t->tv_sec < NEVER / SECOND && t->tv_nsec >= 0 && t->tv_nsec < SECOND;
}

/* --- the rate ------------------------------------------------------------ */

static const clockid_t bases[] = { CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW,
                                   CLOCK_BOOTTIME, CLOCK_TAI };
enum { BASES = sizeof bases / sizeof *bases };

static _Atomic int64_t starts[BASES]; /* R1 by each of those clocks */
static _Atomic int64_t the_rate;      /* K; 0 until it's read */

/* A decimal number, with so many places kept; -1 if it isn't one. */
static int64_t decimal(const char **s, int places)
{
    int64_t n = 0;
    int digits = 0;

    while (**s == ' ' || **s == '\t')
        ++*s;
    for (; **s >= '0' && **s <= '9' && digits < 11; ++*s, digits++)
        n = n * 10 + (**s - '0');
    if (!digits || n > NEVER / SECOND / 2)
        return -1;
    if (**s == '.')
        ++*s;
    else
        for (; places; places--)
            n *= 10;
    for (; **s >= '0' && **s <= '9'; ++*s)
        if (places)
            n = n * 10 + (**s - '0'), places--;
    for (; places; places--)
        n *= 10;
    return n;
}

/* How far a clock is ahead of CLOCK_REALTIME, by the tightest of some tries. */
static int64_t offset(clockid_t c)
{
    int64_t best = NEVER, result = 0;

    for (int i = 0; i < 8; i++) {
        struct timespec a, t, b;

        if (syscall(SYS_clock_gettime, CLOCK_REALTIME, &a) ||
            syscall(SYS_clock_gettime, c, &t) || syscall(SYS_clock_gettime, CLOCK_REALTIME, &b))
            return 0;
        int64_t width = to_ns(&b) - to_ns(&a);
        if (width >= 0 && width < best) {
            best = width;
            result = to_ns(&t) - to_ns(&a) - width / 2;
        }
    }
    return result;
}

/* Threads may come here at once: the first to store a number has it kept. */
static void keep(_Atomic int64_t *where, int64_t n)
{
    int64_t none = 0;

    atomic_compare_exchange_strong(where, &none, n);
}

static int64_t read_rate(void)
{
    int saved = errno;
    const char *path = secure_getenv("CLOCK_RATE"), *s;
    char text[128];
    int64_t start, k = UNIT;

    if (!path)
        path = "/etc/clock-rate";
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);

    if (fd >= 0) {
        long length = syscall(SYS_read, fd, text, sizeof text - 1);

        syscall(SYS_close, fd);
        text[length > 0 ? length : 0] = '\0';
        s = text;
        start = decimal(&s, 9);
        k = start < 0 ? -1 : decimal(&s, 6);
        if (k < UNIT || k > UNIT * UNIT)
            k = UNIT;
        else
            for (int i = 0; i < BASES; i++)
                keep(&starts[i], start + (i ? offset(bases[i]) : 0));
    }
    keep(&the_rate, k); /* the last, for it says that all is read */
    errno = saved;
    return atomic_load(&the_rate);
}

static int64_t rate(void)
{
    int64_t k = atomic_load(&the_rate);

    return k ? k : read_rate();
}

__attribute__((constructor)) static void load(void)
{
    for (int n = 0; n < COUNT; n++)
        find(n);
    rate();
}

/* --- from one time to the other ------------------------------------------ */

/* When a clock begins to be fast: CPU clocks always are, unknown ones never. */
static int64_t start_of(clockid_t c)
{
    switch (c) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_REALTIME_ALARM:
        return atomic_load(&starts[0]);
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_COARSE:
        return atomic_load(&starts[1]);
    case CLOCK_MONOTONIC_RAW:
        return atomic_load(&starts[2]);
    case CLOCK_BOOTTIME:
    case CLOCK_BOOTTIME_ALARM:
        return atomic_load(&starts[3]);
    case CLOCK_TAI:
        return atomic_load(&starts[4]);
    case CLOCK_PROCESS_CPUTIME_ID:
    case CLOCK_THREAD_CPUTIME_ID:
        return 0;
    default: /* below 0: another's CPU clock, or a device's (3 in the low bits) */
        return c < 0 && (c & 7) != 3 ? 0 : NEVER;
    }
}

static int64_t fast(clockid_t c, int64_t r)
{
    int64_t k = rate(), start = start_of(c);

    return k == UNIT || r <= start ? r : clamp(start + ((__int128)r - start) * k / UNIT);
}

/* The first instant of the kernel's at which it's f or later by the fast clock. */
static int64_t real(clockid_t c, int64_t f)
{
    int64_t k = rate(), start = start_of(c);

    return k == UNIT || f <= start ? f : clamp(start + (((__int128)f - start) * UNIT + k - 1) / k);
}

static int64_t now(void)
{
    struct timespec t = { 0, 0 };

    kernel_clock(CLOCK_MONOTONIC, &t);
    return to_ns(&t);
}

/* A length of time that begins now: what the kernel has to wait for it, which is
 * 0 only for 0; and the other way round, what's left of it. */
static int64_t shrink(int64_t d)
{
    if (rate() == UNIT || d <= 0)
        return d;
    int64_t n = now();
    return real(CLOCK_MONOTONIC, clamp((__int128)fast(CLOCK_MONOTONIC, n) + d)) - n;
}

static int64_t grow(int64_t d)
{
    if (rate() == UNIT || d <= 0)
        return d;
    int64_t n = now();
    return fast(CLOCK_MONOTONIC, clamp((__int128)n + d)) - fast(CLOCK_MONOTONIC, n);
}

static when within(when t, struct timespec *space)
{
    if (!t || !valid(t))
        return t;
    *space = from_ns(shrink(to_ns(t)));
    return space;
}

static when until(clockid_t c, when t, struct timespec *space)
{
    if (!t || !valid(t) || !to_ns(t))
        return t;
    int64_t r = real(c, to_ns(t));
    *space = from_ns(r > 0 ? r : 1); /* 0 would mean "never" to a timer */
    return space;
}

static void grow_ts(struct timespec *t)
{
    if (valid(t))
        *t = from_ns(grow(to_ns(t)));
}

static int shrink_ms(int ms)
{
    return ms <= 0 ? ms : (int)((shrink(ms * INT64_C(1000000)) + 999999) / 1000000);
}

static void change_tv(struct timeval *tv, int64_t (*change)(int64_t))
{
    struct timespec t = { tv->tv_sec, tv->tv_usec * 1000 };

    if (tv->tv_usec < 0 || tv->tv_usec >= 1000000 || !valid(&t))
        return;
    int64_t us = clamp((__int128)change(to_ns(&t)) + 999) / 1000;
    *tv = (struct timeval){ us / 1000000, us % 1000000 };
}

/* --- reading ------------------------------------------------------------- */

int clock_gettime(clockid_t c, struct timespec *t)
{
    int error = kernel_clock(c, t);

    if (!error)
        *t = from_ns(fast(c, to_ns(t)));
    return error;
}

int timespec_get(struct timespec *t, int base)
{
    return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, t) ? base : 0;
}

int gettimeofday(struct timeval *tv, void *zone)
{
    struct timespec t = { 0, 0 };

    if (zone)
        *(struct timezone *)zone = (struct timezone){ 0, 0 };
    clock_gettime(CLOCK_REALTIME, &t);
    *tv = (struct timeval){ t.tv_sec, t.tv_nsec / 1000 };
    return 0;
}

/* By the coarse clock, as in libc and as files are stamped: a file written after
 * a call doesn't look older than that. */
time_t time(time_t *result)
{
    struct timespec t = { 0, 0 };

    clock_gettime(CLOCK_REALTIME_COARSE, &t);
    if (result)
        *result = t.tv_sec;
    return t.tv_sec;
}

int ftime(struct timeb *b)
{
    struct timespec t = { 0, 0 };

    clock_gettime(CLOCK_REALTIME, &t);
    *b = (struct timeb){ .time = t.tv_sec, .millitm = t.tv_nsec / 1000000 };
    return 0;
}

int sysinfo(struct sysinfo *info)
{
    int error = (int)syscall(SYS_sysinfo, info);

    if (!error)
        info->uptime = fast(CLOCK_BOOTTIME, info->uptime * SECOND) / SECOND;
    return error;
}

static int64_t fast_cpu(int64_t ns) { return fast(CLOCK_PROCESS_CPUTIME_ID, ns); }

clock_t clock(void)
{
    struct timespec t;

    return clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) ? -1 : to_ns(&t) / (SECOND / CLOCKS_PER_SEC);
}

clock_t times(struct tms *t)
{
    if (syscall(SYS_times, t) == -1 && errno == EFAULT)
        return -1;
    if (t)
        *t = (struct tms){ fast_cpu(t->tms_utime), fast_cpu(t->tms_stime),
                           fast_cpu(t->tms_cutime), fast_cpu(t->tms_cstime) };
    return fast(CLOCK_MONOTONIC, now()) / (SECOND / 100); /* ticks, since any one instant */
}

static void fast_usage(struct rusage *u)
{
    change_tv(&u->ru_utime, fast_cpu);
    change_tv(&u->ru_stime, fast_cpu);
}

int getrusage(__rusage_who_t who, struct rusage *u)
{
    int error = (int)syscall(SYS_getrusage, who, u);

    if (!error)
        fast_usage(u);
    return error;
}

pid_t wait4(pid_t pid, int *status, int options, struct rusage *u)
{
    pid_t child = REAL(wait4)(pid, status, options, u);

    if (child > 0 && u)
        fast_usage(u);
    return child;
}

pid_t wait3(int *status, int options, struct rusage *u) { return wait4(-1, status, options, u); }

/* --- waiting ------------------------------------------------------------- */

#define WAIT(f, parameters, ...) \
    int f parameters \
    { \
        struct timespec space __attribute__((unused)); \
        return REAL(f)(__VA_ARGS__); \
    }
#define WITHIN(t) within(t, &space)
#define UNTIL(c, t) until(c, t, &space)

WAIT(poll, (struct pollfd *p, nfds_t n, int ms), p, n, shrink_ms(ms))
WAIT(__poll_chk, (struct pollfd *p, nfds_t n, int ms, size_t size), p, n, shrink_ms(ms), size)
WAIT(ppoll, (struct pollfd *p, nfds_t n, when t, const sigset_t *m), p, n, WITHIN(t), m)
WAIT(__ppoll_chk, (struct pollfd *p, nfds_t n, when t, const sigset_t *m, size_t size),
     p, n, WITHIN(t), m, size)
WAIT(epoll_wait, (int fd, struct epoll_event *e, int n, int ms), fd, e, n, shrink_ms(ms))
WAIT(epoll_pwait, (int fd, struct epoll_event *e, int n, int ms, const sigset_t *m),
     fd, e, n, shrink_ms(ms), m)
WAIT(epoll_pwait2, (int fd, struct epoll_event *e, int n, when t, const sigset_t *m),
     fd, e, n, WITHIN(t), m)
WAIT(pselect, (int n, fd_set *r, fd_set *w, fd_set *x, when t, const sigset_t *m),
     n, r, w, x, WITHIN(t), m)
WAIT(sigtimedwait, (const sigset_t *s, siginfo_t *info, when t), s, info, WITHIN(t))
WAIT(semtimedop, (int id, struct sembuf *o, size_t n, when t), id, o, n, WITHIN(t))

WAIT(sem_timedwait, (sem_t *s, when t), s, UNTIL(CLOCK_REALTIME, t))
WAIT(sem_clockwait, (sem_t *s, clockid_t c, when t), s, c, UNTIL(c, t))
/* Which clock the condition goes by is known only to libc, as a bit in it. */
WAIT(pthread_cond_timedwait, (pthread_cond_t *v, pthread_mutex_t *m, when t),
     v, m, UNTIL(v->__data.__wrefs & 2 ? CLOCK_MONOTONIC : CLOCK_REALTIME, t))
WAIT(pthread_cond_clockwait, (pthread_cond_t *v, pthread_mutex_t *m, clockid_t c, when t),
     v, m, c, UNTIL(c, t))
WAIT(pthread_mutex_timedlock, (pthread_mutex_t *m, when t), m, UNTIL(CLOCK_REALTIME, t))
WAIT(pthread_mutex_clocklock, (pthread_mutex_t *m, clockid_t c, when t), m, c, UNTIL(c, t))
WAIT(pthread_rwlock_timedrdlock, (pthread_rwlock_t *l, when t), l, UNTIL(CLOCK_REALTIME, t))
WAIT(pthread_rwlock_timedwrlock, (pthread_rwlock_t *l, when t), l, UNTIL(CLOCK_REALTIME, t))
WAIT(pthread_rwlock_clockrdlock, (pthread_rwlock_t *l, clockid_t c, when t), l, c, UNTIL(c, t))
WAIT(pthread_rwlock_clockwrlock, (pthread_rwlock_t *l, clockid_t c, when t), l, c, UNTIL(c, t))
WAIT(pthread_timedjoin_np, (pthread_t p, void **r, when t), p, r, UNTIL(CLOCK_REALTIME, t))
WAIT(pthread_clockjoin_np, (pthread_t p, void **r, clockid_t c, when t), p, r, c, UNTIL(c, t))

int select(int n, fd_set *r, fd_set *w, fd_set *x, struct timeval *tv)
{
    if (!tv)
        return REAL(select)(n, r, w, x, NULL);
    change_tv(tv, shrink);
    int ready = REAL(select)(n, r, w, x, tv);
    change_tv(tv, grow); /* it says now what's left */
    return ready;
}

int nanosleep(when t, struct timespec *left)
{
    struct timespec space;
    int error = REAL(nanosleep)(WITHIN(t), left);

    if (error && errno == EINTR && left)
        grow_ts(left);
    return error;
}

int clock_nanosleep(clockid_t c, int flags, when t, struct timespec *left)
{
    struct timespec space;

    if (flags & TIMER_ABSTIME)
        return REAL(clock_nanosleep)(c, flags, UNTIL(c, t), left);
    int error = REAL(clock_nanosleep)(c, flags, WITHIN(t), left);
    if (error == EINTR && left)
        grow_ts(left);
    return error;
}

unsigned sleep(unsigned seconds)
{
    struct timespec t = { seconds, 0 };

    return nanosleep(&t, &t) ? (unsigned)t.tv_sec : 0;
}

int usleep(useconds_t us)
{
    struct timespec t = { us / 1000000, us % 1000000 * 1000 };

    return nanosleep(&t, NULL);
}

/* --- timers -------------------------------------------------------------- */

int setitimer(__itimer_which_t which, const struct itimerval *new, struct itimerval *old)
{
    struct itimerval scaled;

    if (new) {
        scaled = *new;
        change_tv(&scaled.it_value, shrink);
        change_tv(&scaled.it_interval, shrink);
        new = &scaled;
    }
    int error = (int)syscall(SYS_setitimer, which, new, old);
    if (!error && old) {
        change_tv(&old->it_value, grow);
        change_tv(&old->it_interval, grow);
    }
    return error;
}

int getitimer(__itimer_which_t which, struct itimerval *t)
{
    int error = (int)syscall(SYS_getitimer, which, t);

    if (!error) {
        change_tv(&t->it_value, grow);
        change_tv(&t->it_interval, grow);
    }
    return error;
}

unsigned alarm(unsigned seconds)
{
    struct itimerval new = { .it_value.tv_sec = seconds }, old = { 0 };

    setitimer(ITIMER_REAL, &new, &old);
    struct timeval left = old.it_value; /* rounded, but not to 0, as the kernel does */
    return left.tv_sec + (left.tv_usec >= 500000 || (!left.tv_sec && left.tv_usec));
}

useconds_t ualarm(useconds_t us, useconds_t interval)
{
    struct itimerval old = { 0 }, new = {
        .it_value = { us / 1000000, us % 1000000 },
        .it_interval = { interval / 1000000, interval % 1000000 },
    };

    if (setitimer(ITIMER_REAL, &new, &old))
        return -1;
    return old.it_value.tv_sec * 1000000 + old.it_value.tv_usec;
}

/* An absolute time tells by its size whether it's a date, or counted from the
 * start of the machine (by either clock: the machine is never suspended). */
static const struct itimerspec *arm(const struct itimerspec *t, int absolute, struct itimerspec *b)
{
    if (!t)
        return NULL;
    clockid_t c = t->it_value.tv_sec > 900000000 ? CLOCK_REALTIME : CLOCK_MONOTONIC;
    when value = &t->it_value;
    b->it_value = *(absolute ? until(c, value, &b->it_value) : within(value, &b->it_value));
    b->it_interval = *within(&t->it_interval, &b->it_interval);
    return b;
}

static int armed(int error, struct itimerspec *t)
{
    if (!error && t) {
        grow_ts(&t->it_value);
        grow_ts(&t->it_interval);
    }
    return error;
}

int timer_settime(timer_t id, int flags, const struct itimerspec *new, struct itimerspec *old)
{
    struct itimerspec b;

    new = arm(new, flags & TIMER_ABSTIME, &b);
    return armed(REAL(timer_settime)(id, flags, new, old), old);
}

int timer_gettime(timer_t id, struct itimerspec *t) { return armed(REAL(timer_gettime)(id, t), t); }

int timerfd_settime(int fd, int flags, const struct itimerspec *new, struct itimerspec *old)
{
    struct itimerspec b;

    new = arm(new, flags & TFD_TIMER_ABSTIME, &b);
    return armed(REAL(timerfd_settime)(fd, flags, new, old), old);
}

int timerfd_gettime(int fd, struct itimerspec *t) { return armed(REAL(timerfd_gettime)(fd, t), t); }

/* --- the timeouts of sockets --------------------------------------------- */

static int is_timeout(int level, int name)
{
    return level == SOL_SOCKET && (name == SO_RCVTIMEO || name == SO_SNDTIMEO);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t size)
{
    struct timeval tv;

    if (is_timeout(level, name) && value && size >= sizeof tv) {
        tv = *(const struct timeval *)value;
        change_tv(&tv, shrink);
        value = &tv;
        size = sizeof tv;
    }
    return (int)syscall(SYS_setsockopt, fd, level, name, value, size);
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *size)
{
    int error = (int)syscall(SYS_getsockopt, fd, level, name, value, size);

    if (!error && is_timeout(level, name) && *size >= sizeof(struct timeval))
        change_tv(value, grow);
    return error;
}

/* --- the times of files -------------------------------------------------- */

static void fast_file(struct timespec *t)
{
    if (valid(t))
        *t = from_ns(fast(CLOCK_REALTIME, to_ns(t)));
}

static int read_stat(int dir, const char *path, void *buffer, int flags)
{
    struct stat *s = buffer;
    int error = (int)syscall(SYS_newfstatat, dir, path, s, flags);

    if (!error) {
        fast_file(&s->st_atim);
        fast_file(&s->st_mtim);
        fast_file(&s->st_ctim);
    }
    return error;
}

static int read_fstat(int fd, void *buffer)
{
    if (fd >= 0) /* a number below 0 may mean the working directory */
        return read_stat(fd, "", buffer, AT_EMPTY_PATH);
    errno = EBADF;
    return -1;
}

/* Those of today, and those that binaries from before glibc 2.33 call. */
#define OLD int version __attribute__((unused))
#define STAT(bits) \
    int stat##bits(const char *p, struct stat##bits *s) { return read_stat(AT_FDCWD, p, s, 0); } \
    int __xstat##bits(OLD, const char *p, struct stat##bits *s) { return stat##bits(p, s); } \
    int lstat##bits(const char *p, struct stat##bits *s) \
    { return read_stat(AT_FDCWD, p, s, AT_SYMLINK_NOFOLLOW); } \
    int __lxstat##bits(OLD, const char *p, struct stat##bits *s) { return lstat##bits(p, s); } \
    int fstat##bits(int fd, struct stat##bits *s) { return read_fstat(fd, s); } \
    int __fxstat##bits(OLD, int fd, struct stat##bits *s) { return read_fstat(fd, s); } \
    int fstatat##bits(int dir, const char *p, struct stat##bits *s, int flags) \
    { return read_stat(dir, p, s, flags); } \
    int __fxstatat##bits(OLD, int dir, const char *p, struct stat##bits *s, int flags) \
    { return read_stat(dir, p, s, flags); }

STAT()
STAT(64)

static void fast_statx(struct statx_timestamp *x)
{
    struct timespec t = { x->tv_sec, x->tv_nsec };

    fast_file(&t);
    x->tv_sec = t.tv_sec;
    x->tv_nsec = (uint32_t)t.tv_nsec;
}

int statx(int dir, const char *path, int flags, unsigned mask, struct statx *s)
{
    int error = (int)syscall(SYS_statx, dir, path, flags, mask, s);

    if (!error) {
        fast_statx(&s->stx_atime);
        fast_statx(&s->stx_mtime);
        fast_statx(&s->stx_ctime);
        fast_statx(&s->stx_btime);
    }
    return error;
}

static int write_times(int dir, const char *path, const struct timespec t[2], int flags)
{
    struct timespec r[2];

    for (int i = 0; t && i < 2; i++)
        r[i] = *until(CLOCK_REALTIME, &t[i], &r[i]);
    return (int)syscall(SYS_utimensat, dir, path, t ? r : NULL, flags);
}

int utimensat(int dir, const char *path, const struct timespec t[2], int flags)
{
    return write_times(dir, path, t, flags);
}

int futimens(int fd, const struct timespec t[2]) { return write_times(fd, NULL, t, 0); }

static int set_times(int dir, const char *path, const struct timeval tv[2], int flags)
{
    struct timespec t[2];

    for (int i = 0; tv && i < 2; i++) {
        if (tv[i].tv_usec < 0 || tv[i].tv_usec >= 1000000) {
            errno = EINVAL;
            return -1;
        }
        t[i] = (struct timespec){ tv[i].tv_sec, tv[i].tv_usec * 1000 };
    }
    return write_times(dir, path, tv ? t : NULL, flags);
}

int utimes(const char *path, const struct timeval tv[2])
{
    return set_times(AT_FDCWD, path, tv, 0);
}

int lutimes(const char *path, const struct timeval tv[2])
{
    return set_times(AT_FDCWD, path, tv, AT_SYMLINK_NOFOLLOW);
}

int futimes(int fd, const struct timeval tv[2]) { return set_times(fd, NULL, tv, 0); }

int futimesat(int dir, const char *path, const struct timeval tv[2])
{
    return set_times(dir, path, tv, 0);
}

int utime(const char *path, const struct utimbuf *u)
{
    struct timeval tv[2] = { { u ? u->actime : 0, 0 }, { u ? u->modtime : 0, 0 } };

    return set_times(AT_FDCWD, path, u ? tv : NULL, 0);
}
