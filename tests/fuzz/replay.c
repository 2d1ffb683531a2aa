#include <stdio.h>

#include "base/fs.h"
#include "base/mem.h"
#include "fuzz.h"

/* Runs a fuzz target over a corpus: every file of the directory given, cut at every byte as well.
 */
int main(int argc, char **argv)
{
    char **names = NULL;
    size_t count = 0;
    struct rh_error err = {0};
    enum rh_rc rc = RH_OK;
    if (argc != 2) {
        fprintf(stderr, "usage: %s <corpus directory>\n", argv[0]);
        return 2;
    }
    rc = rh_fs_list(argv[1], &names, &count, &err);
    for (size_t i = 0; i < count && !rc; i++) {
        char *path = rh_fs_join(argv[1], names[i]);
        char *text = NULL;
        size_t size = 0;
        rc = rh_fs_read(path, 1 << 20, &text, &size, &err);
        for (size_t cut = 0; cut <= size && !rc; cut++)
            LLVMFuzzerTestOneInput((const uint8_t *)text, cut);
        rh_free(text);
        rh_free(path);
    }
    rh_fs_list_free(names, count);
    if (rc || count == 0) {
        fprintf(stderr, "%s: %s\n", argv[1], rc ? err.message : "empty corpus");
        return 1;
    }
    printf("%zu inputs replayed\n", count);
    return 0;
}
