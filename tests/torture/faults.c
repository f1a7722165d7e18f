/* Cuts a process at one of its calls that change files below one folder. Loaded by LD_PRELOAD, armed by faults.py.

   cc -shared -fPIC -O1 -o faults.so faults.c -ldl

   Each such call is a point, counted from 0. At the chosen one it fails, writes half of its data, or the process is
   killed. What is about to be done is written to a record: a line of call, path, other path, place and bytes, then
   so many bytes of data. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { GO, FAIL, FULL, HALF, KILL, TORN }; /* FULL: this call and all later ones that need room fail */
enum { KEEPS, GROWS };

static struct {
    char folder[PATH_MAX];
    size_t length;
    int at, what, error, record, calls;
} plan = {.record = -1};

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

void faults_arm(const char *folder, int at, int what, int error, int record)
{
    snprintf(plan.folder, sizeof plan.folder, "%s", folder);
    plan.length = strlen(folder);
    plan.at = at, plan.what = what, plan.error = error, plan.record = record, plan.calls = 0;
}

static void put(const void *data, size_t size)
{
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, "write");
    for (const char *rest = data; size;) {
        ssize_t done = real(plan.record, rest, size);
        if (done <= 0) _exit(99);
        rest += done, size -= done;
    }
}

static int below(const char *path)
{
    return plan.record >= 0 && !strncmp(path, plan.folder, plan.length) &&
           (path[plan.length] == '/' || !path[plan.length]);
}

static void full_path(char *full, int folder, const char *path)
{
    ssize_t size = 0; /* of the folder's name */
    if (path[0] == '/') {
        snprintf(full, PATH_MAX, "%s", path);
        return;
    }
    if (folder == AT_FDCWD) {
        if (getcwd(full, PATH_MAX)) size = strlen(full);
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        size = readlink(link, full, PATH_MAX - 1);
    }
    if (size < 0) size = 0;
    snprintf(full + size, PATH_MAX - size, "/%s", path);
}

static int opened(char *path, int file)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    path[size < 0 ? 0 : size] = 0;
    return size > 0;
}

static int meet(const char *call, const char *path, const char *other, off_t at, const void *data, size_t size,
                int room)
{
    if (!below(path) && !(other && below(other))) return GO;
    int number = __atomic_fetch_add(&plan.calls, 1, __ATOMIC_SEQ_CST);
    char line[2 * PATH_MAX + 128];
    int length = snprintf(line, sizeof line, "%s\t%s\t%s\t%lld\t%zu\n", call, path, other ? other : "", (long long)at,
                          size);
    put(line, length);
    if (size) put(data, size);
    if (plan.what == FULL ? number < plan.at || !room : number != plan.at) return GO;
    if (plan.what == KILL) kill(getpid(), SIGKILL);
    if (plan.what == FAIL || plan.what == FULL) {
        errno = plan.error;
        return FAIL;
    }
    return plan.what;
}

/* --- data ------------------------------------------------------------------------------------------------------ */

static off_t place(int file)
{
    if (fcntl(file, F_GETFL) & O_APPEND) {
        struct stat now;
        return fstat(file, &now) ? 0 : now.st_size;
    }
    return lseek(file, 0, SEEK_CUR);
}

static int meet_data(const char *call, int file, const void *data, size_t size, off_t at)
{
    char path[PATH_MAX];
    if (plan.record < 0 || !size || file == plan.record || !opened(path, file) || !below(path)) return GO;
    return meet(call, path, NULL, at < 0 ? place(file) : at, data, size, GROWS);
}

#define DATA(call, half, whole)                                                                                        \
    switch (what) {                                                                                                    \
    case FAIL: return -1;                                                                                              \
    case HALF: return size > 1 ? half : whole;                                                                         \
    case TORN: if (size > 1) (void)!half; kill(getpid(), SIGKILL); /* falls through */                                 \
    default: return whole;                                                                                             \
    }

ssize_t write(int file, const void *data, size_t size)
{
    REAL(write);
    int what = meet_data("write", file, data, size, -1);
    DATA(write, real(file, data, size / 2), real(file, data, size))
}

#define PWRITE(name)                                                                                                   \
    ssize_t name(int file, const void *data, size_t size, off_t at)                                                    \
    {                                                                                                                  \
        REAL(name);                                                                                                    \
        int what = meet_data("pwrite", file, data, size, at);                                                          \
        DATA(pwrite, real(file, data, size / 2, at), real(file, data, size, at))                                       \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t writev(int file, const struct iovec *parts, int count)
{
    REAL(writev);
    size_t size = count ? parts[0].iov_len : 0;
    struct iovec first = {count ? parts[0].iov_base : NULL, size / 2};
    char path[PATH_MAX];
    if (plan.record < 0 || !opened(path, file) || !below(path)) return real(file, parts, count);
    static char all[1 << 22];
    size_t end = 0;
    for (int i = 0; i < count; end += parts[i++].iov_len) {
        if (end + parts[i].iov_len > sizeof all) _exit(99);
        memcpy(all + end, parts[i].iov_base, parts[i].iov_len);
    }
    int what = meet("writev", path, NULL, place(file), all, end, GROWS);
    DATA(writev, real(file, &first, 1), real(file, parts, count))
}

#define LENGTH(name)                                                                                                   \
    int name(int file, off_t length)                                                                                   \
    {                                                                                                                  \
        REAL(name);                                                                                                    \
        char path[PATH_MAX];                                                                                           \
        if (plan.record >= 0 && opened(path, file) &&                                                                  \
            meet("ftruncate", path, NULL, length, NULL, 0, GROWS) == FAIL)                                          \
            return -1;                                                                                                 \
        return real(file, length);                                                                                     \
    }
LENGTH(ftruncate)
LENGTH(ftruncate64)

#define SYNC(name)                                                                                                     \
    int name(int file)                                                                                                 \
    {                                                                                                                  \
        REAL(name);                                                                                                    \
        char path[PATH_MAX];                                                                                           \
        if (plan.record >= 0 && opened(path, file) && meet("fsync", path, NULL, 0, NULL, 0, KEEPS) == FAIL)         \
            return -1;                                                                                                 \
        return real(file);                                                                                             \
    }
SYNC(fsync)
SYNC(fdatasync)

#define NOT_TAPED(name, parameters, file)                                                                              \
    ssize_t name parameters                                                                                            \
    { /* callers fall back to write, whose data is seen */                                                             \
        char path[PATH_MAX];                                                                                           \
        REAL(name);                                                                                                    \
        if (plan.record >= 0 && opened(path, file) && below(path)) {                                                   \
            errno = ENOSYS;                                                                                            \
            return -1;                                                                                                 \
        }                                                                                                              \
        return REAL_CALL;                                                                                              \
    }
#define REAL_CALL real(to, from, at, size)
NOT_TAPED(sendfile, (int to, int from, off_t *at, size_t size), to)
NOT_TAPED(sendfile64, (int to, int from, off64_t *at, size_t size), to)
#undef REAL_CALL
#define REAL_CALL real(from, at, to, place_of, size, flags)
NOT_TAPED(copy_file_range, (int from, off64_t *at, int to, off64_t *place_of, size_t size, unsigned flags), to)

/* --- names ----------------------------------------------------------------------------------------------------- */

static int meet_name(const char *call, int folder, const char *path, int room)
{
    char full[PATH_MAX];
    if (plan.record < 0 || !path) return GO;
    full_path(full, folder, path);
    return meet(call, full, NULL, 0, NULL, 0, room);
}

static int meet_open(int folder, const char *path, int flags)
{
    struct stat found;
    int there = !fstatat(folder, path, &found, 0);
    if ((flags & O_TMPFILE) == O_TMPFILE || (flags & O_CREAT && !there))
        return meet_name("create", folder, path, GROWS);
    if (flags & O_TRUNC && there && S_ISREG(found.st_mode)) return meet_name("truncate", folder, path, KEEPS);
    return GO;
}

#define MODE                                                                                                           \
    mode_t mode = 0;                                                                                                   \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                               \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode = va_arg(rest, mode_t);                                                                                   \
        va_end(rest);                                                                                                  \
    }

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        REAL(name);                                                                                                    \
        MODE return meet_open(AT_FDCWD, path, flags) == FAIL ? -1 : real(path, flags, mode);                           \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                                                   \
    int name(int folder, const char *path, int flags, ...)                                                             \
    {                                                                                                                  \
        REAL(name);                                                                                                    \
        MODE return meet_open(folder, path, flags) == FAIL ? -1 : real(folder, path, flags, mode);                     \
    }
OPENAT(openat)
OPENAT(openat64)

static int meet_names(const char *call, int folder, const char *path, int other_folder, const char *other)
{
    char full[PATH_MAX], other_full[PATH_MAX];
    if (plan.record < 0) return GO;
    full_path(full, folder, path);
    full_path(other_full, other_folder, other);
    return meet(call, full, other_full, 0, NULL, 0, GROWS);
}

int rename(const char *path, const char *other)
{
    REAL(rename);
    return meet_names("rename", AT_FDCWD, path, AT_FDCWD, other) == FAIL ? -1 : real(path, other);
}

int renameat(int folder, const char *path, int other_folder, const char *other)
{
    REAL(renameat);
    return meet_names("rename", folder, path, other_folder, other) == FAIL ? -1
                                                                           : real(folder, path, other_folder, other);
}

int link(const char *path, const char *other)
{
    REAL(link);
    return meet_names("link", AT_FDCWD, path, AT_FDCWD, other) == FAIL ? -1 : real(path, other);
}

int linkat(int folder, const char *path, int other_folder, const char *other, int flags)
{
    REAL(linkat);
    return meet_names("link", folder, path, other_folder, other) == FAIL
               ? -1
               : real(folder, path, other_folder, other, flags);
}

int symlink(const char *target, const char *path)
{
    REAL(symlink);
    char full[PATH_MAX];
    if (plan.record >= 0) {
        full_path(full, AT_FDCWD, path);
        if (below(full) && meet("symlink", full, target, 0, NULL, 0, GROWS) == FAIL) return -1;
    }
    return real(target, path);
}

int unlink(const char *path)
{
    REAL(unlink);
    return meet_name("unlink", AT_FDCWD, path, KEEPS) == FAIL ? -1 : real(path);
}

int unlinkat(int folder, const char *path, int flags)
{
    REAL(unlinkat);
    return meet_name(flags & AT_REMOVEDIR ? "rmdir" : "unlink", folder, path, KEEPS) == FAIL
               ? -1
               : real(folder, path, flags);
}

int rmdir(const char *path)
{
    REAL(rmdir);
    return meet_name("rmdir", AT_FDCWD, path, KEEPS) == FAIL ? -1 : real(path);
}

int mkdir(const char *path, mode_t mode)
{
    REAL(mkdir);
    struct stat found;
    if (!stat(path, &found)) return real(path, mode); /* changes nothing */
    return meet_name("mkdir", AT_FDCWD, path, GROWS) == FAIL ? -1 : real(path, mode);
}

int mkdirat(int folder, const char *path, mode_t mode)
{
    REAL(mkdirat);
    return meet_name("mkdir", folder, path, GROWS) == FAIL ? -1 : real(folder, path, mode);
}
