/* Preloaded into a process: writes down, line by line, which files and folders it has the system write to the disk, makes, renames and
 * removes. Paths are absolute. The log is named by WITNESS_LOG. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void of_descriptor(int fd, char out[PATH_MAX]) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, out, PATH_MAX - 1);
  out[length < 0 ? 0 : length] = 0;
}

static void absolute(int folder, const char* path, char out[2 * PATH_MAX]) {
  char base[PATH_MAX] = "";
  if (path[0] == '/') {
    snprintf(out, 2 * PATH_MAX, "%s", path);
    return;
  }
  if (folder == AT_FDCWD) {
    if (!getcwd(base, sizeof base)) base[0] = 0;
  } else {
    of_descriptor(folder, base);
  }
  snprintf(out, 2 * PATH_MAX, "%s/%s", base, path);
}

static void note(const char* what, const char* path, const char* to) {
  const char* log = getenv("WITNESS_LOG");
  int fd = log ? open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
  if (fd < 0) return;
  dprintf(fd, "%s\t%s\t%s\n", what, path, to);
  close(fd);
}

int fsync(int fd) {
  int code = NEXT(fsync)(fd);
  char path[PATH_MAX];
  of_descriptor(fd, path);
  if (code == 0) note("sync", path, "");
  return code;
}

int rename(const char* from, const char* to) {
  char a[2 * PATH_MAX], b[2 * PATH_MAX];
  absolute(AT_FDCWD, from, a);
  absolute(AT_FDCWD, to, b);
  int code = NEXT(rename)(from, to);
  if (code == 0) note("rename", a, b);
  return code;
}

int mkdir(const char* path, mode_t mode) {
  int code = NEXT(mkdir)(path, mode);
  char a[2 * PATH_MAX];
  absolute(AT_FDCWD, path, a);
  if (code == 0) note("make", a, "");
  return code;
}

int unlinkat(int folder, const char* path, int flags) {
  char a[2 * PATH_MAX];
  absolute(folder, path, a);
  int code = NEXT(unlinkat)(folder, path, flags);
  if (code == 0) note("remove", a, "");
  return code;
}

int rmdir(const char* path) {
  int code = NEXT(rmdir)(path);
  char a[2 * PATH_MAX];
  absolute(AT_FDCWD, path, a);
  if (code == 0) note("remove", a, "");
  return code;
}
