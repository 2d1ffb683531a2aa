#include <string.h>

#include "base/mem.h"
#include "fuzz.h"
#include "text/tokenizer.h"

/* What makes a difference to a tokenizer: classes of characters, added tokens, contractions. */
static const char text[] = "Hello, it's a <|x|> test\r\n\n 123 na\xC3\xAFve e\xCC\x81 \xE6\xBC\xA2"
                           "\xE5\xAD\x97 \xF0\x9F\x98\x80\xE2\x80\x8D \xE3\x80\x80 <L> aab abab";

/* Ids must be tokens; together their bytes are what the text became. */
static void check_promises(struct rh_tokenizer *t, const char *bytes, size_t size)
{
    struct rh_ids ids = {0};
    struct rh_error err;
    if (rh_tokenizer_encode(t, bytes, size, 0, &ids, &err) == RH_OK) {
        for (size_t i = 0; i < ids.count; i++) {
            size_t token = 0;
            RH_ASSERT(ids.ids[i] >= 0 && ids.ids[i] < rh_tokenizer_size(t));
            RH_ASSERT(rh_tokenizer_token(t, ids.ids[i], &token));
        }
    }
    rh_ids_done(&ids);
}

/* A tokenizer.json. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rh_tokenizer *t = NULL;
    struct rh_error err;
    if (rh_tokenizer_parse((const char *)data, size, "input", NULL, &t, &err) == RH_OK) {
        check_promises(t, text, sizeof text - 1);
        check_promises(t, (const char *)data, size);
    }
    rh_tokenizer_free(t);
    return 0;
}
