#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/mem.h"
#include "daemon/daemon.h"

/* Below this many columns a live display would only wrap. */
#define LIVE_WIDTH_MIN 40
#define WIDTH_DEFAULT  80
#define WIDTH_MAX      1000

void rh_notify_service(const char *state)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    const char *path = getenv("NOTIFY_SOCKET");
    if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof to.sun_path)
        return;
    size_t size = strlen(path);
    memcpy(to.sun_path, path, size);
    if (path[0] == '@')
        to.sun_path[0] = '\0'; /* an abstract name */
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    /* Nobody to tell, or nobody listening: the daemon works all the same. */
    ssize_t sent = sendto(fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *)&to,
                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size));
    (void)sent;
    close(fd);
}

int rh_tty_width(int fd)
{
    struct winsize size;
    if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    const char *columns = getenv("COLUMNS");
    long width = columns ? strtol(columns, NULL, 10) : 0;
    return width > 0 && width <= WIDTH_MAX ? (int)width : WIDTH_DEFAULT;
}

bool rh_tty_is_live(int fd)
{
    const char *no_color = getenv("NO_COLOR");
    const char *term = getenv("TERM");
    if (!isatty(fd) || (no_color && *no_color))
        return false;
    if (!term || !*term || strcmp(term, "dumb") == 0)
        return false;
    return rh_tty_width(fd) >= LIVE_WIDTH_MIN;
}

char *rh_program_dir(void)
{
    char path[PATH_MAX];
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
    if (size <= 0)
        return rh_strdup(".");
    path[size] = '\0';
    char *slash = strrchr(path, '/');
    if (!slash)
        return rh_strdup(".");
    return slash == path ? rh_strdup("/") : rh_strndup(path, (size_t)(slash - path));
}

const char *rh_program_name(char **argv)
{
    const char *slash = argv[0] ? strrchr(argv[0], '/') : NULL;
    return slash ? slash + 1 : argv[0] ? argv[0] : "";
}
