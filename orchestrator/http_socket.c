#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "http_internal.h"

#define BACKLOG 64

union address {
    struct sockaddr any;
    struct sockaddr_un un;
    struct sockaddr_in in;
};

/* A file that stands where the socket is to be: ours to replace only when nobody answers on it. */
static enum rh_rc clear_stale(const char *path, const union address *address, struct rh_error *err)
{
    struct stat st;
    if (lstat(path, &st) != 0) {
        if (errno == ENOENT)
            return RH_OK;
        return rh_fail_errno(err, errno, "%s: could not be looked at", path);
    }
    if (!S_ISSOCK(st.st_mode))
        return rh_fail(err, RH_ERR_EXISTS, "%s: is there and is not a socket; move it away", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return rh_fail_errno(err, errno, "could not make a socket");
    int failed = connect(fd, &address->any, sizeof address->un) != 0 ? errno : 0;
    close(fd);
    /* EAGAIN: somebody listens and is busy. */
    if (failed != ECONNREFUSED && failed != ENOENT)
        return rh_fail(err, RH_ERR_EXISTS,
                       "%s: another process answers here; stop it, or use another state directory",
                       path);
    if (unlink(path) != 0 && errno != ENOENT)
        return rh_fail_errno(err, errno, "%s: could not remove the stale socket", path);
    return RH_OK;
}

static enum rh_rc bind_unix(const char *path, const union address *address, int *out_fd,
                            struct rh_error *err)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return rh_fail_errno(err, errno, "could not make a socket");
    /* On Linux the mode of the descriptor bounds that of the file, so that the file is never
     * wider open than it will be, not even between bind and chmod. */
    if (fchmod(fd, 0660) != 0 || bind(fd, &address->any, sizeof address->un) != 0 ||
        chmod(path, 0660) != 0 || listen(fd, BACKLOG) != 0) {
        int failed = errno;
        close(fd);
        return rh_fail_errno(err, failed, "%s: could not listen here", path);
    }
    *out_fd = fd;
    return RH_OK;
}

enum rh_rc rh_http_listen_unix(struct rh_http_api *api, const char *path, int *out_fd,
                               struct rh_error *err)
{
    union address address = {.un = {.sun_family = AF_UNIX}};
    struct stat st;
    size_t size = strlen(path);
    if (size >= sizeof address.un.sun_path)
        return rh_fail(err, RH_ERR_ARGUMENT,
                       "%s: %zu bytes are too long for a socket, %zu are allowed; use a shorter "
                       "run directory (--run)",
                       path, size, sizeof address.un.sun_path - 1);
    memcpy(address.un.sun_path, path, size);
    enum rh_rc rc = clear_stale(path, &address, err);
    if (rc == RH_OK)
        rc = bind_unix(path, &address, out_fd, err);
    if (rc != RH_OK)
        return rc;
    api->unix_path = rh_strdup(path);
    if (stat(path, &st) == 0) {
        api->socket_dev = st.st_dev;
        api->socket_ino = st.st_ino;
    }
    return RH_OK;
}

enum rh_rc rh_http_listen_tcp(int port, int *out_fd, struct rh_error *err)
{
    int on = 1;
    if (port < 1 || port > 65535)
        return rh_fail(err, RH_ERR_ARGUMENT, "%d is not a port; it must be from 1 to 65535", port);
    union address address = {.in = {.sin_family = AF_INET,
                                    .sin_port = htons((uint16_t)port),
                                    .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return rh_fail_errno(err, errno, "could not make a socket");
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(fd, &address.any, sizeof address.in) != 0 || listen(fd, BACKLOG) != 0) {
        int failed = errno;
        close(fd);
        return rh_fail_errno(err, failed, "127.0.0.1:%d: could not listen here", port);
    }
    *out_fd = fd;
    return RH_OK;
}

/* Every user of the machine reaches 127.0.0.1; only who can read this file may change anything. */
enum rh_rc rh_http_make_token(struct rh_http_api *api, struct rh_error *err)
{
    uint8_t bytes[32];
    const char *slash = strrchr(api->unix_path, '/');
    size_t dir_size = slash ? (size_t)(slash - api->unix_path) + 1 : 0;
    api->token_path = rh_format("%.*shttp-token", (int)dir_size, api->unix_path);
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return rh_fail_errno(err, errno, "no random bytes for %s", api->token_path);
    rh_sha256_hex(bytes, api->token);
    if (unlink(api->token_path) != 0 && errno != ENOENT)
        return rh_fail_errno(err, errno, "%s: could not be replaced", api->token_path);
    int fd = open(api->token_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return rh_fail_errno(err, errno, "%s: could not be made", api->token_path);
    ssize_t written = write(fd, api->token, strlen(api->token));
    int failed = errno;
    close(fd);
    if (written != (ssize_t)strlen(api->token))
        return rh_fail_errno(err, failed, "%s: could not be written", api->token_path);
    return RH_OK;
}

void rh_http_remove_files(struct rh_http_api *api)
{
    struct stat st;
    if (api->token_path)
        unlink(api->token_path);
    if (api->unix_path && stat(api->unix_path, &st) == 0 && st.st_dev == api->socket_dev &&
        st.st_ino == api->socket_ino)
        unlink(api->unix_path);
}
