// Preloaded into the program: counts its calls that change files, and at the N-th ends it or lets the call fail.
//
// GLMC_FAULT=count:FILE   writes their number to FILE at the end
// GLMC_FAULT=kill:N       SIGKILL instead of the N-th
// GLMC_FAULT=eio:N        the N-th fails with EIO, the next ones work
// GLMC_FAULT=enospc:N     likewise with ENOSPC
// GLMC_FAULT=full:N       from the N-th on, all that need room fail with ENOSPC
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, COUNT, KILL, FAIL, FULL };
static int mode = OFF, error_number;
static long wanted;
static char report[4096];
static atomic_long calls;

__attribute__((constructor)) static void begin(void) {
    const char* text = getenv("GLMC_FAULT");
    if (!text) return;
    const char* value = strchr(text, ':');
    if (!value) return;
    value++;
    wanted = atol(value);
    if (!strncmp(text, "count:", 6)) {
        snprintf(report, sizeof report, "%s", value);
        mode = COUNT;
    } else if (!strncmp(text, "kill:", 5)) {
        mode = KILL;
    } else if (!strncmp(text, "eio:", 4)) {
        mode = FAIL, error_number = EIO;
    } else if (!strncmp(text, "enospc:", 7)) {
        mode = FAIL, error_number = ENOSPC;
    } else if (!strncmp(text, "full:", 5)) {
        mode = FULL, error_number = ENOSPC;
    }
}

__attribute__((destructor)) static void end(void) {
    if (mode != COUNT) return;
    char line[32];
    int length = snprintf(line, sizeof line, "%ld\n", (long)calls);
    int file = (int)syscall(SYS_openat, AT_FDCWD, report, O_CREAT | O_WRONLY | O_TRUNC, 0600);
    if (file >= 0 && syscall(SYS_write, file, line, length) == length) syscall(SYS_close, file);
}

// Whether this call fails.
static int strikes(int needs_room) {
    if (mode == OFF) return 0;
    long call = atomic_fetch_add(&calls, 1) + 1;
    if (mode == KILL && call == wanted) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    if ((mode == FAIL && call == wanted) || (mode == FULL && needs_room && call >= wanted)) {
        errno = error_number;
        return 1;
    }
    return 0;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
// Standard streams are none of the files that must be whole.
#define ON_FILE(name, room, parameters, arguments) \
    ssize_t name parameters { return fd > 2 && strikes(room) ? -1 : NEXT(name) arguments; }
#define CALL(name, room, parameters, arguments) \
    int name parameters { return strikes(room) ? -1 : NEXT(name) arguments; }

ON_FILE(write, 1, (int fd, const void* bytes, size_t size), (fd, bytes, size))
ON_FILE(pwrite64, 1, (int fd, const void* bytes, size_t size, off64_t at), (fd, bytes, size, at))
ON_FILE(writev, 1, (int fd, const struct iovec* parts, int count), (fd, parts, count))
CALL(fsync, 0, (int fd), (fd))
CALL(fdatasync, 0, (int fd), (fd))
CALL(ftruncate64, 1, (int fd, off64_t size), (fd, size))
CALL(rename, 0, (const char* from, const char* to), (from, to))
CALL(unlink, 0, (const char* path), (path))
CALL(rmdir, 0, (const char* path), (path))
CALL(mkdir, 1, (const char* path, mode_t bits), (path, bits))
CALL(unlinkat, 0, (int folder, const char* path, int flags), (folder, path, flags))

int open64(const char* path, int flags, ...) {
    mode_t bits = 0;
    if (flags & O_CREAT) {
        va_list list;
        va_start(list, flags);
        bits = va_arg(list, mode_t);
        va_end(list);
    }
    // Terminals and devices are opened, too, but nothing is made there.
    if ((flags & O_CREAT) && strncmp(path, "/dev/", 5) && strikes(1)) return -1;
    return NEXT(open64)(path, flags, bits);
}
