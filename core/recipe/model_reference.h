#ifndef RH_RECIPE_MODEL_REFERENCE_H
#define RH_RECIPE_MODEL_REFERENCE_H

#include <stdbool.h>

#define RH_HUB_SCHEME       "hf:"
#define RH_HUB_REPO_SIZE    97 /* 96 characters, the Hub's own bound, and the NUL */
#define RH_HUB_REVISION_MAX 200

/* A model of the Hugging Face Hub. */
struct rh_hub_name {
    char repo[RH_HUB_REPO_SIZE]; /* "owner/name" */
    char revision[RH_HUB_REVISION_MAX +
                  1]; /* branch, tag, "refs/pr/1" or commit; "main" unless given */
};

/* "owner/name" or "owner/name@revision", by the Hub's rules for names. False: it is none. */
bool rh_hub_name_parse(const char *text, struct rh_hub_name *out);

/*
 * The reference that a person's word for a model means, when it is no path: "hf:x", "hf://x" and
 * every other "scheme:x" by its scheme, "owner/name" as "hf:owner/name". What is there as a path is
 * a path: NULL, and *hides says whether it is written like a model of the Hub. Owned by caller.
 */
char *rh_model_reference(const char *given, bool *hides);
/* For people, when a path hides one; given twice. */
#define RH_MODEL_HIDES_NOTE                                                                        \
    "note: %s is taken for the path of that name, which exists; hf:%s is the model on the Hub\n"

#endif
