#include "daemon/daemon.h"

int rh_exit_code(const struct rh_error *err)
{
    switch (err->rc) {
    case RH_OK:
        return RH_EXIT_OK;
    case RH_ERR_ARGUMENT:
        return RH_EXIT_USAGE;
    case RH_ERR_REMOTE:
        return RH_EXIT_UNREACHABLE;
    case RH_ERR_NOT_FOUND:
        return RH_EXIT_NOT_FOUND;
    case RH_ERR_EXISTS:
        return RH_EXIT_REFUSED;
    case RH_ERR_AUTH:
        return RH_EXIT_DENIED;
    case RH_ERR_TIMEOUT:
        return RH_EXIT_TIMEOUT;
    case RH_ERR_CANCELLED:
        return RH_EXIT_INTERRUPTED;
    case RH_ERR_NO_MEMORY:
    case RH_ERR_IO:
    case RH_ERR_FORMAT:
    case RH_ERR_UNSUPPORTED:
    case RH_ERR_SHAPE:
    case RH_ERR_DTYPE:
    case RH_ERR_PROTOCOL:
    case RH_ERR_DEVICE:
    case RH_ERR_NUMERIC:
    case RH_ERR_INTERNAL:
    case RH_ERR_NO_SPACE:
        break;
    }
    return RH_EXIT_FAILED;
}
