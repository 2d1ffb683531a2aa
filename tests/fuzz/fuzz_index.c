#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "checkpoint/safetensors.h"
#include "fuzz.h"

/* One tensor "t" of two bytes, in a file that the index may name. */
static const char weights[] = "\x40\0\0\0\0\0\0\0"
                              "{\"t\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[0,2]}}"
                              "         \0\0";

static char dir[] = "/tmp/rh-fuzz-index-XXXXXX";
static bool made;

static void remove_directory(void)
{
    struct rh_error err;
    if (rh_fs_remove_tree(dir, &err) != RH_OK)
        fprintf(stderr, "%s\n", err.message);
}

static void make_directory(void)
{
    struct rh_error err;
    RH_ASSERT(mkdtemp(dir));
    char *path = rh_fs_join(dir, "a.safetensors");
    RH_ASSERT(rh_fs_write(path, weights, sizeof weights - 1, &err) == RH_OK);
    rh_free(path);
    made = true;
    atexit(remove_directory);
}

/* model.safetensors.index.json beside one weight file. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rh_checkpoint *c = NULL;
    struct rh_error err;
    if (!made)
        make_directory();
    char *path = rh_fs_join(dir, "model.safetensors.index.json");
    FILE *f = fopen(path, "wb");
    RH_ASSERT(f);
    RH_ASSERT(fwrite(data, 1, size, f) == size);
    RH_ASSERT(fclose(f) == 0);
    if (rh_checkpoint_open(dir, false, &c, &err) == RH_OK) {
        RH_ASSERT(rh_checkpoint_file_count(c) == 1);
        RH_ASSERT(strcmp(rh_checkpoint_file_name(c, 0), "a.safetensors") == 0);
        RH_ASSERT(rh_checkpoint_tensor_count(c) == 1);
    }
    rh_checkpoint_close(c);
    rh_free(path);
    return 0;
}
