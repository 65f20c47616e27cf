/* For tests of what happens when a change of names fails, or the process is killed at one. LD_PRELOAD.
 * RENAME_FAIL=N: the N-th rename of the process fails with EPERM, as that of a file that may not be touched.
 * RENAME_KILL=N: the process is killed instead of it.
 * LINK_FAIL=1: no file gets a second name, as on file systems without hard links. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int count;

static int number(const char *name) {
    const char *text = getenv(name);
    return text ? atoi(text) : 0;
}

int rename(const char *from, const char *to) {
    int now = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (now == number("RENAME_KILL")) kill(getpid(), SIGKILL);
    if (now == number("RENAME_FAIL")) {
        errno = EPERM;
        return -1;
    }
    return syscall(SYS_renameat2, -100, from, -100, to, 0);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    if (number("LINK_FAIL")) {
        errno = EPERM;
        return -1;
    }
    return syscall(SYS_linkat, from_dir, from, to_dir, to, flags);
}
