#include <string.h>

#include "base/mem.h"
#include "fuzz.h"
#include "wire/message.h"

/* A message that is accepted and encoded anew is accepted again, as the same message. */
static void check_promises(const struct rh_message *m)
{
    struct rh_frames first = {0};
    struct rh_frames second = {0};
    struct rh_message again = {0};
    struct rh_error err;
    /* Repeated packed fields may grow when they are written anew, up to the limit of a body. */
    if (rh_message_encode(m->kind, m->body, &first, &err) != RH_OK)
        return;
    RH_ASSERT(rh_message_decode(first.header, sizeof first.header, first.body, first.body_size,
                                &again, &err) == RH_OK);
    RH_ASSERT(rh_message_encode(again.kind, again.body, &second, &err) == RH_OK);
    RH_ASSERT(first.body_size == second.body_size);
    RH_ASSERT(memcmp(first.body, second.body, first.body_size) == 0);
    rh_message_done(&again);
    rh_free(first.body);
    rh_free(second.body);
}

/* Two frames: 8 bytes of header and the body. A first byte of 0 has a header made for it, with the
 * kind from the second byte, so that the fuzzer need not guess the magic. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t header[RH_WIRE_HEADER_SIZE] = {'R', 'H', RH_WIRE_MAJOR};
    size_t used = size < sizeof header ? size : sizeof header;
    struct rh_message m = {0};
    struct rh_error err;
    if (size >= 2 && data[0] == 0) {
        header[3] = data[1];
        used = 2;
    } else {
        memcpy(header, data, used);
    }
    enum rh_rc rc = rh_message_decode(header, size >= 2 && data[0] == 0 ? sizeof header : used,
                                      data + used, size - used, &m, &err);
    if (rc == RH_OK)
        check_promises(&m);
    rh_message_done(&m);
    return 0;
}
