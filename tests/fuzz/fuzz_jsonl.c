#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "calibrate/document.h"
#include "fuzz.h"

/* A line of JSON Lines. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = NULL;
    struct rh_error err;
    if (rh_document_from_json((const char *)data, size, NULL, "line 1", &text, &err) == RH_OK) {
        size_t length = strlen(text);
        size_t stripped = rh_document_stripped(text, length);
        RH_ASSERT(rh_utf8_valid(text, length, NULL));
        RH_ASSERT(stripped <= length && rh_utf8_valid(text, stripped, NULL));
        RH_ASSERT(rh_document_stripped(text, stripped) == stripped);
    }
    rh_free(text);
    return 0;
}
